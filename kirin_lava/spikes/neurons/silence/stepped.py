"""The silence-threshold neuron, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import FitError
from kirin_lava.spikes.neurons.silence.ladder import Ladder
from kirin_lava.spikes.neurons.two_state import TwoState

__all__ = ["SteppedSilence"]

Integers = npt.NDArray[np.integer[Any]]
Int64 = npt.NDArray[np.int64]


class SteppedSilence(TwoState):
    """A layer of silence-threshold neurons.

    A window's membrane is kept for the fire phase, which passes during the next window while `u` and `v` already integrate that
    one. Code c fires c steps before the last step of that next window, so that a consumer behind a synapse with a delay of one
    step sees it at distance c from the end of its own window.

    Args:
        fire: the parameters. The currents are to carry its `shift`.
        silence: False makes the threshold finite from the first step of a window on, the ablation: the ladder then falls while
            inputs still arrive.
    """

    def __init__(
        self,
        fire: Ladder,
        shape: tuple[int, ...],
        period: int,
        gains: tuple[int, ...],
        constant: Integers | int = 0,
        u: Int64 | None = None,
        v: Int64 | None = None,
        silence: bool = True,
    ) -> None:
        if period < fire.code.window:
            raise FitError(f"a window of {period} steps cannot hold {fire.code.name} codes: they need {fire.code.window}")
        super().__init__(shape, period, gains, constant, u, v)
        self._fire, self._silence = fire, silence
        self.latency = 1 if silence else 0
        self._lift = self._lift + fire.lift()
        self._latched = np.zeros(shape, np.int64)
        self._waiting = np.zeros(shape, bool)  # has a membrane that has not fired yet
        self._threshold = np.zeros(len(fire.ramp), np.int64)

    def during(self, t: int, out: Int64) -> None:
        """The threshold of step t: infinite outside the fire phase, the highest at its start, then lower by D each step."""
        if not self._silence:
            self._latched = self.v + self._lift
            self._waiting |= t == 0
        code, ramp = self._fire.code, self._fire.ramp
        first = self._period - code.window
        if not first <= t < self._period - 1:
            return
        if t == first:
            self._threshold = (code.window - 1) * ramp - ramp // 2
        else:
            self._threshold = self._threshold - ramp
        up = self._waiting & (self._latched >= self._threshold)
        out[up] = 1
        self._waiting &= ~up
        if code.mirrored:
            down = self._waiting & (-self._latched >= self._threshold)
            out[down] = -1
            self._waiting &= ~down

    def ending(self, membrane: Int64, out: Int64) -> Int64:
        """Keep the membrane; what was fired in this step goes out."""
        if self._silence:
            self._latched, self._waiting = membrane, np.ones_like(self._waiting)
        return out

    def collect(self, trace: list[Int64]) -> Int64:
        """Codes q (..., windows, N): a spike in step t of its window is level `period - 1 - t`. With silence the first window
        of the trace is that before the first answer."""
        fired = np.stack(trace[self._period :] if self._silence else trace, axis=-1)
        levels = fired.reshape(*self.u.shape, -1, self._period) @ np.arange(self._period - 1, -1, -1)
        return np.moveaxis(levels, -1, -2) - self._fire.code.zero
