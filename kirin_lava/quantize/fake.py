"""The student: the float twin with the integer network's quantisers in it, differentiable.

Every value that becomes a code is rounded exactly as `kirin_lava.host` rounds it, and passes gradients straight through; steps
are constants to the gradient. Probabilities are left in float while training: their error is far below that of everything
else and their rounding would take a third of the time. What counts in the end is measured with the integer executor.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from kirin_lava import host
from kirin_lava.coding import INTEGER8, Encoding
from kirin_lava.graph import Encode, Norm
from kirin_lava.models.layout import Attention, Dense, FloatBlock, Relu
from kirin_lava.quantize.calibrate import Calibration, fires_into
from kirin_lava.recipe import Recipe
from kirin_lava.twin import Arithmetic

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
        """Queries as spikes and outliers, keys and values as cached codes."""
        recipe = self._recipe
        site = f"{self._block}.{op.name}.q"
        q = _per_row(q, recipe.activations, recipe.outliers.of(site))
        k, v = _per_row(k, recipe.keys, 0.0), _per_row(v, recipe.values, 0.0)
        return super().attention(op, q, k, v)

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
    with torch.no_grad():
        codes = host.encode(encode, x.detach(), torch.zeros(1, dtype=torch.int64, device=x.device))
        quantized = codes.q * codes.step
    return straight_through(x, quantized)
