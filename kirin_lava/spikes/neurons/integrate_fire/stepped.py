"""The integrate-and-fire neuron with a held membrane, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.spikes.neurons.integrate_fire.held import Held
from kirin_lava.spikes.neurons.two_state import TwoState

__all__ = ["SteppedIntegrateFire"]

Integers = npt.NDArray[np.integer[Any]]
Int64 = npt.NDArray[np.int64]


class SteppedIntegrateFire(TwoState):
    """A layer of them.

    A window's membrane is held while the next window passes; `u` and `v` already integrate that one. A consumer behind a
    synapse with a delay of one step sees the T steps as the last T of its own window, so the first of them is the step in which
    the membrane is complete where the period is T.

    Args:
        held: the parameters. The currents are to carry its `shift`.
    """

    latency = 1

    def __init__(
        self,
        held: Held,
        shape: tuple[int, ...],
        period: int,
        gains: tuple[int, ...],
        constant: Integers | int = 0,
        u: Int64 | None = None,
        v: Int64 | None = None,
    ) -> None:
        if period < held.code.window:
            raise FitError(f"a window of {period} steps cannot hold {held.code.name} codes: they need {held.code.window}")
        super().__init__(shape, period, gains, constant, u, v)
        self._lift = self._lift + held.offset
        self._theta, self._initial = held.theta, held.initial
        self._first = period - held.code.window - 1  # step of this layer's own window; -1: the last of the one before
        self._m = np.zeros(shape, np.int64)
        self._x = np.zeros(shape, np.int64)

    def during(self, t: int, out: Int64) -> None:
        """Steps 0 .. period - 2 belong to the membrane of the window before."""
        if self._first <= t < self._period - 1:
            self._fire(out)

    def ending(self, membrane: Int64, out: Int64) -> Int64:
        """Hold the membrane; what it fires in this step goes out."""
        self._m[...] = membrane
        self._x[...] = self._initial
        if self._first < 0:
            self._fire(out)
        return out

    def _fire(self, out: Int64) -> None:
        self._x += self._m
        np.clip(self._x, -STATE_MAX, STATE_MAX, out=self._x)  # where it comes to that, no spike depends on it
        fired = self._x >= self._theta
        self._x -= fired * self._theta
        out[fired] = 1

    def collect(self, trace: list[Int64]) -> Int64:
        """Codes (..., windows, N): spikes from the last step of a window to the last but one of the next."""
        first, last = self._period - 1, len(trace) - 1
        fired = np.stack(trace[first:last], axis=-1)
        return np.moveaxis(fired.reshape(*self.u.shape, -1, self._period).sum(-1), -1, -2)
