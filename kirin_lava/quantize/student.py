"""The student of a training: all layers as tensors with gradients, the integer network's quantisers in the loop.

    codes     weight[n, k] = exp(log_scale[n]) * round(clip(latent[n, k]))     straight through
    trained   latents of the codes, scales, biases of what is read out, gains of the norms; where the method says so, the steps
              and biases of what fires
    result    plain integers, scales and float vectors: exact like everything else

Source of the straight-through gradient: Bengio et al., arXiv 1308.3432.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kirin_lava.graph.ops import HostOp, Norm, Relu
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models import float_model
from kirin_lava.models.float_model import FloatRun
from kirin_lava.models.layout import Dense, FloatBlock, FloatEmbedding, FloatOp
from kirin_lava.quantize.sites import Calibration, Coded, Sites, straight_through
from kirin_lava.quantize.weights import WeightCodes, grid_of

__all__ = ["Layer", "Student", "Trained"]

Rotary = tuple[Tensor, Tensor]

_LEARNING_RATE = {"latent": 1e-2, "log_scale": 2e-3, "bias": 2e-3, "gain": 2e-3, "log_step": 2e-3}  # latents in units of a code


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
        device: of all tensors. of_first: whether the head is that of the first token alone.

    Attributes:
        has_logits: whether there is a head; an encoder may have none.
    """

    def __init__(
        self,
        embedding: FloatEmbedding,
        layers: list[Layer],
        recipe: Recipe,
        rotary: Rotary | None,
        device: str = "cpu",
        of_first: bool = False,
    ):
        self.has_logits, self._of_first = bool(layers[-1].block.ops), of_first
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
        """Logits of the float original, (B, L, vocabulary); states where there is no head."""
        x = float_model.embed(self._embedding, ids)
        for layer in self.layers[:-1]:
            x = float_model.run_block(layer.teacher, x, self.rotary)
        return float_model.run_block(self.layers[-1].teacher, x[:, :1] if self._of_first else x, self.rotary)

    def logits(self, ids: Tensor) -> Tensor:
        """The same of the student."""
        x = float_model.embed(self._embedding, ids)
        for layer in self.layers[:-1]:
            x = self.run(layer, x)
        return self.run(self.layers[-1], x[:, :1] if self._of_first else x)

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
