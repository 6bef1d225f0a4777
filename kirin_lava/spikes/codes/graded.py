"""Integers as they are: every code that is not 0 travels as one graded message in a window of one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kirin_lava.spikes.codes.code import SpikeCode

__all__ = ["GRADED", "INTEGER8", "UNSIGNED_INTEGER8", "Graded", "integer"]


@dataclass(frozen=True)
class Graded(SpikeCode):
    """No spikes at all."""

    family: ClassVar[str] = "graded messages"
    meaning: ClassVar[str] = "c is sent in the last column of the window"

    @property
    def spike_codes(self) -> None:
        """None: all codes are messages."""
        return None

    @property
    def kernel(self) -> tuple[int, ...]:
        """1 in each step."""
        return (1,) * self.window

    def spikes(self, sent: npt.NDArray[np.int64], steps: int) -> npt.NDArray[np.int32]:
        """None."""
        return np.zeros((*sent.shape, steps), np.int32)


def integer(bits: int) -> Graded:
    """Integers of `bits`, sign included."""
    largest = 2 ** (bits - 1) - 1
    return Graded(f"integer-{bits}", window=1, zero=0, code_min=-largest, code_max=largest)


INTEGER8 = integer(8)
UNSIGNED_INTEGER8 = Graded("unsigned-integer-8", window=1, zero=0, code_min=0, code_max=255)

GRADED = (INTEGER8, integer(12), integer(16), UNSIGNED_INTEGER8)
"""All of them."""
