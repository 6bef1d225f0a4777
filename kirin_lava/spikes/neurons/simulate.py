"""A linear segment step by step, without Lava."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.neurons.neuron import Int64, Neuron
from kirin_lava.spikes.neurons.two_state import TwoState

__all__ = ["period_of", "simulate"]


def period_of(code: SpikeCode, neuron: Neuron) -> int:
    """The shortest window that holds the codes that arrive and those that are fired."""
    return max(code.window, 0 if neuron.fires is None else neuron.fires.window)


def simulate(
    name: str,
    weight: npt.NDArray[np.int8],
    code: SpikeCode,
    neuron: Neuron,
    payload: npt.NDArray[np.integer[Any]],
    period: int,
    layer: TwoState | None = None,
) -> Int64:
    """What a segment's neurons make of payloads.

    Args:
        name: for errors. weight: (N, K). code: of the inputs.
        payload: (..., K, windows * period) spikes and messages, window after window.
        period: steps per window.
        layer: the live neurons, where others than `neuron.stepped` are wanted.

    Returns:
        (..., windows, N) sums where the membrane is read out, codes q where it fires.

    Raises:
        FitError: a state overflows 24 bits.
    """
    synapses = weight.astype(np.int64) * 2**neuron.shift
    shape = (*payload.shape[:-2], len(synapses))
    if layer is None:
        layer = neuron.stepped(shape, period, code.gains(period), code.zero * synapses.sum(1))
    trace = []
    for t in range(payload.shape[-1]):
        # float64 holds these sums exactly and multiplies faster than integers do
        trace.append(layer.step((payload[..., t].astype(np.float64) @ synapses.T.astype(np.float64)).astype(np.int64)))
        if layer.overflow is not None:
            raise layer.overflow.error(name)
    silent = np.broadcast_to(np.zeros(len(synapses), np.int64), shape)
    trace += [layer.step(silent) for _ in range(layer.latency * period)]
    return layer.collect(trace)
