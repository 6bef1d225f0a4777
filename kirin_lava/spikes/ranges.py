"""Steps that a calibration text has fixed, for codes of any width: bit planes of two ranges, and plain integers.

    planes     |q| = floor(|x| / step)                               below theta_1 = 2^T step
               |q| = min(floor(|x| / (2^b step)), 2^T - 1) 2^b       from there on: an outlier, theta_2 = 2^b theta_1
    integers   q = clip(round(x / step), code_min, code_max)

A value beyond theta_2, or beyond all integers, is clipped and counted, see `Codes.clipped`. Divisions and floors are those of
IEEE 754, or of integers where there is no host: the codes are the same everywhere. Source of the planes: LAS, arXiv 2505.09659.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.integers import divided
from kirin_lava.base.loihi2 import MESSAGE_BITS
from kirin_lava.spikes.codes import Planes, SpikeCode
from kirin_lava.spikes.rule import SMALLEST_STEP, Codes, StepRule, check_finite

__all__ = ["STEP_DIGITS", "FixedStep", "PlaneRow", "PlaneStep", "best_planes", "step_above"]

STEP_DIGITS = 8
"""Of the step of planes: few, so that sums times a step fit 47 bits."""
_MOST_DIGITS = 24
_WORD = 62


@dataclass(frozen=True)
class FixedStep(StepRule):
    """Integers with the same step for every token and group.

    Attributes:
        step: an integer of `digits` binary digits times a power of two, so that it is the same in float32 and in integers.
        digits: of the step as an integer, 1 to 24, leading zeros left out; a power of two may have any number of them.
    """

    step: float = 1.0
    digits: int = 1

    def encode(self, code: SpikeCode, x: Tensor, groups: int, start: int | None, name: str, check: bool) -> Codes:
        """See `StepRule`."""
        if check:
            check_finite(name, x.abs())
        q = (x / self._unit(x)).round_()
        inside = q.clamp(code.code_min, code.code_max)
        return Codes(inside, self._steps(x, groups), int((inside != q).sum()))

    def integers(self, code: SpikeCode, x: Tensor, fraction: int, groups: int, start: int | None, name: str) -> Codes:
        """See `StepRule`."""
        q = divided(*self._quotient(x, fraction, name))
        inside = q.clamp(code.code_min, code.code_max)
        return Codes(inside.float(), self._steps(x, groups), int((inside != q).sum()))

    def step_bits(self, code: SpikeCode, fraction: int) -> int:
        """See `StepRule`."""
        return self._whole[1] - fraction

    def no_integers(self, code: SpikeCode) -> str | None:
        """It does."""
        return None

    def share(self, code: SpikeCode, width: int, groups: int) -> float:
        """No messages among spikes; all that is kept."""
        return 0.0 if code.has_spikes else 1.0

    def problem(self, width: int) -> str | None:
        """A step that is no positive number of so many digits."""
        if not (math.isfinite(self.step) and SMALLEST_STEP <= self.step < 1 / SMALLEST_STEP):
            return f"step is {self.step}, not a positive number"
        if not 1 <= self.digits <= _MOST_DIGITS:
            return f"a step of {self.digits} digits has not 1 to {_MOST_DIGITS}"
        part = math.ldexp(math.frexp(self.step)[0], self.digits)
        return None if part.is_integer() else f"step is {self.step}, not of {self.digits} binary digits"

    @property
    def _whole(self) -> tuple[int, int]:
        """The step as `s * 2^-e`."""
        part, exponent = math.frexp(self.step)
        return int(math.ldexp(part, self.digits)), self.digits - exponent

    def _quotient(self, x: Tensor, fraction: int, name: str) -> tuple[Tensor, int]:
        """Numerators (of x in units of 2^-fraction) and a denominator of what x is in steps."""
        s, exponent = self._whole
        up = exponent - fraction
        if not up + s.bit_length() > -_WORD or up > _WORD - MESSAGE_BITS:
            raise FitError(f"{name}: a step of {self.step:.4g} has no place in units of 2^-{fraction}; calibrate on more text")
        return x << max(up, 0), s << max(-up, 0)

    def _unit(self, x: Tensor) -> Tensor:
        return torch.full((1,), self.step, dtype=torch.float32, device=x.device)

    def _steps(self, x: Tensor, groups: int) -> Tensor:
        """A step for every token and group, or for every row of probabilities."""
        shape = (x.shape[0], x.shape[2], x.shape[1]) if self.by_row else (*x.shape[:-1], groups)
        return torch.full(shape, self.step, dtype=torch.float32, device=x.device)


@dataclass(frozen=True)
class PlaneStep(FixedStep):
    """Bit planes; the step is that of ordinary values, `theta_1 / 2^T`."""

    def encode(self, code: SpikeCode, x: Tensor, groups: int, start: int | None, name: str, check: bool) -> Codes:
        """See `StepRule`."""
        assert isinstance(code, Planes)
        size = (x / self._unit(x)).abs_()
        if check:
            check_finite(name, size)
        most, further = float(2**code.window), float(2**code.outlier_shift)
        level = (size / further).floor_()
        clipped = int((level >= most).sum())
        outlier = level.clamp_(max=most - 1).mul_(further)
        q = torch.where(size < most, size.floor(), outlier)
        return Codes(q.copysign_(x), self._steps(x, groups), clipped)

    def integers(self, code: SpikeCode, x: Tensor, fraction: int, groups: int, start: int | None, name: str) -> Codes:
        """See `StepRule`."""
        assert isinstance(code, Planes)
        above, below = self._quotient(x.abs(), fraction, name)
        size = torch.div(above, below, rounding_mode="floor")
        level, most = size >> code.outlier_shift, 1 << code.window
        outlier = level.clamp(max=most - 1) << code.outlier_shift
        q = torch.where(size < most, size, outlier) * x.sign()
        return Codes(q.float(), self._steps(x, groups), int((level >= most).sum()))

    def unfit(self, code: SpikeCode) -> str | None:
        """See `StepRule`."""
        return None if isinstance(code, Planes) else f"ranges of bit planes do not give {code.name} codes"


@dataclass(frozen=True)
class PlaneRow(PlaneStep):
    """The same for rows of attention probabilities."""

    by_row: ClassVar[bool] = True


def step_above(step: float, digits: int) -> float:
    """The smallest step of so many binary digits that is not below a number."""
    part, exponent = math.frexp(max(step, SMALLEST_STEP))
    return math.ldexp(math.ceil(math.ldexp(part, digits)), exponent - digits)


def best_planes(codes: Iterable[Planes], reach: float, sample: Tensor) -> tuple[Planes, PlaneStep]:
    """Of codes whose outliers reach so far, that of the least squared error on a sample; the first of equal ones."""
    found: tuple[float, Planes, PlaneStep] | None = None
    for code in codes:
        rule = PlaneStep(step_above(reach / 2 ** (code.window + code.outlier_shift), STEP_DIGITS), STEP_DIGITS)
        error = rule.values(code, rule.encode(code, sample.view(1, -1, 1), 1, 0, "", False)).flatten() - sample
        squared = float(error.double().square().sum())
        if found is None or squared < found[0]:
            found = squared, code, rule
    if found is None:
        raise UsageError("no code to choose from")
    return found[1:]
