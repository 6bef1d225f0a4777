"""The two-state neuron with a silence threshold, twice: in closed form from spike times, and step by step.

Per step the neuron adds its synaptic current to `u` and `u` to `v`, without leak, so a payload p that arrives at step t of a
window of T steps counts `(T - t) * p` at the window's end:

    v[n] = sum over spikes and messages of (T - t) * w[n, k] * p[k, t]

While the window lasts its threshold is infinite (silence). Then the membrane is read out as an integer, or it meets thresholds
that fall by one ramp D per step, `k * D - D // 2` for k = T-1 down to 1, and the time of the single spike is the output code
(see `graph.Fire`). Source of the silence threshold: Kirin, arXiv 2602.08817. The integer reference computes the same by matrix
products and a division, in `kirin_lava.graph.executor`; nothing is shared with it but the definitions of codes and operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.ops import Fire, Linear

__all__ = ["Events", "Overflow", "TwoStateNeuron", "codes_of", "membranes", "simulate"]

Integers = npt.NDArray[np.integer[Any]]
Int64 = npt.NDArray[np.int64]


# ---- closed form ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Events:
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
    def of(cls, raster: Integers) -> Events:
        """The events of a raster (windows, K, T) of payloads."""
        window, channel, step = np.nonzero(raster)
        return cls(len(raster), raster.shape[2], window, channel, step, raster[window, channel, step].astype(np.int64))


def membranes(events: Events, weight: Integers) -> Int64:
    """Membranes at the end of every window, from spike times.

    Args:
        events: what arrives.
        weight: (N, K) integer synapses.

    Returns:
        (windows, N) int64, `sum (T - t) * w * p`, with no constant taken off.
    """
    counts = (events.steps - events.step) * events.payload
    running = np.zeros((len(counts) + 1, len(weight)), np.int64)
    np.cumsum(weight.T.astype(np.int64)[events.channel] * counts[:, None], axis=0, out=running[1:])
    border = np.searchsorted(events.window, np.arange(events.windows + 1))
    return running[border[1:]] - running[border[:-1]]


def codes_of(membrane: Integers, fire: Fire) -> Int64:
    """Output codes by search in the falling thresholds.

    Args:
        membrane: (..., N) sums `sum_k w q`, without shift and offset.
        fire: the fire phase.

    Returns:
        (..., N) codes q: T-1-j for the first threshold j = 0, 1, .. that the membrane meets, 0 for none (less the zero point).
    """
    enc = fire.encoding
    m = membrane.astype(np.int64) * 2**fire.shift + fire.offset
    levels = np.arange(enc.window - 1, -1, -1)  # the last, 0, stands for silence
    falling = levels * fire.ramp[:, None] - fire.ramp[:, None] // 2
    if enc.spike_min < 0 and enc.zero == 0:
        return np.sign(m) * _first_met(np.abs(m), falling, levels)
    return _first_met(m + enc.zero * fire.ramp, falling, levels) - enc.zero


def _first_met(m: Int64, falling: Int64, levels: Int64) -> Int64:
    met = m[..., None] >= falling
    met[..., -1] = True
    return levels[met.argmax(-1)]


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
            "split the fan-in, lower the shift of the segment or choose a recipe with narrower outliers"
        )


class TwoStateNeuron:
    """A layer of silence-threshold neurons that lives through window after window, one step at a time.

    A window's last step ends with its membrane: read out there and then, or kept for the fire phase, which passes during the
    next window while `u` and `v` already integrate that one. Code c fires c steps before the last step of that next window, so
    that a consumer behind a synapse with a delay of one step sees it at distance c from the end of its own window.

    Args:
        shape: (..., N) of the layer; leading axes are independent copies.
        period: steps per window, at least T of the input and of the output codes.
        constant: (N,) taken off the membrane at the window's end, `2^shift * zero * sum_k w[n, k]` of offset input codes.
        fire: the fire phase, or None to read out. The currents are to carry its `shift`.
        silence: False makes the threshold finite from the first step of a window on, the ablation: the ladder then falls while
            inputs still arrive.
        u, v: state to work on, (..., N) int64, or None for a new one.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        period: int,
        constant: Integers | int = 0,
        fire: Fire | None = None,
        silence: bool = True,
        u: Int64 | None = None,
        v: Int64 | None = None,
    ) -> None:
        if fire is not None and period < fire.encoding.window:
            raise FitError(
                f"a window of {period} steps cannot hold {fire.encoding.name} codes: they need {fire.encoding.window}"
            )
        self.u = np.zeros(shape, np.int64) if u is None else u
        self.v = np.zeros(shape, np.int64) if v is None else v
        self.overflow: Overflow | None = None
        self._period, self._fire, self._silence = period, fire, silence
        self._lift = -np.asarray(constant, np.int64)
        self._step = 0
        if fire is not None:
            self._signed = fire.encoding.spike_min < 0 and fire.encoding.zero == 0
            self._lift = self._lift + fire.offset + fire.encoding.zero * fire.ramp
            self._latched = np.zeros(shape, np.int64)
            self._waiting = np.zeros(shape, bool)  # has a membrane that has not fired yet
            self._threshold = np.zeros(len(fire.ramp), np.int64)

    def step(self, current: Integers) -> Int64:
        """One time step.

        Args:
            current: (..., N) synaptic current.

        Returns:
            (..., N): the membrane in a window's last step where it is read out, a spike of -1 or +1 where it fires, else 0.
        """
        t = self._step % self._period
        self.u += current
        self.v += self.u
        self._guard(self.u)
        self._guard(self.v)
        out = np.zeros_like(self.v)
        if self._fire is not None:
            if not self._silence:
                self._latched = self.v + self._lift
                self._waiting |= t == 0
            self._fall(t, self._fire, out)
        if t == self._period - 1:
            membrane = self.v + self._lift
            self._guard(membrane)
            if self._fire is None:
                out = membrane
            elif self._silence:
                self._latched, self._waiting = membrane, np.ones_like(self._waiting)
            self.u[...] = 0
            self.v[...] = 0
        self._step += 1
        return out

    def _fall(self, t: int, fire: Fire, out: Int64) -> None:
        """The threshold of step t: infinite outside the fire phase, the highest at its start, then lower by D each step."""
        first = self._period - fire.encoding.window
        if not first <= t < self._period - 1:
            return
        if t == first:
            self._threshold = (fire.encoding.window - 1) * fire.ramp - fire.ramp // 2
        else:
            self._threshold = self._threshold - fire.ramp
        up = self._waiting & (self._latched >= self._threshold)
        out[up] = 1
        self._waiting &= ~up
        if self._signed:
            down = self._waiting & (-self._latched >= self._threshold)
            out[down] = -1
            self._waiting &= ~down

    def _guard(self, state: Int64) -> None:
        """Note the first overflow and saturate: nothing wraps."""
        if self.overflow is None and (state.max(initial=0) > STATE_MAX or state.min(initial=0) < -STATE_MAX):
            flat = state.reshape(-1)
            worst = int(np.abs(flat).argmax())
            self.overflow = Overflow(worst % state.shape[-1], self._step, int(flat[worst]))
        if self.overflow is not None:
            np.clip(state, -STATE_MAX, STATE_MAX, out=state)


