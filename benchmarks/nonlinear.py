"""Integer softmax, norms and gates against float64, over their whole range.

An error is told in codes of 15 bits: 2^-15 of the largest result there can be, which is 1 of a probability and, whatever comes,
of a gate; of a norm it is the largest of the row, and 1 where all are smaller. SiLU, GELU and the tables are asked for every
integer there is.

Run: python benchmarks/nonlinear.py [--rows N]      ends with 1 where anything is off by more than one code
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.table import Table as RichTable
from torch import Tensor

from kirin_lava.base.console import print_table
from kirin_lava.base.integers import MESSAGE_LIMIT, to_real
from kirin_lava.graph.ops.integer.functions import (
    NORM_BITS,
    exp2_weights,
    gate_fraction,
    gated,
    multiplier_of,
    normalized,
    probabilities,
)
from kirin_lava.spikes.tables import FORMULAS, Formula, table

CODE = 2.0**-15
_PART = 1 << 21
_EPS = 1e-5


@dataclass(frozen=True)
class Measured:
    """A function on some numbers: how many, and the largest error in codes."""

    function: str
    what: str
    numbers: int
    error: float


def gates(fraction: int, every: int = 1) -> Iterator[Measured]:
    """SiLU and GELU of every, or each `every`-th, message in units of 2^-fraction. The results' own units are finer."""
    for name, exact in (("silu", F.silu), ("gelu", F.gelu), ("gelu_tanh", _gelu_tanh)):
        error, numbers = 0.0, 0
        for start in range(1 - MESSAGE_LIMIT, MESSAGE_LIMIT, _PART):
            x = torch.arange(start, min(start + _PART, MESSAGE_LIMIT), every)
            y = to_real(gated(x, fraction, table(name)), gate_fraction(fraction))
            error = max(error, float((y - exact(to_real(x, fraction))).abs().max()))
            numbers += len(x)
        reach = math.log2(MESSAGE_LIMIT) - fraction
        yield Measured(name, f"-2^{reach:g} to 2^{reach:g}", numbers, error / CODE)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def norms(rows: int, widths: tuple[int, ...] = (8, 64, 576, 4096, 8192)) -> Iterator[Measured]:
    """RMSNorm and LayerNorm, without gains, of normal rows of all magnitudes, of rows of zeros, of one large number, of equal
    numbers."""
    for center in (False, True):
        for width in widths:
            error, numbers = 0.0, 0
            for fraction in (4, 14, 22):
                for bits in range(0, 23, 2):
                    x = (torch.randn(rows, width) * 2.0**bits / 3).round().long().clamp(1 - MESSAGE_LIMIT, MESSAGE_LIMIT - 1)
                    x[0], x[1, 1:], x[2] = 0, 0, 5
                    error = max(error, _norm_error(x, fraction, center))
                    numbers += x.numel()
            yield Measured("LayerNorm" if center else "RMSNorm", f"rows of {width}", numbers, error / CODE)


def _norm_error(x: Tensor, fraction: int, center: bool) -> float:
    width = x.shape[-1]
    eps = multiplier_of(_EPS * width * 4.0**fraction * (width**2 if center else 1))
    got = to_real(normalized(x, eps, table("root"), center), NORM_BITS) * math.sqrt(width)
    real = to_real(x, fraction)
    real = real - real.mean(-1, keepdim=True) if center else real
    exact = real / torch.sqrt(real.square().mean(-1, keepdim=True) + _EPS)
    return float(((got - exact).abs() / exact.abs().amax(-1, keepdim=True).clamp_min(1)).max())


def softmaxes(rows: int, lengths: tuple[int, ...] = (1, 2, 17, 512, 8192)) -> Iterator[Measured]:
    """Softmax of scores as sums times steps, from all alike to one alone, with steps of few and of 24 bits."""
    unit = 1 << 23
    for length in lengths:
        error, numbers = 0.0, 0
        for deviation in (0.0, 0.01, 1.0, 5.0, 30.0, 3000.0):
            for query, most, spread in ((3, 4, 2**8), (2**18, 2**18, 2**12), (2**23, 2**24 - 1, 2**18)):
                v = (torch.randn(rows, length) * spread).round().long().clamp(1 - MESSAGE_LIMIT, MESSAGE_LIMIT - 1)
                u = v * torch.randint(1, most, (length,))
                factor = max(deviation, 1e-9) / (query * most / 2 * spread)
                row = torch.full((rows, 1), query)
                weights = exp2_weights(u, row, multiplier_of(factor / math.log(2)), table("exp2"), None)
                got = probabilities(weights, torch.tensor(unit), table("reciprocal"), 0).double() / unit
                error = max(error, float((got - torch.softmax(u.double() * (query * factor), -1)).abs().max()))
                numbers += v.numel()
        yield Measured("softmax", f"rows of {length}", numbers, error / CODE)


def tables() -> Iterator[Measured]:
    """The tables themselves, at every argument there is, in units of their own largest value."""
    for formula in FORMULAS:
        error, numbers = 0.0, 0
        last = formula.ranges[-1].stop
        for start in range(0, last, _PART):
            q = torch.arange(start, min(start + _PART, last))
            y = to_real(table(formula.name)(q), formula.output_bits)
            error = max(error, float((y - exact_of(formula, to_real(q, formula.input_bits))).abs().max()))
            numbers += len(q)
        yield Measured(
            f"table {formula.name}", f"{formula.entries} entries, {table(formula.name).bytes} bytes", numbers, error / CODE
        )


def exact_of(formula: Formula, x: Tensor) -> Tensor:
    """float64 of a table's function."""
    match formula.name:
        case "exp2":
            return torch.exp2(-x)
        case "reciprocal":
            return 1 / (1 + x)
        case "root":
            return torch.rsqrt(1 + x)
        case "silu":
            return x.relu() - F.silu(x)
        case "gelu_tanh":
            return x.relu() - _gelu_tanh(x)
        case "tanh":
            return x.tanh()
    return x.relu() - F.gelu(x)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Integer functions against float64.")
    parser.add_argument("--rows", type=int, default=16, help="rows of each kind")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    found = [*tables(), *(row for fraction in (12, 16, 18, 22) for row in gates(fraction))]
    found += [*norms(arguments.rows), *softmaxes(arguments.rows)]
    shown = RichTable(title="integer functions against float64")
    for column in ("function", "on", "numbers", "largest error, codes of 15 bits"):
        shown.add_column(column, justify="left" if column in ("function", "on") else "right")
    for row in found:
        shown.add_row(row.function, row.what, f"{row.numbers:,}", f"{row.error:.3f}")
    print_table(shown)
    worst = max(row.error for row in found)
    size = sum(table(formula.name).bytes for formula in FORMULAS)
    print(f"largest error {worst:.3f} codes of 15 bits; all tables together {size:,} bytes")
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()
