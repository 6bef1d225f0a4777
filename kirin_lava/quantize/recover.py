"""Recovery: training against the float original, with the integer network's quantisers in the loop.

    codes     weight[n, k] = exp(log_scale[n]) * round(clip(latent[n, k]))     straight through
    loss      distill: mean over positions of KL(float || student), from the first layer to the logits
              blocks: squared error of every block's output, one block after the other, on the student's own inputs
    trained   latents of the codes, scales, biases of what is read out, gains of the norms; where the method says so, the steps
              and biases of what fires
    result    plain integers, scales and float vectors: exact like everything else

The state of least loss on rows that are held out, or on the first ones, is kept. The same seed on the same machine gives the
same bytes, where steps are counted and not minutes. Source of the
distillation loss: Hinton et al., arXiv 1503.02531; of the straight-through gradient: Bengio et al., arXiv 1308.3432.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.ops import HostOp, Norm, Relu
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models import float_model
from kirin_lava.models.float_model import FloatRun
from kirin_lava.models.layout import Dense, FloatBlock, FloatEmbedding, FloatOp
from kirin_lava.quantize.sites import Calibration, Coded, Sites, straight_through
from kirin_lava.quantize.weights import WeightCodes, grid_of

__all__ = ["Layer", "Student", "Trained", "recover"]

Report = Callable[[str, int, int], None]
Rotary = tuple[Tensor, Tensor]

_BATCH, _HELD_OUT, _CHECKS = 4, 16, 8
_MEASURED = 16  # rows on which the error of a block is measured
_LEARNING_RATE = {"latent": 1e-2, "log_scale": 2e-3, "bias": 2e-3, "gain": 2e-3, "log_step": 2e-3}  # latents in units of a code
_BETAS, _WARM_UP = (0.9, 0.95), 10


@dataclass
class Layer:
    """One block on its way to the graph.

    Attributes:
        block: float operations, with the biases that rounding asks for.
        codes: integer weights by name of the dense layer.
        original: the layer as the checkpoint has it, where `block` has other biases: what a student learns from.
    """

    block: FloatBlock
    calibration: Calibration
    codes: dict[str, WeightCodes] = field(default_factory=dict)
    original: FloatBlock | None = None

    @property
    def teacher(self) -> FloatBlock:
        """The float layer that is converted."""
        return self.original or self.block


@dataclass(frozen=True)
class Length:
    """How long a training is: so many steps, or so many seconds."""

    steps: int
    seconds: float | None

    @staticmethod
    def of(recipe: Recipe, stages: int = 1) -> Length:
        """Of one stage, as a recipe says."""
        spec = recipe.recovery
        return Length(max(1, spec.steps // stages), None if spec.minutes is None else 60 * spec.minutes / stages)

    def share(self, step: int, spent: float) -> float:
        """How much of it is over, 1 at its end."""
        return step / self.steps if self.seconds is None else min(1.0, spent / self.seconds)

    def progress(self, step: int, spent: float) -> tuple[int, int]:
        """Done and total, in steps or whole seconds, of which there is at least one."""
        if self.seconds is None:
            return step, self.steps
        total = math.ceil(self.seconds)
        return min(int(spent), total), total


class Trained(Coded):
    """Arithmetic of one block of the student.

    Args:
        weights: trained weights (N, K) by name of the dense layer, in the units of its input codes where those are fired.
        biases: trained biases (N,) by name of the dense layer. gains: trained weights of norms, by name.
        steps: trained logarithms (N,) of the steps of what a dense layer fires, by its name.
    """

    def __init__(
        self,
        sites: Sites,
        weights: dict[str, Tensor],
        biases: dict[str, Tensor] | None = None,
        gains: dict[str, Tensor] | None = None,
        steps: dict[str, Tensor] | None = None,
    ):
        super().__init__(sites)
        self._weights, self._biases, self._gains, self._steps = weights, biases or {}, gains or {}, steps or {}

    def weight(self, op: Dense) -> Tensor:
        return self._weights.get(op.name, op.weight)

    def bias(self, op: Dense) -> Tensor | None:
        return self._biases.get(op.name, op.bias)

    def gain(self, op: Norm) -> Tensor:
        return self._gains[op.name] if op.name in self._gains else super().gain(op)

    def host(self, op: HostOp, values: dict[str, Tensor], run: FloatRun) -> Tensor:
        """A ReLU that neurons compute gives codes, not values: their steps are in the weights that read them."""
        first = self.sites.fired_by(op.output) if isinstance(op, Relu) else None
        if first is None:
            return super().host(op, values, run)
        x = values[op.input]
        code = self.sites.input_code(next(d for d in self.sites.block.denses() if d.name == self.sites.firing[first]))
        assert code.spike_codes is not None
        if first in self._steps:
            scaled = x / self._steps[first].exp()
        else:
            scaled = x / torch.from_numpy(self.sites.calibration.output_steps[first]).to(x)
        inside = scaled.clamp(0, code.spike_codes[1])
        return straight_through(inside, inside.detach().round())


class Student:
    """All layers as trainable tensors.

    Args:
        layers: decoder layers with rounded weights; the last is the head, which has none and stays as it is.
        device: of all tensors.
    """

    def __init__(
        self, embedding: FloatEmbedding, layers: list[Layer], recipe: Recipe, rotary: Rotary | None, device: str = "cpu"
    ):
        self.layers = [_moved(layer, device) for layer in layers]
        self.recipe, self.device = recipe, torch.device(device)
        self.rotary = None if rotary is None else (rotary[0].to(device), rotary[1].to(device))
        positions = None if embedding.positions is None else embedding.positions.to(device)
        self._embedding = FloatEmbedding(embedding.tokens.to(device), positions, embedding.position_offset)
        grid = grid_of(recipe.weights)
        self._limits = (grid.low, grid.high)
        self.trained: dict[str, Tensor] = {}
        for layer in layers:
            firing = Sites(layer.block, recipe).firing
            for op in layer.block.ops:
                name = f"{layer.block.name}/{op.name}"
                if isinstance(op, Norm):
                    self.trained[f"{name}/gain"] = torch.from_numpy(op.weight.copy())
                elif isinstance(op, Dense) and op.name in layer.codes and layer.block.name != "head":
                    codes = layer.codes[op.name]
                    self.trained[f"{name}/latent"] = torch.from_numpy(codes.weight).float()
                    self.trained[f"{name}/log_scale"] = torch.from_numpy(codes.scale).log()
                    if op.name in firing and recipe.method.trains_firing:
                        self.trained[f"{name}/log_step"] = torch.from_numpy(layer.calibration.output_steps[op.name]).log()
                    if op.name not in firing or recipe.method.trains_firing:  # else the offset of a fire phase is fixed
                        self.trained[f"{name}/bias"] = torch.zeros(len(op.weight)) if op.bias is None else op.bias.clone()
        self.trained = {name: tensor.to(device) for name, tensor in self.trained.items()}

    def teacher(self, ids: Tensor) -> Tensor:
        """Logits of the float original, (B, L, vocabulary)."""
        x = float_model.embed(self._embedding, ids)
        for layer in self.layers:
            x = float_model.run_block(layer.teacher, x, self.rotary)
        return x

    def logits(self, ids: Tensor) -> Tensor:
        """Logits of the student, (B, L, vocabulary)."""
        x = float_model.embed(self._embedding, ids)
        for layer in self.layers:
            x = self.run(layer, x)
        return x

    def embed(self, ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, width)."""
        return float_model.embed(self._embedding, ids)

    def run(self, layer: Layer, x: Tensor) -> Tensor:
        """One layer with its quantisers and trained tensors."""
        parts: dict[str, dict[str, Tensor]] = {"weight": {}, "bias": {}, "gain": {}, "log_step": {}}
        for op in layer.block.ops:
            name = f"{layer.block.name}/{op.name}"
            if f"{name}/latent" in self.trained:
                latent = self.trained[f"{name}/latent"].clamp(*self._limits)
                integers = straight_through(latent, latent.detach().round())
                parts["weight"][op.name] = integers * self.trained[f"{name}/log_scale"].exp()[:, None]
            for kind in ("bias", "gain", "log_step"):
                if f"{name}/{kind}" in self.trained:
                    parts[kind][op.name] = self.trained[f"{name}/{kind}"]
        sites = Sites(layer.block, self.recipe, layer.calibration)
        rules = Trained(sites, parts["weight"], parts["bias"], parts["gain"], parts["log_step"])
        return float_model.run_block(layer.block, x, self.rotary, arithmetic=rules)

    def parameters(self, layer: Layer | None = None) -> list[dict[str, Any]]:
        """Groups for an optimiser, of one layer or of all, each with its peak learning rate."""
        prefix = "" if layer is None else f"{layer.block.name}/"
        return [
            {"params": [tensor], "peak": _LEARNING_RATE[name.rsplit("/", 1)[1]]}
            for name, tensor in self.trained.items()
            if name.startswith(prefix)
        ]

    @torch.no_grad()
    def result(self) -> list[Layer]:
        """The layers with trained integers, biases and gains."""
        self.trained = {name: tensor.detach().cpu() for name, tensor in self.trained.items()}
        return [self._finished(_moved(layer, "cpu")) for layer in self.layers]

    def _finished(self, layer: Layer) -> Layer:
        ops: list[FloatOp] = []
        codes = {}
        steps = dict(layer.calibration.output_steps)
        for op in layer.block.ops:
            name = f"{layer.block.name}/{op.name}"
            if isinstance(op, Norm):
                ops.append(replace(op, weight=self.trained[f"{name}/gain"].detach().numpy().copy()))
                continue
            if isinstance(op, Dense) and f"{name}/latent" in self.trained:
                integers = self.trained[f"{name}/latent"].clamp(*self._limits).round()
                scale = self.trained[f"{name}/log_scale"].exp()
                codes[op.name] = WeightCodes(integers.to(torch.int8).numpy(), scale.detach().numpy().copy())
                if f"{name}/bias" in self.trained:
                    op = replace(op, bias=self.trained[f"{name}/bias"].detach().clone())
                if f"{name}/log_step" in self.trained:
                    steps[op.name] = self.trained[f"{name}/log_step"].exp().detach().numpy().copy()
            ops.append(op)
        calibration = replace(layer.calibration, output_steps=steps)
        return Layer(FloatBlock(layer.block.name, tuple(ops), layer.block.output), calibration, codes)


