"""Bit planes: a code sends its sign in the step of each of its bits that is set, the highest bit first.

    ordinary    |q| < 2^T                       payload sign(q)        in step t where bit T-1-t of |q| is set
    outlier     |q| = level * 2^b >= 2^T        payload sign(q) * 2^b  in step t where bit T-1-t of the level is set
    silent      q = 0

with `kernel[t] = 2^(T-1-t)`. Codes count in the step of ordinary values, `theta_1 / 2^T`; an outlier is coded in a range
`theta_2 = 2^b theta_1`, so that its planes are payloads into the same sums. Source: LAS, arXiv 2505.09659 (outlier-aware
threshold neurons), whose two ranges are any two numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import UsageError
from kirin_lava.spikes.codes.code import Integers, SpikeCode
from kirin_lava.spikes.codes.graded import Graded

__all__ = ["HALVES16", "OUTLIER_SHIFTS", "PLANES", "PLANE_WIDTHS", "Planes", "planes"]


@dataclass(frozen=True)
class Planes(SpikeCode):
    """outlier_shift: b, how often the range of outliers is twice that of other values; 0 where there are none."""

    family: ClassVar[str] = "bit planes"
    meaning: ClassVar[str] = (
        "sign(c) in column t where bit T-1-t of abs(c) is set; from 2^T on c is a multiple of 2^outlier_shift, which sends"
        " the bits of abs(c) / 2^outlier_shift, each as sign(c) * 2^outlier_shift"
    )
    repeats: ClassVar[bool] = True
    by_plane: ClassVar[bool] = True
    outlier_shift: int

    @property
    def spike_codes(self) -> tuple[int, int]:
        """All of them."""
        return self.code_min, self.code_max

    @property
    def kernel(self) -> tuple[int, ...]:
        """2^(T-1-t)."""
        return tuple(1 << (self.window - 1 - t) for t in range(self.window))

    @property
    def graded(self) -> bool:
        """Those of outliers, where there are any."""
        return self.outlier_shift > 0

    @property
    def payload_bits(self) -> int:
        """A sign, and where there are outliers 2^b."""
        return 1 + self.outlier_shift

    @property
    def spike_bits(self) -> int:
        """Of an ordinary code, which most are: T and a sign."""
        return self.window + 1

    @property
    def step_span(self) -> tuple[int, int]:
        """A plane of an outlier."""
        return -(1 << self.outlier_shift), 1 << self.outlier_shift

    @property
    def running_span(self) -> tuple[int, int]:
        """All planes of an outlier."""
        return -(self.window << self.outlier_shift), self.window << self.outlier_shift

    def levels(self, size: Any) -> Any:
        """Bits to send (T of them) of magnitudes of codes (any shape), integers."""
        return size >> (self.outlier_shift * (size >> self.window != 0))

    def admitted(self, codes: Integers) -> Integers:
        """See `SpikeCode`: of an outlier the multiple of 2^b below in magnitude."""
        size = np.abs(np.asarray(codes, np.int64))
        shift = self.outlier_shift * (size >> self.window != 0)
        return np.sign(codes) * (size >> shift << shift)

    def check_codes(self, codes: Integers) -> None:
        """See `SpikeCode`."""
        odd = np.asarray(codes) != self.admitted(codes)
        if odd.any():
            where = tuple(int(i) for i in np.argwhere(odd)[0])
            raise UsageError(
                f"code {int(codes[where])} is no multiple of {1 << self.outlier_shift}: from {1 << self.window} on"
                f" {self.name} codes are outliers"
            )

    def spikes(self, sent: npt.NDArray[np.int64], steps: int) -> npt.NDArray[np.int32]:
        """A payload for every bit that is set."""
        size = np.abs(sent)
        level = self.levels(size)
        payload = (np.sign(sent) * np.where(size >> self.window != 0, 1 << self.outlier_shift, 1)).astype(np.int32)
        raster = np.zeros((*sent.shape, steps), np.int32)
        for t in range(self.window):
            raster[..., steps - self.window + t] = payload * (level >> (self.window - 1 - t) & 1)
        return raster

    def spike_count(self, q: Any) -> Any:
        """Bits that are set."""
        if isinstance(q, np.ndarray):
            level = self.levels(np.abs(q.astype(np.int64)))
        else:
            import torch  # the help reads this module without it

            level = self.levels(q.abs().to(torch.int32))
        count = level & 1
        for bit in range(1, self.window):
            count = count + (level >> bit & 1)
        return count

    def graded_count(self, q: Any) -> Any:
        """Those of outliers."""
        return self.spike_count(q) * (abs(q) >= 1 << self.window)


def planes(window: int, outlier_shift: int) -> Planes:
    """Codes of `window` bits and a sign; outliers reach 2^outlier_shift as far."""
    largest = ((1 << window) - 1) << outlier_shift
    name = f"planes-{window}" + (f"-x{1 << outlier_shift}" if outlier_shift else "")
    return Planes(name, window, 0, -largest, largest, outlier_shift=outlier_shift)


PLANE_WIDTHS = (16, 12, 8)
OUTLIER_SHIFTS = (0, 2, 4, 8)
"""With 8 the codes of 16 planes are just below 2^24, where float32 ends to hold every integer."""

PLANES: tuple[Planes, ...] = tuple(planes(window, shift) for window in PLANE_WIDTHS for shift in OUTLIER_SHIFTS)
"""All of them."""

HALVES16 = Graded("halves-16", window=1, zero=0, code_min=-127 * 257, code_max=127 * 257)
"""Of keys and values in a cache: two synapses of 8 bits hold one, `256 high + low`, low from -128 to 127."""