def simulate(op: Linear, payload: Integers, period: int, silence: bool = True) -> Int64:
    """A linear segment step by step.

    Args:
        op: the segment.
        payload: (..., K, windows * period) spikes and messages of its input codes, window after window.
        period: steps per window.
        silence: False for the ablation.

    Returns:
        (..., windows, N) sums where the membrane is read out, codes q where it fires.

    Raises:
        FitError: a state overflows 24 bits.
    """
    shift = 0 if op.fire is None else op.fire.shift
    synapses = op.weight.astype(np.int64) * 2**shift
    neuron = TwoStateNeuron((*payload.shape[:-2], len(synapses)), period, op.encoding.zero * synapses.sum(1), op.fire, silence)
    windows = payload.shape[-1] // period
    trace = []
    for t in range(payload.shape[-1]):
        # float64 holds these sums exactly and multiplies faster than integers do
        trace.append(neuron.step((payload[..., t].astype(np.float64) @ synapses.T.astype(np.float64)).astype(np.int64)))
        if neuron.overflow is not None:
            raise neuron.overflow.error(op.name)
    if op.fire is None:
        return np.stack(trace[period - 1 :: period], axis=-2)
    if silence:  # fired one window later
        silent = np.zeros(synapses.shape[0], np.int64)
        trace = trace[period:] + [neuron.step(np.broadcast_to(silent, neuron.u.shape)) for _ in range(period)]
    fired = np.stack(trace, axis=-1).reshape(*neuron.u.shape, windows, period)
    distance = np.arange(period - 1, -1, -1)
    return np.moveaxis(fired @ distance, -1, -2) - op.fire.encoding.zero
