"""Multi-level spikes: a spike carries a level, and a channel whose codes are finer takes several of them.

Codes count in the finest step there is. The ordinary channels know every 2^a-th code and send one spike, the fine channels know
them all and send up to T = 2^a spikes:

    ordinary    one spike of payload c = level * 2^a, level 0 .. 15      T steps, the first is used
    fine        payload min(what is left of c, 16) in every step         c = 0 .. 16 T - 1
    silent      c = 0

with `kernel[t] = 1`. That is the neuron of SpikeLLM (arXiv 2407.04752): it integrates c once, and while it lasts sends
`clip(floor(v / threshold), 0, L)` in every step and takes what it sent off v. With L = 15 levels the highest codes cannot be
reached (30 of 31, 60 of 63); here L = 16. See `kirin_lava.spikes.neurons.levels` for the neuron step by step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import UsageError
from kirin_lava.spikes.codes.code import Integers, SpikeCode
from kirin_lava.spikes.codes.graded import Graded

__all__ = ["LEVELS", "ORDINARY_BITS", "REFINED", "Levels", "Refined", "levels"]

ORDINARY_BITS = 4
"""Of the codes of an ordinary channel."""
_TOP = 1 << ORDINARY_BITS


@dataclass(frozen=True)
class Levels(SpikeCode):
    """Attributes:
    refinement: a, how often the step of a fine channel is halved; T = 2^a.
    top: L, the highest level of a spike.
    """

    family: ClassVar[str] = "multi-level spikes"
    meaning: ClassVar[str] = (
        "in a fine channel min(what is left of c, top) in each column until nothing is left, else all of c, a multiple of"
        " 2^refinement, in the first; without channels all are fine"
    )
    per_channel: ClassVar[bool] = True
    refinement: int
    top: int = _TOP

    @property
    def graded(self) -> bool:
        """It carries a level."""
        return True

    @property
    def spike_codes(self) -> tuple[int, int]:
        """All of them."""
        return self.code_min, self.code_max

    @property
    def kernel(self) -> tuple[int, ...]:
        """1 in each step."""
        return (1,) * self.window

    @property
    def spike_bits(self) -> int:
        """Of an ordinary channel, which most are."""
        return ORDINARY_BITS

    @property
    def payload_bits(self) -> int:
        """Of a spike: it carries `level * 2^a`, or a level up to L."""
        return max((_TOP - 1) << self.refinement, min(self.top, self.code_max)).bit_length()

    def thresholds(self, width: int) -> npt.NDArray[np.int64]:
        """(width,) what a level counts in each channel."""
        return np.where(self.fine(width), 1, 1 << self.refinement).astype(np.int64)

    def admitted(self, codes: Integers) -> Integers:
        """See `SpikeCode`: in an ordinary channel the multiple of 2^a below."""
        each = self.thresholds(np.shape(codes)[-1])
        return np.asarray(codes) // each * each

    def check_codes(self, codes: Integers) -> None:
        """See `SpikeCode`."""
        if self.channels is None:
            return
        odd = codes % self.thresholds(codes.shape[-1]) != 0
        if odd.any():
            where = tuple(int(i) for i in np.argwhere(odd)[0])
            raise UsageError(
                f"code {int(codes[where])} in channel {where[-1]} is no multiple of {1 << self.refinement}: only a fine channel"
                f" of {self.name} codes sends it"
            )

    def spikes(self, sent: npt.NDArray[np.int64], steps: int) -> npt.NDArray[np.int32]:
        """What is left of c, step by step, in closed form: `clip(c - L t, 0, L)`."""
        raster = np.zeros((*sent.shape, steps), np.int32)
        fine = self.fine(sent.shape[-1]) if sent.ndim else np.True_
        for t in range(self.window):
            share = np.clip(sent - self.top * t, 0, self.top)
            raster[..., steps - self.window + t] = np.where(fine, share, sent if t == 0 else 0)
        return raster

    def spike_count(self, q: Any) -> Any:
        """`ceil(c / L)` in a fine channel, 1 in another; 0 of code 0."""
        many = (q + (self.top - 1)) // self.top
        if self.channels is None:
            return many
        fine = self.fine_like(q)
        return many * fine + (q != 0) * ~fine


@dataclass(frozen=True)
class Refined(Graded):
    """Cached integers of which the fine channels know all and the others every 2^refinement-th."""

    per_channel: ClassVar[bool] = True
    refinement: int


def levels(refinement: int, top: int = _TOP) -> Levels:
    """Codes of 4 bits, in fine channels of `4 + refinement`."""
    window = 1 << refinement
    return Levels(f"levels-{window}", window, 0, 0, _TOP * window - 1, refinement=refinement, top=top)


LEVELS: tuple[Levels, ...] = tuple(levels(refinement) for refinement in (0, 1, 2))
"""All of them."""

REFINED: tuple[Refined, ...] = tuple(
    Refined(f"refined-{1 << a}", window=1, zero=0, code_min=1 - (_TOP << a), code_max=(_TOP << a) - 1, refinement=a)
    for a in (0, 1)
)
"""Of keys and values: a code of 4 bits, `4 + refinement` in a fine channel, less its zero point."""
