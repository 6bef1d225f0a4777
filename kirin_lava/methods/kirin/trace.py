"""One window of one segment, followed step by step: the numbers of the picture that explains the method.

A real token's codes arrive as spikes and messages while the threshold is infinite; then the threshold falls by one ramp per
step and every neuron fires once, at the time that is its output code. Everything is computed by
`kirin_lava.spikes.neurons` from the codes that the compiler kept, and compared with the integer reference. Membranes
are given in ramps of their own neuron, so that one ladder serves all:

    level(t) = (2^shift * v(t) + lift) / D,   lift = offset + zero_out * D - 2^shift * zero_in * sum_k w
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.neurons import Silence
from kirin_lava.spikes.neurons.silence.stepped import SteppedSilence
from kirin_lava.spikes.neurons.simulate import period_of, simulate

__all__ = ["SHOWN", "trace"]

Int64 = npt.NDArray[np.int64]

SHOWN = 48
"""Input channels and neurons drawn in the rasters."""

_SPREAD = 0.98  # of the outputs of a segment that gets ramps for the picture lie within the codes
_FINE_RAMP = 64  # a ramp of at least this rounds the step by less than one percent


def trace(linear: Linear, scale: npt.NDArray[np.float32] | None, codes: npt.NDArray[np.integer[Any]]) -> dict[str, Any]:
    """The picture's numbers, JSON-able. A segment that is read out gets ramps such that nearly all outputs are spike codes.

    Args:
        linear: a segment whose inputs spike. scale: (N,) real value of a unit of its sums, None where that is unknown.
        codes: (windows, K) codes that came to it.
    """
    q = codes.astype(np.int64)
    fires, code = linear.fires is not None, linear.code
    fire = linear.neuron if isinstance(linear.neuron, Silence) else _ramps(linear, scale, q)
    period = period_of(code, fire)
    payload = _payload(code, q, period)
    fired = simulate(linear.name, linear.weight, code, fire, payload, period)
    hasty = simulate(linear.name, linear.weight, code, fire, payload, period, hasty_layer(linear, fire, period))
    sums = torch.from_numpy(q @ linear.weight.astype(np.int64).T).double()
    exact = fire.reference(sums, linear.name).numpy().astype(np.int64)
    index = max(range(len(q)), key=lambda i: (len(np.unique(fired[i])), -i))
    levels = _levels(linear, fire, payload[:, index * period : (index + 1) * period])
    return {
        "fires": fires,
        "index": index,
        "inputs": linear.weight.shape[1],
        "neurons": linear.weight.shape[0],
        "encoding": linear.code.name,
        "output_encoding": fire.code.name,
        "signed": fire.code.mirrored,
        "zero": fire.code.zero,
        "steps": period,
        "first_fall": period - fire.code.window,
        "thresholds": [level - 0.5 for level in range(fire.code.window - 1, 0, -1)],
        "raster": _raster(linear.code, q[index], payload[:, index * period : (index + 1) * period]),
        "outputs": [_output(int(n), int(fired[index, n]), fire.code, period) for n in range(min(SHOWN, fired.shape[1]))],
        "traces": [
            {
                "neuron": n,
                "ramp": int(fire.ramp[n]),
                "level": [round(float(x), 4) for x in levels[n]],
                **_output(n, int(fired[index, n]), fire.code, period),
                "hasty": _output(n, int(hasty[index, n]), fire.code, 0),
            }
            for n in _telling(levels[:SHOWN], fired[index, :SHOWN], hasty[index, :SHOWN], fire.code)
        ],
        "silence": {
            "windows": len(q),
            "compared": int(fired.size),
            "wrong_with": int((fired != exact).sum()),
            "wrong_without": int((hasty != exact).sum()),
            "wrong_without_share": float((hasty != exact).mean()),
        },
    }


def hasty_layer(linear: Linear, fire: Silence, period: int) -> SteppedSilence:
    """Neurons of a segment whose threshold is finite from the start: the ablation."""
    constant = linear.code.zero * (linear.weight.astype(np.int64) << fire.shift).sum(1)
    return SteppedSilence(fire, (len(linear.weight),), period, linear.code.gains(period), constant, silence=False)


def _ramps(linear: Linear, scale: npt.NDArray[np.float32] | None, codes: Int64) -> Silence:
    """A fire phase in the input's code for a segment that has none: one real step for all neurons."""
    enc = linear.code
    sums = codes @ linear.weight.astype(np.int64).T
    per_code = np.ones(len(linear.weight)) if scale is None else np.abs(scale.astype(np.float64)) + 1e-30
    step = float(np.quantile(np.abs(sums) * per_code, _SPREAD)) / enc.code_span(messages=False)[1] or 1.0
    ideal = step / per_code  # sums per output code
    shift = 0
    while ideal.min() * 2**shift < _FINE_RAMP and np.abs(sums).max() * 2 ** (shift + 6) < STATE_MAX:
        shift += 1
    ramp = np.clip(np.round(ideal * 2**shift), 1, STATE_MAX // (2 * enc.window)).astype(np.int64)
    return Silence(enc, ramp, np.zeros(len(ramp), np.int64), shift)


def _payload(enc: SpikeCode, codes: Int64, period: int) -> npt.NDArray[np.int32]:
    """(windows, K) codes as what is sent, (K, windows * period)."""
    return enc.payloads(codes, period).transpose(1, 0, 2).reshape(codes.shape[1], -1)


def _levels(linear: Linear, fire: Silence, payload: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """(N, period) membranes in ramps, after every step of the window: v is the running sum of u, u of the currents."""
    synapses = linear.weight.astype(np.int64) * 2**fire.shift
    v = (synapses @ payload).cumsum(1).cumsum(1)
    return (v + (fire.lift() - linear.code.zero * synapses.sum(1))[:, None]) / fire.ramp[:, None]


def _raster(enc: SpikeCode, codes: Int64, payload: npt.NDArray[np.int32]) -> dict[str, Any]:
    """What the first channels send: rows of (channel, code, step, payload), and how many of all channels do what."""
    shown = range(min(SHOWN, len(codes)))
    outlier, silent = enc.is_message(codes), enc.is_silent(codes)
    events = {"spikes": [], "outliers": []}  # type: dict[str, list[dict[str, int]]]
    for k in shown:
        if not silent[k]:
            step = int(np.flatnonzero(payload[k])[0])
            row = {"channel": k, "code": int(codes[k]), "step": step, "payload": int(payload[k, step])}
            events["outliers" if outlier[k] else "spikes"].append(row)
    counts = {"outliers": int(outlier.sum()), "silent": int(silent.sum())}
    return {
        "channels": len(shown),
        **events,
        "counts": {"spikes": len(codes) - sum(counts.values()), **counts},
    }


def _output(n: int, code: int, enc: SpikeCode, start: int) -> dict[str, Any]:
    """When a neuron fires its code, `start` being the first step of the fire phase's window; step None: it stays silent."""
    level = code + enc.zero
    last = enc.window - 1
    step = start + last - abs(level)
    return {"neuron": n, "code": code, "step": step if level else None, "payload": int(np.sign(level))}


def _telling(levels: npt.NDArray[np.float64], fired: Int64, hasty: Int64, enc: SpikeCode) -> list[int]:
    """Up to four of the neurons in the raster whose traces explain the method: they stay near the ladder and end on different
    codes, and some would have fired wrongly without silence."""
    top = enc.window - 1
    final = levels[:, -1]
    above = np.maximum(levels.max(1) - top - 0.4, 0) + (np.maximum(-levels.min(1) - top - 0.4, 0) if enc.mirrored else 0)
    below = 0 if enc.mirrored else np.maximum(-levels.min(1) - 0.4 * top, 0)
    fit = 2.0 * above + 0.3 * below - np.where(fired != hasty, 1.5, 0.0)
    chosen: list[int] = []
    for share in (0.85, 0.5, -0.6 if enc.mirrored else 0.25, 0.0)[: len(final)]:
        cost = np.abs(final - share * top) + fit
        for n in chosen:
            cost[np.abs(final - final[n]) < top / 6] += 100  # their labels would meet
        cost[chosen] = np.inf
        chosen.append(int(cost.argmin()))
    return chosen
