"""The two-state neuron, twice: the membrane in closed form from spike times, and the layer that lives step by step.

Per step the neuron adds its synaptic current to `u` and `gain[t] * u` to `v`, without leak, so that a payload p that arrives at
step t of a window counts `kernel[t] * p` at the window's end, see `kirin_lava.spikes.codes.code`:

    v[n] = sum over spikes and messages of kernel[t] * w[n, k] * p[k, t]

Nothing is shared with the integer reference but the definitions of codes and operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.spikes.codes import SpikeCode

__all__ = ["Arrivals", "Overflow", "TwoState", "membranes"]

Integers = npt.NDArray[np.integer[Any]]
Int64 = npt.NDArray[np.int64]


# ---- closed form ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Arrivals:
    """Spikes and messages by time, as parallel arrays (E,), sorted by window.

    Attributes:
        windows: how many windows there are.
        steps: T, steps of each.
        window, channel, step, payload: where, when and what arrives.
    """

    windows: int
    steps: int
    window: Int64
    channel: Int64
    step: Int64
    payload: Int64

    @classmethod
    def of(cls, raster: Integers) -> Arrivals:
        """The events of a raster (windows, K, T) of payloads."""
        window, channel, step = np.nonzero(raster)
        return cls(len(raster), raster.shape[2], window, channel, step, raster[window, channel, step].astype(np.int64))


def membranes(events: Arrivals, weight: Integers, code: SpikeCode) -> Int64:
    """Membranes at the end of every window, from spike times.

    Args:
        events: what arrives.
        weight: (N, K) integer synapses.
        code: of the inputs.

    Returns:
        (windows, N) int64, `sum kernel[t] * w * p`, with no constant taken off.
    """
    counts = np.asarray(code.weights(events.steps), np.int64)[events.step] * events.payload
    running = np.zeros((len(counts) + 1, len(weight)), np.int64)
    np.cumsum(weight.T.astype(np.int64)[events.channel] * counts[:, None], axis=0, out=running[1:])
    border = np.searchsorted(events.window, np.arange(events.windows + 1))
    return running[border[1:]] - running[border[:-1]]


# ---- step by step ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overflow:
    """A state that left its register: flat index of the neuron, step since the start, value."""

    neuron: int
    step: int
    value: int

    def error(self, name: str) -> FitError:
        """The error to raise; `name` is the segment."""
        return FitError(
            f"{name}: neuron {self.neuron} reaches {self.value} in step {self.step}, beyond the 24-bit state ({STATE_MAX}); "
            "split the fan-in, lower the shift of the segment or choose a recipe with narrower messages"
        )


class TwoState:
    """A layer of neurons that lives through window after window, one step at a time, and sends its membrane in the last step of
    each.

    A neuron that fires is a subclass: `during` is asked in every step, `ending` once the last one has left its membrane.

    Args:
        shape: (..., N) of the layer; leading axes are independent copies.
        period: steps per window. gains: (period,) what u counts in each.
        constant: (N,) taken off the membrane at the window's end.
        u, v: state to work on, (..., N) int64, or None for a new one.

    Attributes:
        overflow: the first state that left its 24 bits, None so far. It saturates: nothing wraps.
        latency: windows from the end of the input's window to the end of the answer's.
    """

    latency = 0

    def __init__(
        self,
        shape: tuple[int, ...],
        period: int,
        gains: tuple[int, ...],
        constant: Integers | int = 0,
        u: Int64 | None = None,
        v: Int64 | None = None,
    ) -> None:
        if len(gains) != period:
            raise FitError(f"a window of {period} steps does not hold a code with {len(gains)}")
        self.u = np.zeros(shape, np.int64) if u is None else u
        self.v = np.zeros(shape, np.int64) if v is None else v
        self.overflow: Overflow | None = None
        self._period, self._gains = period, gains
        self._lift = -np.asarray(constant, np.int64)
        self._step = 0

    def step(self, current: Integers) -> Int64:
        """One time step.

        Args:
            current: (..., N) synaptic current.

        Returns:
            (..., N): the membrane in a window's last step where it is read out, a spike of -1 or +1 where it fires, else 0.
        """
        t = self._step % self._period
        self.u += current
        gain = self._gains[t]
        self.v += self.u if gain == 1 else gain * self.u
        self._guard(self.u)
        self._guard(self.v)
        out = np.zeros_like(self.v)
        self.during(t, out)
        if t == self._period - 1:
            membrane = self.v + self._lift
            self._guard(membrane)
            out = self.ending(membrane, out)
            self.u[...] = 0
            self.v[...] = 0
        self._step += 1
        return out

    def during(self, t: int, out: Int64) -> None:
        """Step t of a window: write spikes into `out` (..., N)."""

    def ending(self, membrane: Int64, out: Int64) -> Int64:
        """What is sent in the last step of a window that left this membrane (..., N)."""
        return membrane

    def collect(self, trace: list[Int64]) -> Int64:
        """Results (..., windows, N) of what `step` has returned over whole windows, the answer's latency included."""
        return np.stack(trace[self._period - 1 :: self._period], axis=-2)

    def _guard(self, state: Int64) -> None:
        """Note the first overflow and saturate: nothing wraps."""
        if self.overflow is None and (state.max(initial=0) > STATE_MAX or state.min(initial=0) < -STATE_MAX):
            flat = state.reshape(-1)
            worst = int(np.abs(flat).argmax())
            self.overflow = Overflow(worst % state.shape[-1], self._step, int(flat[worst]))
        if self.overflow is not None:
            np.clip(state, -STATE_MAX, STATE_MAX, out=state)
