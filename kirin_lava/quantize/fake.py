"""The student: the float twin with the integer network's quantisers in it, differentiable.

Every value that becomes a code is rounded exactly as `kirin_lava.graph.host` rounds it, and passes gradients straight
through; steps
are constants to the gradient. What counts in the end is measured with the integer executor.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from kirin_lava.graph import host
from kirin_lava.graph.host import Codes
from kirin_lava.graph.ops import Encode, Norm
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models.float_model import Arithmetic
from kirin_lava.models.layout import Attention, Dense, FloatBlock, Relu
from kirin_lava.quantize.calibrate import Calibration, fires_into
from kirin_lava.spikes.codes.coding import INTEGER8, Encoding

__all__ = ["FakeQuantized", "straight_through"]


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """`quantized` forward, the identity backward."""
    return x + (quantized - x).detach()


class FakeQuantized(Arithmetic):
    """Arithmetic of one block of the student.

    Args:
        recipe, calibration: as the block is lowered.
        block: the float block.
        weights: trained weights (N, K) by name of the dense layer, in the units of its input codes where those were fired.
        biases: trained biases (N,) by name of the dense layer. gains: trained weights of norms, by name.
    """

    def __init__(
        self,
        recipe: Recipe,
        calibration: Calibration,
        block: FloatBlock,
        weights: Mapping[str, Tensor],
        biases: Mapping[str, Tensor],
        gains: Mapping[str, Tensor],
    ):
        self._recipe, self._calibration, self._block = recipe, calibration, block.name
        self._weights, self._biases, self._gains = weights, biases, gains
        self._fired = set(fires_into(block).values())
        self._writers = {op.output: op.name for op in block.denses()}

    def dense(self, op: Dense, x: Tensor) -> Tensor:
        """Codes times trained integers, both straight through."""
        if op.name not in self._fired:
            x = self._sent(op, x)
        weight = self._weights.get(op.name, op.weight)
        return F.linear(x, weight, self._biases.get(op.name, op.bias))

    def relu(self, op: Relu, x: Tensor) -> Tensor:
        """Fired codes, clipped to the spike range; the next dense layer's weights are in their units."""
        scaled = x / torch.from_numpy(self._calibration.fire_steps[self._writers[op.input]]).to(x)
        inside = scaled.clamp(0, self._recipe.unsigned.spike_max)
        return straight_through(inside, inside.detach().round())  # codes, not values: their steps are in the weights

    def attention(self, op: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries and probabilities as spikes and outliers, keys and values as cached codes."""
        recipe = self._recipe
        shares = {side: recipe.outliers.of(f"{self._block}.{op.name}.{side}") for side in ("q", "p")}
        q, k = _per_row(q, recipe.activations, shares["q"]), _per_row(k, recipe.keys, 0.0)
        codes = _codes(Encode("", "", "", recipe.values), v)
        v = straight_through(v, codes.q * codes.step)
        k, v, value_step = (x.repeat_interleave(op.heads // op.kv_heads, 1) for x in (k, v, codes.step))
        scores = q @ k.transpose(-1, -2) * op.head_dim**-0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        p = scores.masked_fill(later, -torch.inf).softmax(-1)
        # a probability is sent in units of the step of the value that it meets, see `graph.Softmax`
        sent = Encode("", "", "", recipe.unsigned, groups=op.heads, ratio=shares["p"], causal=True)
        value_step = value_step.transpose(-1, -2)
        codes = _codes(sent, p * value_step)
        return straight_through(p, codes.q * codes.step.transpose(1, 2).unsqueeze(-1) / value_step) @ v

    def gain(self, op: Norm) -> Tensor:
        """Trained where it is trained."""
        return self._gains[op.name] if op.name in self._gains else super().gain(op)

    def _sent(self, op: Dense, x: Tensor) -> Tensor:
        if self._block == "head" and self._recipe.head.input == "integer":
            return _per_row(x, INTEGER8, 0.0)
        encode = Encode(
            op.name,
            op.input,
            "",
            self._recipe.activations,
            ratio=self._recipe.outliers.of(f"{self._block}.{op.name}"),
            channels=self._calibration.channels.get(op.name),
            static_step=self._calibration.static_steps.get(op.name),
        )
        return _rounded(encode, x)


def _per_row(x: Tensor, enc: Encoding, ratio: float) -> Tensor:
    """Codes of every row (..., d) with a step of its own."""
    return _rounded(Encode("", "", "", enc, ratio=ratio), x)


def _rounded(encode: Encode, x: Tensor) -> Tensor:
    codes = _codes(encode, x)
    return straight_through(x, codes.q * codes.step)


@torch.no_grad()
def _codes(encode: Encode, x: Tensor) -> Codes:
    return host.encode(encode, x.detach(), torch.zeros(1, dtype=torch.int64, device=x.device))
