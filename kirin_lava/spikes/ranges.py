"""Steps that a calibration text has fixed, for codes of any width: bit planes of two ranges, and plain integers.

    planes     |q| = floor(|x| / step)                               below theta_1 = 2^T step
               |q| = min(floor(|x| / (2^b step)), 2^T - 1) 2^b       from there on: an outlier, theta_2 = 2^b theta_1
    integers   q = clip(round(x / step), code_min, code_max)

A value beyond theta_2, or beyond all integers, is clipped and counted, see `Codes.clipped`. Divisions and floors are those of
IEEE 754: the codes are the same everywhere. Source of the planes: LAS, arXiv 2505.09659.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.spikes.codes import Planes, SpikeCode
from kirin_lava.spikes.rule import SMALLEST_STEP, Codes, StepRule, check_finite

__all__ = ["FixedStep", "PlaneRow", "PlaneStep", "best_planes"]


@dataclass(frozen=True)
class FixedStep(StepRule):
    """Integers with the same step for every token and group."""

    step: float = 1.0

    def encode(self, code: SpikeCode, x: Tensor, groups: int, start: int, name: str, check: bool) -> Codes:
        """See `StepRule`."""
        if check:
            check_finite(name, x.abs())
        q = (x / self._unit(x)).round_()
        inside = q.clamp(code.code_min, code.code_max)
        return Codes(inside, self._steps(x, groups), int((inside != q).sum()))

    def share(self, code: SpikeCode, width: int, groups: int) -> float:
        """No messages among spikes; all that is kept."""
        return 0.0 if code.has_spikes else 1.0

    def problem(self, width: int) -> str | None:
        """A step that is no positive number of float32."""
        fits = math.isfinite(self.step) and SMALLEST_STEP <= self.step < 1 / SMALLEST_STEP
        return None if fits else f"step is {self.step}, not a positive number"

    def _unit(self, x: Tensor) -> Tensor:
        return torch.full((1,), self.step, dtype=torch.float32, device=x.device)

    def _steps(self, x: Tensor, groups: int) -> Tensor:
        """A step for every token and group, or for every row of probabilities."""
        shape = (x.shape[0], x.shape[2], x.shape[1]) if self.by_row else (*x.shape[:-1], groups)
        return torch.full(shape, self.step, dtype=torch.float32, device=x.device)


@dataclass(frozen=True)
class PlaneStep(FixedStep):
    """Bit planes; the step is that of ordinary values, `theta_1 / 2^T`."""

    def encode(self, code: SpikeCode, x: Tensor, groups: int, start: int, name: str, check: bool) -> Codes:
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

    def unfit(self, code: SpikeCode) -> str | None:
        """See `StepRule`."""
        return None if isinstance(code, Planes) else f"ranges of bit planes do not give {code.name} codes"


@dataclass(frozen=True)
class PlaneRow(PlaneStep):
    """The same for rows of attention probabilities."""

    by_row: ClassVar[bool] = True


def best_planes(codes: Iterable[Planes], reach: float, sample: Tensor) -> tuple[Planes, PlaneStep]:
    """Of codes whose outliers reach so far, that of the least squared error on a sample; the first of equal ones."""
    found: tuple[float, Planes, PlaneStep] | None = None
    for code in codes:
        rule = PlaneStep(max(reach / 2 ** (code.window + code.outlier_shift), SMALLEST_STEP))
        error = rule.values(code, rule.encode(code, sample.view(1, -1, 1), 1, 0, "", False)).flatten() - sample
        squared = float(error.double().square().sum())
        if found is None or squared < found[0]:
            found = squared, code, rule
    if found is None:
        raise UsageError("no code to choose from")
    return found[1:]
