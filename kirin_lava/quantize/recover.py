"""Recovery: training against the float original, with the integer network's quantisers in the loop, see `Student`.

    loss      distill: mean over positions of KL(float || student), from the first layer to the logits; of an encoder without a
              head the squared error of the last states
              blocks: squared error of every block's output, one block after the other, on the student's own inputs

The state of least loss on rows that are held out, or on the first ones, is kept. The same seed on the same machine gives the
same bytes, where steps are counted and not minutes. Source of the distillation loss: Hinton et al., arXiv 1503.02531.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models import float_model
from kirin_lava.quantize.student import Layer, Student

__all__ = ["recover"]

Report = Callable[[str, int, int], None]

_BATCH, _HELD_OUT, _CHECKS = 4, 16, 8
_MEASURED = 16  # rows on which the error of a block is measured
_BETAS, _WARM_UP = (0.9, 0.95), 10


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


def recover(student: Student, rows: list[Tensor], seed: int, report: Report, saved: Path | None = None) -> list[Layer]:
    """Train the student as its recipe says and return its layers.

    Args:
        rows: calibration sequences (L,); those of the most common length are used, and every sixteenth of them is held out.
        saved: file for the state of an interrupted training; removed by whoever owns it.

    Raises:
        UsageError: too little text.
    """
    common = Counter(map(len, rows)).most_common(1)[0][0]
    data = torch.stack([row for row in rows if len(row) == common]).to(student.device)
    held = data[_HELD_OUT // 2 :: _HELD_OUT] if len(data) >= _HELD_OUT else data[:1]
    data = torch.stack([row for i, row in enumerate(data) if i % _HELD_OUT != _HELD_OUT // 2 or len(data) < _HELD_OUT])
    if len(rows) < 2 or not len(data):
        raise UsageError("recovery needs at least two rows of calibration text: raise --num-samples or give a longer text")
    if student.recipe.recovery.method == "blocks":
        _train_blocks(student, data, seed, report, saved)
    else:
        _distill(student, data, held, seed, report, saved)
    return student.result()


def _distill(student: Student, data: Tensor, held: Tensor, seed: int, report: Report, saved: Path | None) -> None:
    length = Length.of(student.recipe)
    with torch.no_grad():
        wanted = [_goal(student, batch) for batch in held.split(_BATCH)]

    @torch.no_grad()
    def measure() -> float:
        total = 0.0
        for batch, target in zip(held.split(_BATCH), wanted, strict=True):
            total += float(_distance(student, target, student.logits(batch))) * len(batch)
        return total / len(held)

    def loss(ids: Tensor) -> Tensor:
        with torch.no_grad():
            target = _goal(student, ids)
        return _distance(student, target, student.logits(ids))

    def told(done: int, total: int, now: float) -> None:
        word = f"divergence {now:.4f} nats" if student.has_logits else f"error {now:.4f}"
        report(f"distill, {word}", done, total)

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


def _goal(student: Student, ids: Tensor) -> Tensor:
    """What the student is to come near: log-probabilities of the float original, or its states."""
    target = student.teacher(ids)
    return target.log_softmax(-1) if student.has_logits else target


def _distance(student: Student, goal: Tensor, answer: Tensor) -> Tensor:
    return _divergence(goal, answer) if student.has_logits else F.mse_loss(answer, goal) / goal.square().mean()


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
