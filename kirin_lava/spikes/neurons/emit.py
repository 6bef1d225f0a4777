"""Neurons that make the spikes of a code from one current, where its encoder sends a number instead of spikes.

The neuron of multi-level spikes (SpikeLLM, arXiv 2407.04752: generalised integrate and fire, soft reset). The code c of a
window arrives once, in the first step of its T last ones; then, in every step,

    v += current;    level = clip(floor(v / threshold), 0, L);    send level * threshold;    v -= level * threshold

with a threshold of 1 in a fine channel and of 2^a in another. What is left at the window's end is lost: nothing, if L = 16.
`kirin_lava.spikes.codes.levels` has the same in closed form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.spikes.codes import Integers, Levels, SpikeCode

__all__ = ["LevelNeuron", "emitted", "emitter_of", "played"]

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class LevelNeuron:
    """A layer of them, one per channel, that lives step by step.

    Args:
        code: whose spikes they send. shape: (..., K). period: steps per window.
        v: state to work on, (..., K) int64, or None for a new one.
    """

    def __init__(self, code: Levels, shape: tuple[int, ...], period: int, v: Int64 | None = None) -> None:
        self.v = np.zeros(shape, np.int64) if v is None else v
        self._threshold, self._top, self._period = code.thresholds(shape[-1]), code.top, period
        self._step = 0

    def step(self, current: Integers) -> Int64:
        """One time step: currents (..., K) to payloads (..., K)."""
        self.v += current
        level = np.clip(self.v // self._threshold, 0, self._top)
        payload: Int64 = level * self._threshold
        self.v -= payload
        self._step += 1
        if self._step % self._period == 0:
            self.v[...] = 0
        return payload


def emitter_of(code: SpikeCode, shape: tuple[int, ...], period: int, v: Int64 | None = None) -> LevelNeuron | None:
    """The neurons (..., K) that make the spikes of a code, None where its encoder sends them."""
    return LevelNeuron(code, shape, period, v) if isinstance(code, Levels) else None


def played(code: SpikeCode, codes: Integers, period: int) -> tuple[Int32, Int32]:
    """What an encoder sends for codes (..., K): twice (..., K, period), spikes or the currents of neurons that make them, and
    messages. Errors as of `SpikeCode.raster`."""
    spikes, messages = code.raster(codes, period)
    if isinstance(code, Levels):
        spikes = np.zeros_like(spikes)
        spikes[..., period - code.window] = codes
    return spikes, messages


def emitted(code: SpikeCode, codes: Integers, period: int) -> npt.NDArray[np.integer[Any]]:
    """(K, windows * period) payloads of codes (windows, K), window after window, as the encoder's neurons make them step by
    step where it has any."""
    spikes, messages = played(code, codes, period)
    payload = (spikes + messages).transpose(1, 0, 2).reshape(codes.shape[1], -1)
    neuron = emitter_of(code, (codes.shape[1],), period)
    return payload if neuron is None else np.stack([neuron.step(current) for current in payload.T], axis=1)
