"""Table neurons: functions of one integer, as a value and a slope for each cell of a few ranges.

    y = value[i] + round(slope[i] * rest / 2^shift),    i = (q - start) >> shift,    rest = (q - start) mod 2^shift

A range starts at `start`, has a power of two of cells, each `2^shift` wide; below the first one and beyond the last one the
function is 0. All functions are universal: an argument is brought to one octave, or to its magnitude, by shifts, so that
no table depends on a model, and a core stores each at most once.

    exp2          2^24 * 2^(-q / 2^20)                q in [0, 2^20)
    reciprocal    2^24 / (1 + q / 2^24)               q in [0, 2^24)          one octave
    root          2^24 / sqrt(1 + q / 2^22)           q in [0, 3 * 2^22)      two octaves
    silu          2^22 * a / (1 + e^a)                a = q / 2^18, in [0, 16)        silu(x) = max(x, 0) - silu(|x|)
    gelu          2^22 * a * Phi(-a)                  a = q / 2^18, in [0, 8)         gelu(x) = max(x, 0) - gelu(|x|)
    gelu_tanh     2^22 * a / (1 + e^(2 u))            u = sqrt(2 / pi) (a + 0.044715 a^3), as gelu
    tanh          2^22 * tanh(a)                      a = q / 2^18, in [0, 8)

Entries are rounded from 50 decimal digits, so that they are the same on every machine. A chord is moved by half of what it
leaves the function in its middle. Bundles hold the entries; they are compared with the formula when they are read.
Source of the idea: LAS, arXiv 2505.09659, whose tables are read bit plane by bit plane and take 118 KB for a SiLU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Context, Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.integers import shifted

__all__ = [
    "ARGUMENT_BITS",
    "BOUNDED_BITS",
    "EXP2_BITS",
    "FORMULAS",
    "OCTAVE_BITS",
    "ROOT_BITS",
    "TABLE_OPERATIONS",
    "VALUE_BITS",
    "Formula",
    "Range",
    "Table",
    "check_table",
    "formula_named",
    "table",
]

EXP2_BITS, OCTAVE_BITS, ROOT_BITS, ARGUMENT_BITS = 20, 24, 22, 18
TABLE_OPERATIONS = 6
"""Of a table neuron: difference to the start of a range, cell, rest, product, shift, sum."""
VALUE_BITS, BOUNDED_BITS = 24, 22
"""Of what `exp2`, `reciprocal` and `root` give, and of what `silu`, `gelu` and `tanh` give."""
_DIGITS = Context(prec=50)
_ROOT_2_PI = Decimal("0.79788456080286535587989211986876373695171726232986931533185")  # sqrt(2 / pi)

Int32 = npt.NDArray[np.int32]
Real = Callable[[Decimal], Decimal]


@dataclass(frozen=True)
class Range:
    """Cells of equal width: `count` of `2^shift` each, from `start` on."""

    start: int
    shift: int
    count: int

    @property
    def stop(self) -> int:
        """Where it ends."""
        return self.start + (self.count << self.shift)


@dataclass(frozen=True)
class Formula:
    """What a table holds.

    Attributes:
        input_bits: `q / 2^input_bits` is the function's argument. output_bits: y counts in units of `2^-output_bits`.
        ranges: one behind the other. function: of a Decimal.
    """

    name: str
    input_bits: int
    output_bits: int
    ranges: tuple[Range, ...]
    function: Real

    @property
    def entries(self) -> int:
        """Cells of all ranges."""
        return sum(part.count for part in self.ranges)


def _exp2(x: Decimal) -> Decimal:
    return Decimal(2) ** -x


def _reciprocal(x: Decimal) -> Decimal:
    return 1 / (1 + x)


def _root(x: Decimal) -> Decimal:
    return 1 / (1 + x).sqrt()


def _silu(a: Decimal) -> Decimal:
    return a / (1 + a.exp())


def _gelu(a: Decimal) -> Decimal:
    """a * Phi(-a) by the series of the error function, whose terms at a = 8 lose 15 of the digits."""
    x, total, power, n = a / Decimal(2).sqrt(), Decimal(0), a / Decimal(2).sqrt(), 0
    while abs(power) > Decimal(10) ** -40:
        total += power / (2 * n + 1)
        n += 1
        power *= -x * x / n
    pi = Decimal("3.14159265358979323846264338327950288419716939937511")
    return a * (1 - 2 * total / pi.sqrt()) / 2


def _gelu_tanh(a: Decimal) -> Decimal:
    return a / (1 + (2 * _ROOT_2_PI * (a + Decimal("0.044715") * a**3)).exp())


def _tanh(a: Decimal) -> Decimal:
    return 1 - 2 / (1 + (2 * a).exp())


_SMALL = (Range(0, 8, 64), Range(1 << 14, 12, 252))
"""Up to 4, finest below 1/16: what is nearly 0 keeps its sign, and 0 is 0."""

FORMULAS = (
    Formula("exp2", EXP2_BITS, VALUE_BITS, (Range(0, 12, 256),), _exp2),
    Formula("reciprocal", OCTAVE_BITS, VALUE_BITS, (Range(0, 16, 256),), _reciprocal),
    Formula("root", ROOT_BITS, VALUE_BITS, (Range(0, 14, 256), Range(1 << 22, 15, 256)), _root),
    Formula("silu", ARGUMENT_BITS, BOUNDED_BITS, (*_SMALL, Range(1 << 20, 13, 128), Range(1 << 21, 15, 64)), _silu),
    Formula("gelu", ARGUMENT_BITS, BOUNDED_BITS, (*_SMALL, Range(1 << 20, 14, 64)), _gelu),
    Formula("gelu_tanh", ARGUMENT_BITS, BOUNDED_BITS, (*_SMALL, Range(1 << 20, 14, 64)), _gelu_tanh),
    Formula("tanh", ARGUMENT_BITS, BOUNDED_BITS, (*_SMALL, Range(1 << 20, 14, 64)), _tanh),
)
"""All of them."""


def formula_named(name: str) -> Formula:
    """The formula called `name`; `UsageError` where there is none."""
    for formula in FORMULAS:
        if formula.name == name:
            return formula
    raise UsageError(f"unknown table {name!r}: known are {', '.join(formula.name for formula in FORMULAS)}")


@dataclass(frozen=True, eq=False)
class Table:
    """The entries of a formula.

    Attributes:
        name: of the formula. value, slope: (entries,) int32, of the cells of its ranges one behind the other.
    """

    name: str
    value: Int32 = field(metadata={"dtype": "int32"})
    slope: Int32 = field(metadata={"dtype": "int32"})

    def __call__(self, q: Tensor) -> Tensor:
        """Integers (...) of any size -> (...) int64; see the module."""
        value, slope = (torch.from_numpy(a).to(q.device, torch.int64) for a in (self.value, self.slope))
        result, first = torch.zeros_like(q), 0
        for part in formula_named(self.name).ranges:
            inside = (q >= part.start) & (q < part.stop)
            offset = torch.where(inside, q - part.start, 0)
            cell = first + (offset >> part.shift)
            rest = offset & ((1 << part.shift) - 1)
            y = value[cell] + shifted(slope[cell] * rest, part.shift)
            result, first = torch.where(inside, y, result), first + part.count
        return result

    @property
    def bits(self) -> tuple[int, int]:
        """Of a value and of a slope, sign included where it is needed."""
        return _width(self.value), _width(self.slope)

    @property
    def bytes(self) -> int:
        """What a core stores of it, entries packed."""
        return -(-len(self.value) * sum(self.bits) // 8)


def _width(array: Int32) -> int:
    return max(int(array.max(initial=0)).bit_length(), (-int(array.min(initial=0)) - 1).bit_length()) + int(
        bool((array < 0).any())
    )


@cache
def table(name: str) -> Table:
    """The table of a formula, made from its ranges."""
    formula = formula_named(name)
    values: list[int] = []
    slopes: list[int] = []
    with localcontext(_DIGITS):
        scale = Decimal(2) ** formula.output_bits
        at: Callable[[Decimal], Decimal] = lambda q: scale * formula.function(q / (1 << formula.input_bits))  # noqa: E731
        for part in formula.ranges:
            edges = [at(Decimal(part.start + (i << part.shift))) for i in range(part.count + 1)]
            for i in range(part.count):
                middle = at(Decimal(part.start + (i << part.shift)) + Decimal(1 << part.shift) / 2)
                away = (middle - (edges[i] + edges[i + 1]) / 2) / 2
                values.append(int((edges[i] + away).to_integral_value()))
                slopes.append(int((edges[i + 1] - edges[i]).to_integral_value()))
    return Table(name, np.array(values, np.int32), np.array(slopes, np.int32))


def check_table(found: Table, place: str) -> None:
    """Raise `UsageError` for entries that are not those of the formula; they may come from a file."""
    right = table(found.name)
    for what in ("value", "slope"):
        mine, theirs = getattr(right, what), getattr(found, what)
        if mine.shape != theirs.shape:
            raise UsageError(f"{place}: table {found.name} has {theirs.size} entries instead of {mine.size}; export again")
        wrong: npt.NDArray[Any] = np.flatnonzero(mine != theirs)
        if wrong.size:
            entry = int(wrong[0])
            raise UsageError(
                f"{place}: {what}[{entry}] of table {found.name} is {theirs[entry]}, its formula gives {mine[entry]} "
                f"({wrong.size} such entries); the bundle is damaged, export again"
            )
