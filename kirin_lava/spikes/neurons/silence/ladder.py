"""The parameters of a silence-threshold neuron: its falling thresholds and what is put on its membrane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kirin_lava.spikes.codes import SpikeCode

__all__ = ["Ladder"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ladder:
    """Thresholds `k * D - D // 2` for k = T-1 down to 1, one per step.

    Attributes:
        code: of the outputs. Unsigned: negative membranes stay silent, which is ReLU for free.
        ramp: (N,) int64, D >= 1.
        offset: (N,) int64, the bias in units of the membrane `2^exponent * v`.
        exponent: f, the synapses hold `2^f * weight`, so that D is not coarse.
    """

    code: SpikeCode
    ramp: Int64
    offset: Int64
    exponent: int = 0

    def lift(self) -> Int64:
        """(N,) what is put on the membrane: the bias, and the zero-point of the outputs."""
        return self.offset + self.code.zero * self.ramp

    def top(self) -> Int64:
        """(N,) the threshold of level T-1."""
        return (self.code.window - 1) * self.ramp - self.ramp // 2

    def problem(self, neurons: int) -> str | None:
        """What is wrong for a layer of so many neurons: shapes, ramps below 1, an exponent beyond 23, codes that are no
        spikes."""
        for what, array in (("ramp", self.ramp), ("offset", self.offset)):
            if array.shape != (neurons,):
                return f"{what} has {array.size} values instead of {neurons}"
        if self.ramp.min() < 1:
            return f"ramp of neuron {int(self.ramp.argmin())} is {int(self.ramp.min())}, not 1 or more"
        if not self.code.has_spikes:
            return f"{self.code.name} codes are no spikes: a neuron cannot fire them"
        if self.code.graded:
            return f"{self.code.name} codes are graded: a neuron that falls silent after one spike cannot fire them"
        if self.code.repeats:
            return f"{self.code.name} codes take several spikes: a neuron that falls silent after one cannot fire them"
        return None if 0 <= self.exponent < 24 else f"shift is {self.exponent}, not 0 to 23"
