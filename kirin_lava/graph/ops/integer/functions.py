"""The non-linear functions of a decoder in integers: normalisation, softmax, gates. Pure functions of int64 tensors.

What they lose is measured against float64 by `benchmarks/nonlinear.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kirin_lava.base.integers import bit_length, rescaled, shifted
from kirin_lava.spikes.tables import ARGUMENT_BITS, BOUNDED_BITS, EXP2_BITS, OCTAVE_BITS, ROOT_BITS, VALUE_BITS, Table

__all__ = [
    "BLOCK_BITS",
    "DISTANCE_BITS",
    "EPS_SHIFT",
    "MANTISSA_BITS",
    "MOST_RIGHT",
    "NORM_BITS",
    "SATURATED",
    "SHARE_BITS",
    "TANH_BITS",
    "TANH_MOST",
    "WEIGHT_BITS",
    "Multiplier",
    "capped_scores",
    "exp2_weights",
    "gate_fraction",
    "gated",
    "multiplier_of",
    "normalized",
    "probabilities",
    "tanh_of",
]

EPS_SHIFT = 36
"""A mantissa of eps is shifted up by so many bits at most, so that it stays below 2^60."""
BLOCK_BITS = 22
"""Of the largest number of a row before it is squared."""
NORM_BITS = 28
"""A normalised row counts in units of `2^-NORM_BITS`, and lies within -1..1."""
WEIGHT_BITS = 32
"""Weights of a softmax count in units of `2^-WEIGHT_BITS`, the largest of a row being 1."""
SHARE_BITS = 24
"""Of a weight divided by the sum of its row."""
TANH_BITS = BOUNDED_BITS
"""What `tanh_of` answers counts in units of `2^-TANH_BITS`."""
TANH_MOST = (8 << ARGUMENT_BITS) - 1
"""Largest argument of the table tanh; beyond it its value stays."""
MANTISSA_BITS = 24
"""Of a `Multiplier`."""
SATURATED = 3
"""Octaves of the exponent's range: 2^(3 + 3) doublings leave nothing of a weight."""
_HIDDEN = 1 << 47  # below it lies every score
MOST_RIGHT = 58
"""Of the shift of a distance: beyond it nothing is left of any."""
DISTANCE_BITS = 38
"""Of a score's distance to the largest, when it is multiplied by a mantissa of 24 bits."""


@dataclass(frozen=True)
class Multiplier:
    """A positive real number as `mantissa * 2^-shift`, the mantissa of 24 bits."""

    mantissa: int
    shift: int


def multiplier_of(number: float) -> Multiplier:
    """The nearest multiplier of a positive number."""
    part, exponent = math.frexp(number)
    mantissa = round(math.ldexp(part, MANTISSA_BITS))
    if mantissa == 1 << MANTISSA_BITS:
        mantissa, exponent = mantissa >> 1, exponent + 1
    return Multiplier(mantissa, MANTISSA_BITS - exponent)


