"""Which channels of a value are sent in finer steps than the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import UsageError

__all__ = ["Channels"]


@dataclass(frozen=True)
class Channels:
    """A fixed set of the channels of a value.

    Attributes:
        width: how many channels there are.
        fine: numbers of those in the set, ascending.
    """

    width: int
    fine: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.fine, self.fine[1:], strict=False))
        if self.width < 1 or not ascending or (self.fine and not 0 <= self.fine[0] <= self.fine[-1] < self.width):
            raise UsageError(f"channels {list(self.fine[:8])} are no ascending numbers below {self.width}; export again")

    @classmethod
    def of(cls, mask: Sequence[Any] | npt.NDArray[Any]) -> Channels:
        """The set of a mask (width,)."""
        flags = np.asarray(mask)
        return cls(len(flags), tuple(int(i) for i in np.flatnonzero(flags)))

    @cached_property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(width,) whether a channel is in the set."""
        mask = np.zeros(self.width, np.bool_)
        mask[list(self.fine)] = True
        return mask

    def part(self, start: int, stop: int) -> Channels:
        """Those of the channels from start to stop, numbered from 0."""
        return Channels.of(self.mask[start:stop])
