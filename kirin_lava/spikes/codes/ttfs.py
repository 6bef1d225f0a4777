"""Time to first spike: a code travels as a single spike whose time is its value.

    spike    payload sign(c), step T - |c|     counts c
    message  payload c,       step T - 1       counts c
    silent   c = 0                             counts 0

with `kernel[t] = T - t`. Source: Kirin, arXiv 2602.08817 (single spikes, integers for outliers).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kirin_lava.spikes.codes.code import SpikeCode

__all__ = ["OFFSET", "SIGNED", "UNSIGNED8", "UNSIGNED16", "Ttfs"]


@dataclass(frozen=True)
class Ttfs(SpikeCode):
    """spike_min, spike_max: codes q that travel as spikes, inclusive; `|q + z| < T`, or `<= T` where that leaves 0 silent."""

    family: ClassVar[str] = "single spikes"
    meaning: ClassVar[str] = (
        "from spike_min to spike_max q sends sign(c), |c| columns before the window ends, else c in its last one"
    )
    spike_min: int
    spike_max: int

    @property
    def spike_codes(self) -> tuple[int, int]:
        """See `SpikeCode`."""
        return self.spike_min, self.spike_max

    @cached_property
    def kernel(self) -> tuple[int, ...]:
        """T - t."""
        return tuple(range(self.window, 0, -1))

    def spikes(self, sent: npt.NDArray[np.int64], steps: int) -> npt.NDArray[np.int32]:
        """One spike of payload -1 or +1 a code, |c| steps before the window's end."""
        raster = np.zeros((*sent.shape, steps), np.int32)
        where = np.nonzero(sent)
        times = (*where, steps - np.abs(sent[where]))
        raster[times] = np.sign(sent[where])
        return raster


OFFSET = Ttfs("offset", window=16, zero=8, code_min=-127, code_max=127, spike_min=-8, spike_max=7)
SIGNED = Ttfs("signed", window=8, zero=0, code_min=-127, code_max=127, spike_min=-7, spike_max=7)
UNSIGNED16 = Ttfs("unsigned-16", window=16, zero=0, code_min=0, code_max=255, spike_min=0, spike_max=15)
UNSIGNED8 = Ttfs("unsigned-8", window=8, zero=0, code_min=0, code_max=255, spike_min=0, spike_max=7)