def normalized(x: Tensor, eps: Multiplier, root: Table, center: bool) -> Tensor:
    """Rows (..., W) divided by the root of the sum of their squares.

        c = W x - sum(x) where centred, else x;    result = c / sqrt(sum(c^2) + E)   in units of 2^-28, within -1..1

    A row is shifted until its largest number has 22 bits, so that its squares and their sum are exact integers below 2^62 for
    rows of up to 2^17 numbers. Of the sum's root two octaves are in a table.

    Args:
        x: magnitudes below 2^23.
        eps: E in the units of c squared; where it is so large that it would overflow, the row keeps fewer bits.
    """
    c = x.shape[-1] * x - x.sum(-1, keepdim=True) if center else x
    least = -((EPS_SHIFT + eps.shift) // 2)
    down = (bit_length(c.abs().amax(-1, keepdim=True)) - BLOCK_BITS).clamp_min(least)
    c = shifted(c, down)
    total = (c * c).sum(-1, keepdim=True) + shifted(torch.full_like(down, eps.mantissa), eps.shift + 2 * down)
    total = total.clamp_min(1)  # a row of zeros
    # total = v * 4^half, v in [1, 4)
    half = (bit_length(total) - 1) >> 1
    v = _leading(total, 2 * half - ROOT_BITS)
    inverse = root(v - (1 << ROOT_BITS))
    return shifted(c * inverse, half + VALUE_BITS - NORM_BITS)


def exp2_weights(u: Tensor, row: Tensor, factor: Multiplier, exp2: Table, visible: Tensor | None) -> Tensor:
    """`2^((u - max u) * row * factor)` of rows (..., J), in units of 2^-32; the largest of a row is 1.

    Args:
        u: magnitudes below 2^47. row: (..., 1) positive, below 2^24, a common factor of the row.
        visible: (..., J) whether a position is seen, None where all are; others weigh 0.
    """
    if visible is not None:
        u = torch.where(visible, u, -_HIDDEN)
    largest = u.amax(-1, keepdim=True)
    z = _scaled(largest - u, row, factor, EXP2_BITS)
    y = exp2(z & ((1 << EXP2_BITS) - 1)) << WEIGHT_BITS - VALUE_BITS
    weights = shifted(y, z >> EXP2_BITS)
    return weights if visible is None else torch.where(visible, weights, 0)


def _scaled(size: Tensor, row: Tensor, factor: Multiplier, bits: int) -> Tensor:
    """`size * row * factor` in units of 2^-bits, of sizes from 0 to 2^48. A result beyond 2^(23 + SATURATED) may become
    another one beyond it: no function tells them apart."""
    # row * factor as a mantissa of 24 bits, and a shift to the units that are wanted
    product = row * factor.mantissa
    excess = bit_length(product) - MANTISSA_BITS
    mantissa = shifted(product, excess)
    right = factor.shift - excess - bits
    reach = right.clamp(0, MOST_RIGHT) + SATURATED
    size = torch.minimum(size, torch.ones_like(reach) << reach)
    first = (reach - DISTANCE_BITS).clamp_min(0)
    return shifted(shifted(size, first) * mantissa, right.clamp_min(0) - first)


def capped_scores(u: Tensor, row: Tensor, factor: Multiplier, tanh: Table) -> Tensor:
    """`tanh(u * row * factor)` in units of 2^-22.

    Args:
        u: magnitudes below 2^47. row: (..., 1) positive, below 2^24, a common factor of the row.
    """
    return tanh_of(_scaled(u.abs(), row, factor, ARGUMENT_BITS), tanh) * u.sign()


def probabilities(weights: Tensor, value_step: Tensor, reciprocal: Table, down: int) -> Tensor:
    """`w / sum(w) * value_step * 2^-down` of rows (..., J) of weights in units of 2^-32.

    Args:
        value_step: below 2^24, broadcasts over the rows.
    """
    total = weights.sum(-1, keepdim=True)
    octave = bit_length(total) - 1
    mantissa = _leading(total, octave - OCTAVE_BITS)
    inverse = reciprocal(mantissa - (1 << OCTAVE_BITS))  # 2^24 / mantissa, in (2^23, 2^24]
    share = shifted(weights * inverse, octave + VALUE_BITS - SHARE_BITS)
    return shifted(share * value_step, SHARE_BITS + down)


def tanh_of(argument: Tensor, tanh: Table) -> Tensor:
    """tanh of arguments from 0 on, in units of 2^-18, in units of 2^-22."""
    return tanh(argument.clamp_max(TANH_MOST))


def gate_fraction(fraction: int) -> int:
    """In units of which power of two `gated` answers: finer than its input by up to 2^10, so that a product of its result with
    another message stays below 2^62."""
    return min(BOUNDED_BITS, fraction + 10)


def gated(x: Tensor, fraction: int, bounded: Table) -> Tensor:
    """SiLU or GELU of x in units of 2^-fraction, in units of 2^-gate_fraction(fraction): `max(x, 0) - table(|x|)`.

    Args:
        x: magnitudes below 2^23. bounded: the table silu or gelu.
    """
    argument = shifted(x.abs(), fraction - ARGUMENT_BITS)
    wanted = gate_fraction(fraction)
    return rescaled(x.clamp_min(0), fraction, wanted) - rescaled(bounded(argument), BOUNDED_BITS, wanted)


def _leading(x: Tensor, bits: Tensor) -> Tensor:
    """`floor(x / 2^bits)`, bits of either sign."""
    return (x >> bits.clamp_min(0)) << (-bits).clamp_min(0)
