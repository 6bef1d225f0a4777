"""What a step rule is: it finds the step of a token, a head or a row, and the codes that follow from it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.spikes.codes import SpikeCode

__all__ = ["LEFT_OUT", "SMALLEST_STEP", "Codes", "StepRule", "check_finite"]

LEFT_OUT = {"left_out": True}
"""Metadata of a field that a file names only where it is not None."""

SMALLEST_STEP = 2.0**-120
"""Of a token that is all zeros, or nearly."""


@dataclass
class Codes:
    """Integer codes with their steps.

    Attributes:
        q: (B, L, W) codes in float32, or (B, H, L, J) for attention probabilities.
        step: (B, L, groups) float32.
        clipped: how many codes a fixed step had to clip.
        zero: (B, L, Z) float32 integers, the zero points of a token, by kind of channel: ordinary, fine. A code q of such a
            channel stands for `(q - zero) * step`. None where a code of 0 stands for 0.
    """

    q: Tensor
    step: Tensor
    clipped: int = 0
    zero: Tensor | None = None

    def tokens(self, tokens: slice) -> Codes:
        """Some tokens of codes (B, L, W)."""
        return Codes(self.q[:, tokens], self.step[:, tokens], zero=None if self.zero is None else self.zero[:, tokens])

    def values(self) -> Tensor:
        """What the codes stand for, `q * step`, in the shape of q."""
        if self.q.dim() == 4:
            return self.q * self.step.transpose(1, 2).unsqueeze(-1)
        groups = self.step.shape[-1]
        return self.q * (self.step if groups == 1 else self.step.repeat_interleave(self.q.shape[-1] // groups, -1))


@dataclass(frozen=True)
class StepRule(ABC):
    """How steps are found.

    Attributes:
        by_row: whether it takes rows of attention probabilities (B, H, L, J) instead of tokens (B, L, W).
    """

    by_row: ClassVar[bool] = False

    @property
    def zero_points(self) -> int:
        """Z, zero points of a token, which are taken off the sums of its codes."""
        return 0

    def values(self, code: SpikeCode, found: Codes) -> Tensor:
        """What codes of (..., W) with one step a row, or of rows of probabilities, stand for."""
        return found.values() if self.by_row else found.q * found.step

    @abstractmethod
    def encode(self, code: SpikeCode, x: Tensor, groups: int, start: int | None, name: str, check: bool) -> Codes:
        """Codes of real values.

        Args:
            x: (B, L, W), or (B, H, L, J) by row, at positions from `start` on; start None where every row sees all J positions.
            groups: equal parts of a token with a step each.
            name: of the operation, for errors. check: whether to look for NaN and infinity here.

        Raises:
            FitError: a value that is not finite.
        """

    def reaching(self, window: int | None) -> StepRule:
        """The rule for rows of attention probabilities that reach back so many positions; None for all."""
        return self

    def budget(self, code: SpikeCode, width: int) -> int | None:
        """Most messages among `width` codes with a common step; None where any number can come up."""
        return None

    def share(self, code: SpikeCode, width: int, groups: int) -> float:
        """Largest share of messages among the codes of a token of `width`; of rows, whose number grows, the share itself."""
        return 1.0

    def integers(self, code: SpikeCode, x: Tensor, fraction: int, groups: int, start: int | None, name: str) -> Codes:
        """Codes of fixed-point values, found with integers alone; other arguments as of `encode`.

        Args:
            x: int64 in units of 2^-fraction.

        Returns:
            Codes whose steps are integers below 2^24 in units of `2^-(fraction + step_bits)`.

        Raises:
            FitError: a step beyond 24 bits.
        """
        raise UsageError(f"{name}: {self.no_integers(code)}")

    def step_bits(self, code: SpikeCode, fraction: int) -> int:
        """Binary digits of a step behind those of a value, see `integers`."""
        return 0

    def no_integers(self, code: SpikeCode) -> str | None:
        """Why it finds no steps with integers alone, None where it does."""
        return f"steps of the rule {type(self).__name__} need floats: export with `host: float`"

    def unfit(self, code: SpikeCode) -> str | None:
        """Why it cannot give codes of a kind, None where it can."""
        return None

    def problem(self, width: int) -> str | None:
        """What is wrong with its parameters, which may come from a file, for `width` codes with a common step; None where
        nothing is."""
        return None


def check_finite(name: str, magnitude: Tensor) -> None:
    """Raise `FitError` for magnitudes that are not all finite; `name` is the operation."""
    if not math.isfinite(float(magnitude.max())):
        raise FitError(f"{name}: an activation is NaN or infinite; the checkpoint or the input is broken")