def recover(student: Student, rows: list[Tensor], seed: int, report: Report, saved: Path | None = None) -> list[Layer]:
    """Train the student as its recipe says and return its layers.

    Args:
        rows: calibration sequences (L,), all of one length; every sixteenth is held out.
        saved: file for the state of an interrupted training; removed by whoever owns it.

    Raises:
        UsageError: too little text.
    """
    data = torch.stack([row for row in rows if len(row) == len(rows[0])]).to(student.device)
    held = data[_HELD_OUT // 2 :: _HELD_OUT] if len(data) >= _HELD_OUT else data[:1]
    data = torch.stack([row for i, row in enumerate(data) if i % _HELD_OUT != _HELD_OUT // 2 or len(data) < _HELD_OUT])
    if len(rows) < 2:
        raise UsageError("recovery needs at least two rows of calibration text: raise --num-samples or give a longer text")
    if student.recipe.recovery.method == "blocks":
        _train_blocks(student, data, seed, report, saved)
    else:
        _distill(student, data, held, seed, report, saved)
    return student.result()


def _distill(student: Student, data: Tensor, held: Tensor, seed: int, report: Report, saved: Path | None) -> None:
    length = Length.of(student.recipe)
    with torch.no_grad():
        wanted = [student.teacher(batch).log_softmax(-1) for batch in held.split(_BATCH)]

    @torch.no_grad()
    def measure() -> float:
        total = 0.0
        for batch, target in zip(held.split(_BATCH), wanted, strict=True):
            total += float(_divergence(target, student.logits(batch))) * len(batch)
        return total / len(held)

    def loss(ids: Tensor) -> Tensor:
        with torch.no_grad():
            target = student.teacher(ids).log_softmax(-1)
        return _divergence(target, student.logits(ids))

    def told(done: int, total: int, now: float) -> None:
        report(f"distill, divergence {now:.4f} nats", done, total)

    _train(student, student.parameters(), loss, measure, data, length, seed, told, saved)


def _train_blocks(student: Student, data: Tensor, seed: int, report: Report, saved: Path | None) -> None:
    decoder = student.layers[:-1]
    length = Length.of(student.recipe, len(decoder))
    reached = 0
    if saved is not None and saved.exists():
        state = torch.load(saved, weights_only=True)
        reached = state["stage"]
        student.trained = {name: state["trained"][name].detach().to(x.device) for name, x in student.trained.items()}
    with torch.no_grad():
        exact = ours = student.embed(data)
    for index, layer in enumerate(decoder):
        with torch.no_grad():
            target = torch.cat([float_model.run_block(layer.teacher, x, student.rotary) for x in exact.split(_BATCH)])
        inputs, power = ours, target.square().mean()

        def loss(chosen: Tensor, layer: Layer = layer, inputs: Tensor = inputs, target: Tensor = target) -> Tensor:
            return F.mse_loss(student.run(layer, inputs[chosen]), target[chosen]) / target.square().mean()

        @torch.no_grad()
        def measure(layer: Layer = layer, inputs: Tensor = inputs, target: Tensor = target, power: Tensor = power) -> float:
            parts = zip(inputs[:_MEASURED].split(_BATCH), target[:_MEASURED].split(_BATCH), strict=True)
            errors = [F.mse_loss(student.run(layer, x), y) * len(x) for x, y in parts]
            return float(sum(errors) / len(inputs[:_MEASURED]) / power)

        def told(done: int, total: int, now: float, index: int = index) -> None:
            report(f"reconstruct block {index}, error {now:.4f}", index * total + done, len(decoder) * total)

        if index >= reached:
            rows = torch.arange(len(data), device=data.device)
            _train(student, student.parameters(layer), loss, measure, rows, length, seed + index, told, saved, stage=index)
        exact = target
        with torch.no_grad():
            ours = torch.cat([student.run(layer, x) for x in ours.split(_BATCH)])


def _divergence(target: Tensor, logits: Tensor) -> Tensor:
    """Mean over positions of KL(target || softmax(logits)); target: log-probabilities."""
    return (target.exp() * (target - logits.log_softmax(-1))).sum(-1).mean()


def _train(
    student: Student,
    groups: list[dict[str, Any]],
    loss: Callable[[Tensor], Tensor],
    measure: Callable[[], float],
    data: Tensor,
    length: Length,
    seed: int,
    report: Callable[[int, int, float], None],
    saved: Path | None,
    stage: int = 0,
) -> None:
    """Adam with warm-up and cosine; ends with the best state that was measured in the student.

    `report` is told what is done and the whole, in steps or seconds, and the loss when it was last measured. `stage` numbers
    the trainings that share the file `saved`.
    """
    tensors = [tensor for group in groups for tensor in group["params"]]
    for tensor in tensors:
        tensor.requires_grad_(True)
    optimizer = torch.optim.Adam(groups, lr=0.0, betas=_BETAS)
    state: dict[str, Any] = torch.load(saved, weights_only=True) if saved is not None and saved.exists() else {"stage": None}
    if state["stage"] == stage:
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for tensor, value in zip(tensors, state["tensors"], strict=True):
                tensor.copy_(value)
        step, spent, best, kept, now = state["step"], state["spent"], state["best"], state["kept"], measure()
    else:
        step, spent, best, kept = 0, 0.0, measure(), [tensor.detach().clone() for tensor in tensors]
        now = best
    batches = islice(_batches(len(data), seed), step, None)
    begun = time.monotonic() - spent
    share = length.share(step, spent)
    warm = state.get("warm", 0.0)
    while share < 1:
        warm = share if step <= _WARM_UP else warm
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _schedule(step, share, warm)
        optimizer.zero_grad()
        value = loss(data[next(batches).to(data.device)])
        value.backward()
        optimizer.step()
        before, step, spent = share, step + 1, time.monotonic() - begun
        share = length.share(step, spent)
        if int(share * _CHECKS) > int(before * _CHECKS):
            now = measure()
            if now < best:
                best, kept = now, [tensor.detach().clone() for tensor in tensors]
            if saved is not None:
                part = saved.with_suffix(".part")
                state = {"stage": stage, "step": step, "spent": spent, "best": best, "kept": kept, "warm": warm}
                torch.save(state | {"tensors": tensors, "optimizer": optimizer.state_dict(), "trained": student.trained}, part)
                part.replace(saved)
        report(*length.progress(step, spent), now)
    with torch.no_grad():
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(value)
            tensor.requires_grad_(False)


def _moved(layer: Layer, device: str) -> Layer:
    """The layer with the weights of its dense layers on a device."""
    original = None if layer.original is None else _block_moved(layer.original, device)
    return Layer(_block_moved(layer.block, device), layer.calibration, layer.codes, original)


def _block_moved(block: FloatBlock, device: str) -> FloatBlock:
    ops = []
    for op in block.ops:
        if isinstance(op, Dense):
            op = replace(op, weight=op.weight.to(device), bias=None if op.bias is None else op.bias.to(device))
        ops.append(op)
    return replace(block, ops=tuple(ops))


def _batches(rows: int, seed: int) -> Iterator[Tensor]:
    """Indices of `_BATCH` rows at a time without end, every row once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < _BATCH:
            waiting = torch.cat([waiting, torch.randperm(rows, generator=generator)])
        yield waiting[:_BATCH]
        waiting = waiting[_BATCH:]


def _schedule(step: int, share: float, warm: float) -> float:
    """Factor of the learning rate: rising, then half a cosine.

    Args:
        share: of the whole training that is over. warm: what was over of it after `_WARM_UP` steps.
    """
    if step < _WARM_UP:
        return (step + 1) / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - warm) / (1 - warm)))
