"""Rival quantisers at equal bits, run on the float model and scored like everything else.

They are held against a recipe and get what it gets: weights of the same bits, rounded by the same method for the rival's own
inputs, the same text, an 8-bit head, and where they treat channels apart, as large a share of them at every dense layer as the
recipe may send outliers there. What differs is how the input of a dense layer becomes 4 bits:

    symmetric     one step per token, codes -7..7, nothing larger
    min-max       one step and zero per token, 16 levels
    channel       calibrated channels 8 bit, the rest 4 bit symmetric (LLM.int8, 2208.07339; Atom, 2310.19102)
    w8a8          8-bit weights and activations

Their papers leave attention in float or treat it each in another way. Here all of it is 8 bit for every rival, queries and
probabilities too, where ours are 4-bit spikes and few outliers: more bits than ours, so that none is worse for our choice.
They are simulated in float (fake quantisation), which flatters them a little more: none of them has an integer form that a
stock neuromorphic chip runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from kirin_lava.methods.recipe import Recipe, WeightSpec
from kirin_lava.methods.site import Site
from kirin_lava.models import float_model
from kirin_lava.models.checkpoint import Checkpoint
from kirin_lava.models.float_model import Arithmetic
from kirin_lava.models.layout import Attention, Dense, FloatBlock
from kirin_lava.quantize.convert import rotary_of
from kirin_lava.quantize.weights import quantize_weight
from kirin_lava.spikes.steps import message_budget

__all__ = ["RIVALS", "RivalModel", "build_rival"]

RIVALS = ("symmetric", "min-max", "channel", "w8a8")


def symmetric(x: Tensor, largest_code: int) -> Tensor:
    """Rows (..., K) rounded to `-largest_code..largest_code` with a step each."""
    step = (x.abs().amax(-1, keepdim=True) / largest_code).clamp_min(1e-20)
    return torch.round(x / step) * step


def min_max(x: Tensor, levels: int) -> Tensor:
    """Rows (..., K) rounded to `levels` + 1 values between their minimum and maximum."""
    low, high = x.amin(-1, keepdim=True).clamp_max(0), x.amax(-1, keepdim=True).clamp_min(0)
    step = ((high - low) / levels).clamp_min(1e-20)
    zero = torch.round(-low / step)
    return (torch.round(x / step) + zero).clamp(0, levels).sub(zero) * step


@dataclass
class _Rules(Arithmetic):
    """Arithmetic of one block under a rival. salient: channels (K,) by dense layer."""

    watches_attention: ClassVar[bool] = True
    kind: str
    weights: dict[str, Tensor] = field(default_factory=dict)
    salient: dict[str, Tensor] = field(default_factory=dict)

    def input(self, name: str, x: Tensor) -> Tensor:
        """A dense layer's input as the rival sends it."""
        if self.kind in ("symmetric", "w8a8"):
            return symmetric(x, 127 if self.kind == "w8a8" else 7)
        if self.kind == "min-max":
            return min_max(x, 15)
        chosen, y = self.salient[name], torch.empty_like(x)
        y[..., chosen], y[..., ~chosen] = symmetric(x[..., chosen], 127), symmetric(x[..., ~chosen], 7)
        return y

    def sent(self, op: Dense | Attention, side: str, x: Tensor) -> Tensor:
        if isinstance(op, Dense):
            return self.input(op.name, x)
        if side != "p":
            return symmetric(x, 127)
        step = (x.amax(-1, keepdim=True) / 255).clamp_min(1e-20)
        return torch.round(x / step) * step

    def weight(self, op: Dense) -> Tensor:
        return self.weights.get(op.name, op.weight)


class RivalModel:
    """A whole model under a rival; `forward` is that of `reference.Executor`."""

    def __init__(self, checkpoint: Checkpoint, blocks: list[tuple[FloatBlock, _Rules]]):
        self.device = torch.device("cpu")
        self._embedding = checkpoint.family.embedding(checkpoint.config, checkpoint.load)
        self._rotary = rotary_of(checkpoint)
        self._blocks = blocks

    @torch.inference_mode()
    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, vocabulary) logits."""
        x = float_model.embed(self._embedding, tokens)
        for block, rules in self._blocks:
            x = float_model.run_block(block, x, self._rotary, arithmetic=rules)
        return x


@torch.inference_mode()
def build_rival(checkpoint: Checkpoint, kind: str, tokens: Sequence[Tensor], recipe: Recipe) -> RivalModel:
    """Calibrate and round a model the rival's way.

    Args:
        kind: one of `RIVALS`. tokens: calibration sequences (L,). recipe: whose weight rounding and shares of outliers it gets.
    """
    family, config = checkpoint.family, checkpoint.config
    spec = WeightSpec(bits=8, method=recipe.weights.method) if kind == "w8a8" else recipe.weights
    rotary = rotary_of(checkpoint)
    embedding = family.embedding(config, checkpoint.load)
    rows = [float_model.embed(embedding, row.unsqueeze(0)) for row in tokens]
    blocks = []
    for index in range(checkpoint.dimensions.layers):
        block = family.block(config, index, checkpoint.load)
        rules = _Rules(kind)
        inputs: dict[str, list[Tensor]] = {op.name: [] for op in block.denses()}

        def keep(op: object, values: dict[str, Tensor], inputs: dict[str, list[Tensor]] = inputs) -> None:
            if isinstance(op, Dense):
                inputs[op.name].append(values[op.input].flatten(0, -2))

        following = [float_model.run_block(block, x, rotary, keep) for x in rows]
        for op in block.denses():
            rule = recipe.method.coding(Site(block.name, op.name), recipe.options).rule
            share = float(getattr(rule, "ratio", 0.1))
            _calibrate(rules, op, torch.cat(inputs[op.name]), spec, share)
        blocks.append((block, rules))
        rows = following
    head = family.head(config, checkpoint.load)
    rules = _Rules("w8a8")  # the head is 8 bit for everyone
    for op in head.denses():
        rules.weights[op.name] = torch.from_numpy(quantize_weight(op.weight, WeightSpec(bits=8)).dequantized())
    return RivalModel(checkpoint, [*blocks, (head, rules)])


def _calibrate(rules: _Rules, op: Dense, x: Tensor, spec: WeightSpec, share: float) -> None:
    """Salient channels and rounded weights of one dense layer from its inputs (tokens, K)."""
    count = max(1, message_budget(share, x.shape[1]))
    if rules.kind == "channel":
        rules.salient[op.name] = _largest(x.abs().amax(0), count)
    sent = rules.input(op.name, x)
    moments = sent.T @ sent if spec.method == "gptq" else None
    rules.weights[op.name] = torch.from_numpy(quantize_weight(op.weight, spec, moments).dequantized())


def _largest(saliency: Tensor, count: int) -> Tensor:
    chosen = torch.zeros(len(saliency), dtype=torch.bool)
    chosen[saliency.topk(count).indices] = True
    return chosen
