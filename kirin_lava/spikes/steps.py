"""Step rules: how the step of a token, a head or a row is found, and the codes that follow from it.

    q = clip(round(x / step), code_min, code_max)      round half to even

Every row (a token, a head of it, or a row of attention probabilities) gets its own step and is encoded on its own, with
operations whose bits are the same everywhere, see `kirin_lava.base.exact`. A rule is a class in a file of `kirin_lava.spikes`
and a line in `RULES`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from kirin_lava.base.arrays import Numbers, amax, clamp_, float64, light, like, maximum, round_, tensor, total
from kirin_lava.base.errors import UsageError
from kirin_lava.base.exact import RankBound
from kirin_lava.base.integers import divided, shifted, to_real
from kirin_lava.base.matmul import FLOAT32_EXACT
from kirin_lava.spikes.asymmetric import MinMax
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.ranges import FixedStep, PlaneRow, PlaneStep
from kirin_lava.spikes.rule import LEFT_OUT, SMALLEST_STEP, Codes, StepRule, check_finite
from kirin_lava.spikes.whole import as_codes, fixed_step, row_steps, spare_bits, token_steps, whole_codes

__all__ = [
    "LEFT_OUT",
    "LIMIT_DIGITS",
    "LIMIT_DIGITS_ROW",
    "RULES",
    "TOKEN_STEP",
    "Codes",
    "FixedStep",
    "MinMax",
    "PlaneRow",
    "PlaneStep",
    "RowBudget",
    "StaticStep",
    "StepRule",
    "TokenBudget",
    "message_budget",
]

_SLACK = 1.0001  # far more than float32 rounds
LIMIT_DIGITS, LIMIT_DIGITS_ROW = 3, 2
"""Binary digits, behind the first, of the largest magnitude that must be a spike: it is rounded up to them."""


def message_budget(ratio: float, width: int) -> int:
    """How many elements of a row may be messages: `max(1, floor(ratio * width))`, 0 for ratio 0."""
    return max(1, math.floor(ratio * width)) if ratio > 0 else 0


@dataclass(frozen=True)
class _Budgeted(StepRule):
    ratio: float = 0.0

    def budget(self, code: SpikeCode, width: int) -> int | None:
        """`message_budget` of the ratio."""
        return message_budget(self.ratio, width) if code.has_spikes else None

    def problem(self, width: int) -> str | None:
        """A ratio beyond one half."""
        return None if 0 <= self.ratio <= 0.5 else f"ratio {self.ratio} is not within 0 to 0.5"

    def step_bits(self, code: SpikeCode, fraction: int) -> int:
        """See `StepRule`."""
        return spare_bits(code)

    def no_integers(self, code: SpikeCode) -> str | None:
        """It does."""
        return None


@dataclass(frozen=True)
class TokenBudget(_Budgeted):
    """The step of a token and group is the smallest that leaves at most `max(1, floor(ratio * width / groups))` messages and
    clips nothing: `step = max(t / (spike_max + 0.499), max|x| / (code_max + 0.49))`, t the largest magnitude that must be a
    spike, rounded up to 4 binary digits, so that counting finds it. Where negative spikes reach further, a negative magnitude
    counts in proportion less, `(spike_max + 0.499) / (|spike_min| + 0.499)` of it.

    Attributes:
        reach: None, or what the magnitudes of the codes of a token and group may sum to: where they sum to more, the step
            grows until they do not. It bounds every sum of codes times weights, so that wide messages fit a membrane.
    """

    reach: int | None = field(default=None, metadata=LEFT_OUT)

    def encode(self, code: SpikeCode, x: Tensor, groups: int, start: int | None, name: str, check: bool) -> Codes:
        """See `StepRule`."""
        grouped = light(x if groups == 1 else x.view(*x.shape[:-1], groups, -1))
        magnitude = abs(grouped)
        largest = amax(magnitude)
        if check:
            check_finite(name, largest)
        factors = _factors(code)
        limit = None
        if code.has_spikes:
            sided = magnitude if factors.of_negative is None else maximum(grouped, grouped * factors.of_negative)
            allowed = message_budget(self.ratio, sided.shape[-1])
            limit = amax(sided) if allowed == 0 else factors.bound(sided, largest, allowed)
        step = factors.step(limit, largest)
        q = round_(grouped / step)
        if self.reach is not None:
            narrow = code.largest * q.shape[-1] < FLOAT32_EXACT
            sums = total(abs(q) if narrow else float64(abs(q)))
            if float(sums.max()) > self.reach:
                sums, step = tensor(sums).double(), tensor(step)
                grown = torch.where(sums > self.reach, step * self._growth(sums, q.shape[-1]), step)
                step = like(grown, grouped)
                q = round_(grouped / step)
        q, step = tensor(q), tensor(step)
        return Codes(q, step) if groups == 1 else Codes(q.view(x.shape), step.squeeze(-1))

    def integers(self, code: SpikeCode, x: Tensor, fraction: int, groups: int, start: int | None, name: str) -> Codes:
        """See `StepRule`."""
        grouped = x if groups == 1 else x.view(*x.shape[:-1], groups, -1)
        allowed = message_budget(self.ratio, grouped.shape[-1])
        step = token_steps(code, grouped, allowed, LIMIT_DIGITS, self.reach)
        q, real = whole_codes(grouped, step, self.step_bits(code, fraction), fraction, name)
        return as_codes(q.view(x.shape), real if groups == 1 else real.squeeze(-1))

    def share(self, code: SpikeCode, width: int, groups: int) -> float:
        """See `StepRule`."""
        return message_budget(self.ratio, width // groups) * groups / width if code.has_spikes else 1.0

    def problem(self, width: int) -> str | None:
        """A ratio beyond one half, or a reach that rounding alone may pass."""
        if self.reach is not None and self.reach <= width:
            return f"reach {self.reach} is not above its {width} codes"
        return super().problem(width)

    def _growth(self, sums: Tensor, width: int) -> Tensor:
        """How much larger the step must be, from sums of magnitudes (..., 1): each is off by 1/2, before and after."""
        assert self.reach is not None
        return ((sums + width / 2) * (_SLACK / (self.reach - width / 2))).float()


@dataclass(frozen=True)
class RowBudget(_Budgeted):
    """As `TokenBudget`, for rows of attention probabilities: the budget grows with the positions that the token sees, which are
    those up to its own or all of the sequence, and the largest magnitude that must be a spike is rounded up to 3 binary
    digits.

    Attributes:
        window: positions that a token sees at most; None for all.
    """

    by_row: ClassVar[bool] = True
    window: int | None = field(default=None, metadata=LEFT_OUT)

    def encode(self, code: SpikeCode, x: Tensor, groups: int, start: int | None, name: str, check: bool) -> Codes:
        """See `StepRule`. x is 0 beyond the token's own position; every head has a step."""
        length, rows = x.shape[2], light(x)
        largest = amax(rows)
        if check:
            check_finite(name, largest)
        limit = largest if code.has_spikes else None
        if limit is not None and self.ratio > 0:
            if start is None:
                allowed: int | Tensor = message_budget(self.ratio, x.shape[3])
            else:
                one = message_budget(self.ratio, self._seen(start + 1))
                allowed = one if length == 1 else self._budgets(start, start + length, x.device)
            limit = _factors(code).bound_of_row(rows, largest, allowed)
        step = _factors(code).step(limit, largest)
        return Codes(tensor(round_(rows / step)), tensor(step).squeeze(-1).transpose(1, 2))

    def integers(self, code: SpikeCode, x: Tensor, fraction: int, groups: int, start: int | None, name: str) -> Codes:
        """See `StepRule`."""
        length, columns = x.shape[2:]
        if start is None:
            allowed = torch.full((length, 1), message_budget(self.ratio, columns), dtype=torch.float32, device=x.device)
        else:
            allowed = self._budgets(start, start + length, x.device)
        step = row_steps(code, x, allowed, LIMIT_DIGITS_ROW)
        q, real = whole_codes(x, step, self.step_bits(code, fraction), fraction, name)
        return as_codes(q, real.squeeze(-1).transpose(1, 2))

    def share(self, code: SpikeCode, width: int, groups: int) -> float:
        """See `StepRule`."""
        return self.ratio if code.has_spikes else 1.0

    def reaching(self, window: int | None) -> RowBudget:
        """See `StepRule`."""
        return replace(self, window=window)

    def _seen(self, positions: int) -> int:
        return positions if self.window is None else min(positions, self.window)

    def _budgets(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Budgets (L, 1) of rows at the positions from start to stop."""
        if self.window is None or stop <= self.window:
            return _budgets(self.ratio, start, stop, device)
        few = [[message_budget(self.ratio, self._seen(p + 1))] for p in range(start, stop)]
        return torch.tensor(few, dtype=torch.float32, device=device)


@dataclass(frozen=True)
class StaticStep(StepRule):
    """The step is the same for every token, for neurons that fire and have no host to choose one; codes beyond are clipped and
    counted. ratio: the share of messages that it was chosen for."""

    step: float
    ratio: float = 0.0

    def encode(self, code: SpikeCode, x: Tensor, groups: int, start: int | None, name: str, check: bool) -> Codes:
        """See `StepRule`."""
        step = torch.full((*x.shape[:-1], 1), self.step, dtype=torch.float32, device=x.device)
        q = (x / step).round_()
        check_finite(name, q.abs())
        inside = q.clamp(code.code_min, code.code_max)
        return Codes(inside, step, int((inside != q).sum()))

    def integers(self, code: SpikeCode, x: Tensor, fraction: int, groups: int, start: int | None, name: str) -> Codes:
        """See `StepRule`; the step is rounded to 24 bits, which are the step of the codes then."""
        s, bits = fixed_step(self.step, fraction)
        step = torch.full((*x.shape[:-1], 1), s, dtype=torch.int64, device=x.device)
        q = divided(shifted(x, -bits), step)
        inside = q.clamp(code.code_min, code.code_max)
        return as_codes(inside, to_real(step, fraction + bits).float(), int((inside != q).sum()))

    def step_bits(self, code: SpikeCode, fraction: int) -> int:
        """See `StepRule`."""
        return fixed_step(self.step, fraction)[1]

    def no_integers(self, code: SpikeCode) -> str | None:
        """It does."""
        return None

    def share(self, code: SpikeCode, width: int, groups: int) -> float:
        """What it was chosen for."""
        return message_budget(self.ratio, width) / width if code.has_spikes else 1.0

    def problem(self, width: int) -> str | None:
        """A step that is no positive number."""
        return None if math.isfinite(self.step) and self.step > 0 else f"step is {self.step}, not a positive number"


TOKEN_STEP = TokenBudget()
"""The rule without messages beyond the spike range: the step of a token is that of its largest value."""

RULES: tuple[type[StepRule], ...] = (TokenBudget, RowBudget, StaticStep, MinMax, FixedStep, PlaneStep, PlaneRow)


def _budgets(ratio: float, start: int, stop: int, device: torch.device) -> Tensor:
    """Budgets (L, 1) of rows at the positions from start to stop."""
    return _budget_table(ratio, 1 << stop.bit_length(), device)[start:stop]


@lru_cache(maxsize=32)
def _budget_table(ratio: float, positions: int, device: torch.device) -> Tensor:
    return torch.tensor([[message_budget(ratio, p + 1)] for p in range(positions)], dtype=torch.float32, device=device)


class _Factors(NamedTuple):
    """What turns magnitudes into steps: factors of the largest, of the largest that must be a spike and, where negative spikes
    reach further than positive ones, of negative numbers; and how the second is found."""

    of_largest: float
    of_limit: float | None
    of_negative: float | None
    bound: RankBound
    bound_of_row: RankBound

    def step(self, limit: Numbers | None, largest: Numbers) -> Numbers:
        """Smallest step that keeps `limit` a spike and `largest` inside the codes; multiplied, because a GPU divides by a
        constant in another way than a CPU."""
        step = largest * self.of_largest
        if limit is not None:
            assert self.of_limit is not None
            step = maximum(step, limit * self.of_limit)
        return clamp_(step, SMALLEST_STEP)


@cache
def _factors(code: SpikeCode) -> _Factors:
    reach = code.code_max + 0.49
    if code.spike_codes is None:
        bounds = (RankBound(1.0, digits) for digits in (LIMIT_DIGITS, LIMIT_DIGITS_ROW))
        return _Factors(_float32(1.0 / reach), None, None, *bounds)
    low, high = code.spike_codes
    spike = high + 0.499
    bounds = (RankBound(spike / reach, digits) for digits in (LIMIT_DIGITS, LIMIT_DIGITS_ROW))
    negative = _float32(-spike / (0.499 - low)) if -low > high else None
    return _Factors(_float32(1.0 / reach), _float32(1.0 / spike), negative, *bounds)


def _float32(x: float) -> float:
    return torch.tensor(x, dtype=torch.float32).item()


def rule_named(name: str) -> type[StepRule]:
    """The rule called `name`; `UsageError` where there is none."""
    for rule in RULES:
        if rule.__name__ == name:
            return rule
    raise UsageError(f"unknown step rule {name!r}: choose one of {', '.join(rule.__name__ for rule in RULES)}")
