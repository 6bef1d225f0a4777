"""Arithmetic without rounding, or with rounding that is the same everywhere: the ground under `host` and `reference`.

    exact_sum      sums of terms that were rounded to multiples of a quantum first, and so have no error and no order
    exp2           powers of two by range reduction and a fixed polynomial instead of a library's exp
    RankBound      a bound that a given number of elements of a row exceed: selection by counting, without a sort

Elementwise, only operations are used that IEEE 754 rounds correctly (+, -, *, /, sqrt, round), one by one: a fused
multiply-add, which a compiler may make of `addcmul` or `lerp`, would change bits from machine to machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.arrays import Numbers, add_shifted_, clamp_, int_bits, total

__all__ = [
    "EXACT_SUM_LIMIT",
    "EXP2",
    "EXP2_COARSE",
    "Polynomial",
    "RankBound",
    "exact_sum",
    "exp2",
]

QUANTUM = 2.0**-32
_FEW, _FEW_SORTED = 2**13, 2**16  # elements that NumPy selects from, or sorts, sooner than counting finds a bound
_SHORT = 128  # elements that NumPy's sorting network takes in one piece
_SORTS_FAST = torch.backends.cpu.get_cpu_capability() in (("AVX512",) if np.__version__ < "2" else ("AVX512", "AVX2"))
_ROUND = 1.5 * 2.0**52 * QUANTUM  # adding and subtracting it rounds to a multiple of QUANTUM
EXACT_SUM_LIMIT = 2.0**20
_EXPONENT = 23  # place of the exponent in a float32
_INTEGER = 1.5 * 2.0**23  # adding it to a float32 leaves the nearest integer in the low bits


def exact_sum(x: Numbers) -> Numbers:
    """Sum over the last axis, (..., 1), of float64 terms rounded to multiples of 2^-32.

    It is exact, and so independent of the order, where the sum of the magnitudes is below `EXACT_SUM_LIMIT`.
    """
    rounded = x + _ROUND
    rounded -= _ROUND
    return total(rounded)


@dataclass(frozen=True)
class Polynomial:
    """2^f on [-1/2, 1/2] as `2^halvings` times a polynomial.

    Attributes:
        lead: coefficient of the highest power, None for 1; rest: the others, highest power first.
        integer: what leaves n - halvings in the low bits of a float32.
    """

    lead: float | None
    rest: tuple[float, ...]
    integer: float

    @staticmethod
    def of(*coefficients: float, halvings: int = 0) -> Polynomial:
        """From plain numbers."""
        lead, *rest = (float(np.float32(c)) for c in coefficients)
        return Polynomial(None if coefficients[0] == 1 else lead, tuple(rest), _INTEGER - halvings)

    def __call__(self, f: Numbers) -> Numbers:
        """By Horner's scheme, in float32."""
        y = f + self.rest[0] if self.lead is None else f * self.lead
        if self.lead is not None:
            y += self.rest[0]
        for coefficient in self.rest[1:]:
            y *= f
            y += coefficient
        return y


# Of least maximal relative error, found by Lawson's reweighted least squares.
EXP2 = Polynomial.of(
    1.3276471987446255e-3, 9.675541334391479e-3, 5.550713273513184e-2, 2.4022119723841384e-1, 6.931469670647504e-1, 1.0
)
"""2^f to float32 precision."""
EXP2_COARSE = Polynomial.of(1.0, 4.397385966677004, 12.565525032792642, 18.12394105792052, halvings=5)
"""2^f times 0.566, with a relative error of 2^-13.7: for what becomes 8-bit codes and is normalised by its sum."""


def exp2(x: Numbers, polynomial: Polynomial = EXP2) -> Numbers:
    """`2^x` in float32, x clamped to [-120, 126]: 2^n by its bit pattern times 2^f by a polynomial. Overwrites x."""
    clamp_(x, -120.0, 126.0)
    shifted = x + polynomial.integer
    x -= shifted - polynomial.integer
    power = polynomial(x)
    # the low bits of `shifted` are n; moved up to the exponent, they multiply by 2^n
    add_shifted_(int_bits(power), int_bits(shifted), _EXPONENT)
    return power


@dataclass(frozen=True)
class RankBound:
    """A bound that at most `budget` elements of a row exceed: the (budget + 1)-th largest, rounded up.

    It has `digits` binary digits after the first. Where the exact bound lies below `depth * largest`, the one returned lies
    below that as well, but may be another number: so small a bound is not used.
    """

    depth: float
    digits: int

    def __call__(self, x: Numbers, largest: Numbers, budget: int | Tensor) -> Numbers:
        """Bounds (..., 1) float32, of the kind of `x`.

        Args:
            x: (..., W) float32, not negative.
            largest: (..., 1), the largest of every row.
            budget: one for all rows, or float32 that broadcasts to (..., 1).
        """
        few = _FEW_SORTED if _SORTS_FAST and x.shape[-1] <= _SHORT else _FEW
        if isinstance(x, np.ndarray):
            if isinstance(budget, int) and x.size <= few:
                return self._selected(x, budget)
            return self._counted(torch.from_numpy(x), torch.from_numpy(largest), budget).numpy()
        if isinstance(budget, int) and x.is_cpu and x.numel() <= few:
            return torch.from_numpy(self._selected(x.numpy(), budget))
        return self._counted(x, largest, budget)

    def _counted(self, x: Tensor, largest: Tensor, budget: int | Tensor) -> Tensor:
        steps = self._steps
        # Binary search in float32's bit pattern, which has the order of the numbers. `bits` stays below the answer or is the
        # first candidate of all; the last one is the next above the largest.
        bits = largest.view(torch.int32).bitwise_and(self._mask).sub_(self._span).clamp_min_(0)
        above = torch.empty_like(x)
        for step in steps:
            higher = bits + step
            count = torch.gt(x, higher.view(torch.float32), out=above).sum(-1, keepdim=True)
            bits = torch.where(count > budget, higher, bits)
        return bits.add_(steps[-1]).view(torch.float32)

    def _selected(self, x: npt.NDArray[np.float32], budget: int) -> npt.NDArray[np.float32]:
        place = x.shape[-1] - budget - 1
        if place < 0:  # all of them may exceed it
            return np.zeros((*x.shape[:-1], 1), np.float32)
        unit = self._unit
        ordered = np.sort(x) if _SORTS_FAST and x.shape[-1] <= _SHORT else np.partition(x, place)
        exact = ordered[..., place : place + 1].view(np.int32)
        return ((exact + (unit - 1)) & -unit).view(np.float32)

    @cached_property
    def _unit(self) -> int:
        """One digit, in units of float32's bit pattern."""
        return 1 << (23 - self.digits)

    @cached_property
    def _steps(self) -> tuple[Tensor, ...]:
        """Of the search, in units of float32's bit pattern; the last is one digit."""
        octaves = 0.1 - math.log2(self.depth)  # between powers of two the bit pattern is less than 0.1 off the logarithm
        rounds = math.ceil(math.log2(octaves * 2**self.digits + 3))
        return tuple(torch.tensor(self._unit << i, dtype=torch.int32) for i in reversed(range(rounds)))

    @cached_property
    def _mask(self) -> Tensor:
        return -self._steps[-1]

    @cached_property
    def _span(self) -> Tensor:
        return torch.stack(self._steps).sum(dtype=torch.int32)
