"""The parameters of an integrate-and-fire neuron with a held membrane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.spikes.codes import Rate, SpikeCode

__all__ = ["Held"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Held:
    """Attributes:
    code: of the outputs, 0..T spikes in T steps.
    theta: (N,) int64, the threshold, at least 1: T times the membrane that stands for one count.
    initial: (N,) int64, x at the start of the T steps, 0 .. theta - 1; theta // 2 rounds half up.
    offset: (N,) int64, added to the membrane `2^exponent * v`: the bias.
    exponent: f, the synapses hold `2^f * weight`.
    """

    code: SpikeCode
    theta: Int64
    initial: Int64
    offset: Int64
    exponent: int = 0

    def problem(self, neurons: int) -> str | None:
        """What is wrong for a layer of so many neurons: shapes, thresholds that are none or whose double does not fit the
        24-bit state, a start outside 0 .. theta - 1, an exponent beyond 23, codes that are no counts."""
        for what, array in (("theta", self.theta), ("initial", self.initial), ("offset", self.offset)):
            if array.shape != (neurons,):
                return f"{what} has {array.size} values instead of {neurons}"
        if self.theta.min() < 1:
            return f"theta of neuron {int(self.theta.argmin())} is {int(self.theta.min())}, not 1 or more"
        if 2 * self.theta.max() > STATE_MAX:
            worst = int(self.theta.argmax())
            return f"theta of neuron {worst} is {int(self.theta[worst])}: twice as much does not fit 24 bits ({STATE_MAX})"
        outside = (self.initial < 0) | (self.initial >= self.theta)
        if outside.any():
            worst = int(outside.argmax())
            return f"initial of neuron {worst} is {int(self.initial[worst])}, not 0 to {int(self.theta[worst]) - 1}"
        if not isinstance(self.code, Rate):
            return f"{self.code.name} codes are no counts of spikes: an integrate-and-fire neuron cannot fire them"
        return None if 0 <= self.exponent < 24 else f"shift is {self.exponent}, not 0 to 23"
