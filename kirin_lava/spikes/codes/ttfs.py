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

__all__ = ["MESSAGE_BITS", "OFFSET", "SIGNED", "SIGNED16", "TTFS", "UNSIGNED8", "UNSIGNED16", "Ttfs", "offset", "signed"]


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


def signed(window: int, bits: int) -> Ttfs:
    """Sign and time: codes below T in magnitude are spikes, messages have `bits` with their sign."""
    reach, largest = window - 1, 2 ** (bits - 1) - 1
    return Ttfs(_name("signed", window != 8, window, bits), window, 0, -largest, largest, spike_min=-reach, spike_max=reach)


def offset(bits: int) -> Ttfs:
    """The paper's: 16 codes from -8 to 7, moved by 8, so that time alone tells them; messages have `bits` with their sign."""
    largest = 2 ** (bits - 1) - 1
    return Ttfs(_name("offset", False, 16, bits), 16, 8, -largest, largest, spike_min=-8, spike_max=7)


def _name(kind: str, long: bool, window: int, bits: int) -> str:
    """Names say what is not usual: a window that is not the kind's first, messages that have not 8 bits."""
    return kind + (f"-{window}" if long else "") + (f"-m{bits}" if bits != 8 else "")


OFFSET, SIGNED, SIGNED16 = offset(8), signed(8, 8), signed(16, 8)
UNSIGNED16 = Ttfs("unsigned-16", window=16, zero=0, code_min=0, code_max=255, spike_min=0, spike_max=15)
UNSIGNED8 = Ttfs("unsigned-8", window=8, zero=0, code_min=0, code_max=255, spike_min=0, spike_max=7)

MESSAGE_BITS = (8, 12, 16)
"""Widths of messages, sign included: the paper's, and two that a graded spike of 24 bits holds as well."""

TTFS: tuple[Ttfs, ...] = (
    *(offset(bits) for bits in MESSAGE_BITS),
    *(signed(window, bits) for window in (8, 16) for bits in MESSAGE_BITS),
    UNSIGNED16,
    UNSIGNED8,
)
"""All of them."""
