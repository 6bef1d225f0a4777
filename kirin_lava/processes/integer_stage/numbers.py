"""Arithmetic of one neuron in Python's integers, which know no overflow.

With `codes.py` and `operations.py` it is a second implementation of what the executor computes with tensors of int64, and uses
none of its functions: what both give is the same, or one of them is wrong. What is defined once (widths, limits, entries of
tables) is taken from where it is defined.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import floor
from typing import TypeVar

import torch
from torch import Tensor

from kirin_lava.base.integers import MESSAGE_LIMIT, beyond_message
from kirin_lava.graph.values import Values, tensor_in
from kirin_lava.spikes.tables import Table, formula_named

__all__ = ["cut", "in_units", "like", "look_up", "messages", "nearest", "numbers", "rows_of", "scaled"]


_T = TypeVar("_T")


def nearest(x: Fraction) -> int:
    """The nearest integer, half up."""
    return floor(x + Fraction(1, 2))


def scaled(x: int, bits: int) -> int:
    """`round(x / 2^bits)`, half up; negative bits multiply."""
    return x << -bits if bits <= 0 else (2 * x + (1 << bits)) // (2 << bits)


def cut(x: int, bits: int) -> int:
    """`floor(x / 2^bits)`, bits of either sign."""
    return x >> bits if bits >= 0 else x << -bits


def look_up(table: Table, q: int) -> int:
    """What a table neuron answers, from the entries of a table and the ranges of its formula."""
    first = 0
    for part in formula_named(table.name).ranges:
        cell, rest = divmod(q - part.start, 1 << part.shift)
        if 0 <= cell < part.count:
            return int(table.value[first + cell]) + scaled(int(table.slope[first + cell]) * rest, part.shift)
        first += part.count
    return 0


def messages(x: Iterable[int], name: str, fraction: int) -> list[int]:
    """The numbers, in units of 2^-fraction.

    Raises:
        FitError: one does not fit a message; names the largest and the operation.
    """
    found = list(x)
    largest = max(found, key=lambda n: (abs(n), n), default=0)
    if abs(largest) >= MESSAGE_LIMIT:
        raise beyond_message(largest, name, fraction)
    return found


def numbers(values: Values, name: str) -> list[int]:
    """The integers of a token's value or sums, the last axis running fastest."""
    found: list[int] = tensor_in(values, name).to(torch.int64).flatten().tolist()
    return found


def in_units(step: Tensor, fraction: int) -> list[int]:
    """Steps, which are kept as real numbers, in units of 2^-fraction."""
    found = [Fraction(s) * Fraction(2) ** fraction for s in step.flatten().tolist()]
    assert all(s.denominator == 1 for s in found)
    return [s.numerator for s in found]


def rows_of(x: list[_T], count: int) -> list[list[_T]]:
    """Cut into so many parts of the same length."""
    width = len(x) // count
    return [x[i * width : (i + 1) * width] for i in range(count)]


def like(x: list[int], shape: tuple[int, ...]) -> Tensor:
    """As a tensor of int64."""
    return torch.tensor(x, dtype=torch.int64).view(shape)
