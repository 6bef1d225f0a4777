"""Codes of one row by every step rule, in Python's integers and fractions: see `numbers.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Any

from kirin_lava.processes.integer_stage.numbers import nearest
from kirin_lava.spikes.asymmetric import LEVELS
from kirin_lava.spikes.codes import Planes, SpikeCode
from kirin_lava.spikes.steps import (
    LIMIT_DIGITS,
    LIMIT_DIGITS_ROW,
    RULES,
    FixedStep,
    MinMax,
    PlaneRow,
    PlaneStep,
    RowBudget,
    StaticStep,
    StepRule,
    TokenBudget,
    message_budget,
)
from kirin_lava.spikes.whole import CODE_SLACK, REACH_UNITS, SPIKE_SLACK, STEP_LIMIT, beyond_step, fixed_step

__all__ = ["Row", "RowCodes", "row_codes"]


@dataclass(frozen=True)
class Row:
    """What is coded with one step: a token, a part of it, or a row of probabilities up to the token's own position.

    Attributes:
        x: integers in units of 2^-fraction.
        fine: of each, whether its channel is a fine one.
        name: of the operation, for errors.
    """

    x: list[int]
    fraction: int
    fine: list[bool]
    name: str


@dataclass(frozen=True)
class RowCodes:
    """Codes of a row, its step as a real number, its zero points."""

    q: list[int]
    step: Fraction
    zero: list[int] = field(default_factory=list)


def row_codes(rule: StepRule, code: SpikeCode, row: Row) -> RowCodes:
    """Codes of a row.

    Raises:
        FitError: a step beyond 24 bits.
    """
    return _ROWS[type(rule)](rule, code, row)


def _token(rule: TokenBudget, code: SpikeCode, row: Row) -> RowCodes:
    """The smallest step with which all are codes and all but a budget of them spikes; larger where their sum goes too far."""
    bits, allowed = rule.step_bits(code, row.fraction), message_budget(rule.ratio, len(row.x))
    step = _all_inside(code, row.x, bits)
    if code.spike_codes is not None:
        low, high = (REACH_UNITS * abs(end) + SPIKE_SLACK for end in code.spike_codes)
        sizes, reach = [abs(x) for x in row.x], high
        if -code.spike_codes[0] > code.spike_codes[1]:  # both sides in units of the product of their reaches
            sizes, reach = [abs(x) * (high if x < 0 else low) for x in row.x], low * high
        limit = _behind(sizes, allowed)
        step = max(step, _least(_digits_up(limit, LIMIT_DIGITS) if allowed else limit, bits, reach))
    q = _rounded(row.x, bits, step)
    total = sum(map(abs, q))
    if rule.reach is not None and total > rule.reach:
        step = ceil(Fraction(step * (2 * total + len(q)), 2 * rule.reach - len(q)))
        q = _rounded(row.x, bits, step)
    return _in_24_bits(q, step, bits, row)


def _probabilities(rule: RowBudget, code: SpikeCode, row: Row) -> RowCodes:
    """The same for a row of numbers that are not negative, whose budget grows with its length."""
    seen = len(row.x) if rule.window is None else min(len(row.x), rule.window)
    bits, allowed = rule.step_bits(code, row.fraction), message_budget(rule.ratio, seen)
    step = _all_inside(code, row.x, bits)
    if code.spike_codes is not None:
        limit = _behind(row.x, allowed)
        if allowed:
            limit = min(_digits_up(limit, LIMIT_DIGITS_ROW), max(row.x))
        step = max(step, _least(limit, bits, REACH_UNITS * code.spike_codes[1] + SPIKE_SLACK))
    return _in_24_bits(_rounded(row.x, bits, step), step, bits, row)


def _static(rule: StaticStep, code: SpikeCode, row: Row) -> RowCodes:
    """One step for all tokens; what is beyond the codes is clipped."""
    s, bits = fixed_step(rule.step, row.fraction)
    x = [n << bits if bits >= 0 else nearest(Fraction(n, 1 << -bits)) for n in row.x]
    q = [min(max(nearest(Fraction(n, s)), code.code_min), code.code_max) for n in x]
    return RowCodes(q, Fraction(s) / Fraction(2) ** (row.fraction + bits))


def _fixed(rule: FixedStep, code: SpikeCode, row: Row) -> RowCodes:
    """Integers with one step for all tokens."""
    step = Fraction(rule.step)
    q = [nearest(n / Fraction(2) ** row.fraction / step) for n in row.x]
    return RowCodes([min(max(n, code.code_min), code.code_max) for n in q], step)


def _planes(rule: PlaneStep, code: SpikeCode, row: Row) -> RowCodes:
    """Bit planes, of an outlier in a range 2^b as wide."""
    assert isinstance(code, Planes)
    step, most, wider = Fraction(rule.step), 2**code.window, 2**code.outlier_shift
    q = []
    for n in row.x:
        size = abs(n) / Fraction(2) ** row.fraction / step
        level = floor(size) if size < most else wider * min(floor(size / wider), most - 1)
        q.append(-level if n < 0 else level)
    return RowCodes(q, step)


def _asymmetric(rule: MinMax, code: SpikeCode, row: Row) -> RowCodes:
    """The span of a row in codes from 0 on, finer ones of some channels, and what stands for 0 in both kinds."""
    bits, finer = rule.step_bits(code, row.fraction), 2**rule.refinement
    most = {False: LEVELS, True: (LEVELS + 1) * finer - 1}
    low, high = min(0, *row.x), max(0, *row.x)
    unit = max(1, ceil(Fraction(high - low << bits, most[True])))
    step = {False: unit * finer, True: unit}
    zero = {kind: min(nearest(Fraction(-low << bits, step[kind])), most[kind]) for kind in (False, True)}
    worth = {False: finer, True: 1}
    q = []
    for n, fine in zip(row.x, row.fine, strict=True):
        c = min(max(nearest(Fraction(n << bits, step[fine])) + zero[fine], 0), most[fine])
        q.append((c - zero[fine] if rule.centred else c) * worth[fine])
    points = [] if rule.centred else [zero[False] * finer, zero[True]]
    return RowCodes(q, Fraction(unit) / Fraction(2) ** (row.fraction + bits), points)


def _least(size: int, bits: int, reach: int) -> int:
    """The smallest step, 2^bits of which are a unit of `size`, with which it lies within a reach in thousandths of a step."""
    return ceil(Fraction((size << bits) * REACH_UNITS, reach))


def _all_inside(code: SpikeCode, x: list[int], bits: int) -> int:
    return max(1, _least(max(map(abs, x)), bits, REACH_UNITS * code.code_max + CODE_SLACK))


def _behind(sizes: list[int], count: int) -> int:
    """The largest but for `count` of them, 0 where no more are left."""
    return sorted(sizes, reverse=True)[count] if count < len(sizes) else 0


def _digits_up(size: int, digits: int) -> int:
    """The next number that has so many binary digits behind its first, not below `size`."""
    unit = 1 << max(0, size.bit_length() - 1 - digits)
    return -(-size // unit) * unit


def _rounded(x: list[int], bits: int, step: int) -> list[int]:
    return [nearest(Fraction(n << bits, step)) for n in x]


def _in_24_bits(q: list[int], step: int, bits: int, row: Row) -> RowCodes:
    if step >= STEP_LIMIT:
        raise beyond_step(step, row.name)
    return RowCodes(q, Fraction(step) / Fraction(2) ** (row.fraction + bits))


_ROWS: dict[type[StepRule], Callable[[Any, SpikeCode, Row], RowCodes]] = {
    TokenBudget: _token,
    RowBudget: _probabilities,
    StaticStep: _static,
    MinMax: _asymmetric,
    FixedStep: _fixed,
    PlaneStep: _planes,
    PlaneRow: _planes,
}
if missing := [rule.__name__ for rule in RULES if rule not in _ROWS]:
    raise TypeError(f"the integer stages on Lava know no codes by {', '.join(missing)}: add them here")
