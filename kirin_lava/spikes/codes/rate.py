"""Rate: a code is how many of the T steps of a window have a spike.

    spike    payload 1 in c of the T steps     counts 1 each
    silent   c = 0

with `kernel[t] = 1` and c from 0 to T. Which steps they are does not matter: an integrate-and-fire neuron spikes wherever its
membrane meets the threshold, and every reader counts. An encoder sends them as such a neuron would that holds a current of
exactly `c / T` thresholds and starts at half of one: evenly spread. Source: FAS, arXiv 2502.04405.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kirin_lava.spikes.codes.code import SpikeCode

__all__ = ["RATE", "Rate", "rate"]


@dataclass(frozen=True)
class Rate(SpikeCode):
    """Codes 0..T, all of them spikes."""

    family: ClassVar[str] = "rate"
    meaning: ClassVar[str] = "1 in c of the columns of the window, evenly spread"
    repeats: ClassVar[bool] = True

    @property
    def spike_codes(self) -> tuple[int, int]:
        """All of them."""
        return self.code_min, self.code_max

    @property
    def kernel(self) -> tuple[int, ...]:
        """1 in each step."""
        return (1,) * self.window

    def spikes(self, sent: npt.NDArray[np.int64], steps: int) -> npt.NDArray[np.int32]:
        """In the last T steps: spike j where `floor(c (t + 1) / T + 1/2)` becomes j."""
        raster = np.zeros((*sent.shape, steps), np.int32)
        ends = np.arange(self.window + 1)
        fired = (2 * sent[..., None] * ends + self.window) // (2 * self.window)
        raster[..., steps - self.window :] = np.diff(fired, axis=-1)
        return raster

    def spike_count(self, q: Any) -> Any:
        """c."""
        return q


def rate(window: int) -> Rate:
    """Codes of T steps."""
    return Rate(f"rate-{window}", window=window, zero=0, code_min=0, code_max=window)


RATE: tuple[Rate, ...] = (rate(4), rate(8), rate(16))
"""All of them."""
