"""The stock form of the silence-threshold neuron: one dense layer of unmodified netx, with control lines.

A fire segment makes a silence-threshold neuron of Lava's LIFReset (`u += a; v += u; spike if v > vth, then v = 0`, cleared
before every window). It integrates u as it is, so it takes codes whose gains are all 1 (`kernel[t] = T - t`):

    a neuron must fire in fire step j if  2^f v + m0 >= k D - D // 2  with k = T' - 1 - j    (m0: bias and output zero-point)
    v is an integer, so that is           v >= theta[k] = ceil((k D - D // 2 - m0) / 2^f)
    at fire start the line `lift` adds    vth + 1 - theta[T' - 1] - constant                 (constant: zero * sum_k weight[k])
    in fire step j the ramp adds          theta[T' - j] - theta[T' - 1 - j], which is floor(D / 2^f) or one more
    so the membrane of step j is          v - theta[k] + vth + 1 > vth  exactly if  v >= theta[k]

The membrane therefore holds v, not 2^f v: the shift of `Silence` costs no range here. For signed codes a second
neuron computes the same with -weight and -m0. A number too large for a synapse is split into digits in base 64.

Limits: |u| and |v| stay below 2^23 / 64 (24-bit state, inputs shifted left by 6), vth is 17 bit.
Source: Lava's bit-accurate model `lif/models.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.loihi2 import LIF_SHIFT, STATE_MAX
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.neurons.silence.ladder import Ladder
from kirin_lava.spikes.stock.layer import StockLayer, checked_weight, guarded
from kirin_lava.spikes.stock.layout import ControlLine, Layout
from kirin_lava.spikes.stock.ranges import CURRENT, MEMBRANE, Range, measure, range_of, require, worst_sums

__all__ = ["LIF_LIMIT", "fire_layer"]

Integers = npt.NDArray[np.integer[Any]]
Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]

LIF_LIMIT = STATE_MAX >> LIF_SHIFT
_BASE, _DIGITS = 64, 3


def fire_layer(
    fire: Ladder, name: str, weight: Int8, enc: SpikeCode, codes: Integers | None = None, peak: Integers | None = None
) -> StockLayer:
    """LIFReset neurons and their control lines.

    Args:
        weight: (N, K) int8. enc: code of the inputs.
        codes: (windows, K) codes on which the ranges are measured, if any.
        peak: (N,) largest |v| seen elsewhere, which counts as measured too.

    Raises:
        FitError: a code that LIFReset does not integrate, a weight without a mirror in a synapse, or a membrane that does not
            fit; the read segment may.
        UsageError: parameters that are none.
    """
    weight = checked_weight(name, weight)
    problem = fire.problem(len(weight))
    if problem is not None:
        raise UsageError(f"{name}: {problem}")
    if set(enc.gains()) != {1}:
        raise FitError(f"{name}: stock LIFReset adds u to v in every step alike, {enc.name} codes count otherwise: read v out")
    mirrored = fire.code.mirrored
    if mirrored and weight.min() == -128:
        row, line = np.argwhere(weight == -128)[0]
        raise FitError(
            f"{name}: weight {row}, {line} is -128 and a signed output needs its mirror 128, a synapse ends at 127:"
            " quantise with weights of -127 or more"
        )
    rows: Int8 = np.vstack([weight, -weight]) if mirrored else weight
    constant = enc.zero * rows.sum(1, dtype=np.int64)
    worst = worst_sums(rows, enc)
    theta, ramp = _thresholds(fire, mirrored, np.minimum(worst[1], LIF_LIMIT) - constant)
    # As much silence as the lift allows: below vth the inputs may push the membrane around freely.
    vth = int(min(LIF_LIMIT - 1, LIF_LIMIT - 1 + (theta[:, -1] + constant).min()))
    lift = vth + 1 - theta[:, -1] - constant
    climbs = np.diff(theta, axis=1)[:, ::-1]  # (rows, T' - 1): fire steps 1 .. T' - 1
    measured = None if codes is None else measure(rows, enc, codes)
    if peak is not None and peak.shape != (len(weight),):
        raise UsageError(f"{name}: peaks of shape {peak.shape} for {len(weight)} neurons")
    if measured is not None and peak is not None:
        reach = np.tile(peak.astype(np.int64), len(rows) // len(peak))
        low_u, high_u, low_v, high_v = measured
        measured = low_u, high_u, np.minimum(low_v, constant - reach), np.maximum(high_v, constant + reach)
    ranges = _fire_ranges(worst, measured, vth, lift, climbs)
    require(name, ranges)
    weights, control = _control_lines(enc.window, lift, ramp, climbs)
    synapses, lines = guarded(np.hstack([rows, weights.astype(np.int8)]), control)
    layout = Layout(enc, weight.shape[1], weight.shape[0], fire.code, lines)
    neuron: dict[str, str | int] = {"type": "LOIHI", "vThMant": vth, "refDelay": 1, "iDecay": 0, "vDecay": 0}
    return StockLayer(layout, synapses, neuron, constant[: len(weight)], ranges)


def _control_lines(start: int, lift: Int64, ramp: Int64, climbs: Int64) -> tuple[Int64, list[ControlLine]]:
    """Weights (rows, lines) and messages of the lines that lift the membrane in column `start` and ramp it afterwards."""
    weights, control = [], []
    for place, digit in enumerate(_digits(lift)):
        power = _BASE**place
        weights.append(digit)
        means = f"lift by the silence offset, taken back one column later (digit of {power})"
        control.append(ControlLine(means, ((start, power), (start + 1, -power))))
    for place, digit in enumerate(_digits(ramp)):
        power = _BASE**place
        weights.append(digit)
        control.append(
            ControlLine(f"ramp of the threshold, kept to the window's end (digit of {power})", ((start + 1, power),))
        )
    for j, extra in enumerate((climbs[:, :-1] - ramp[:, None]).T, 1):
        if extra.any():
            weights.append(extra)
            means = f"one more in fire step {j}, the ramp being no whole number"
            control.append(ControlLine(means, ((start + j, 1), (start + j + 1, -1))))
    return np.stack(weights, axis=1), control


def _thresholds(fire: Ladder, mirrored: bool, reach: Int64) -> tuple[Int64, Int64]:
    """theta (rows, T') and floor(D / 2^f) (rows,).

    theta[:, k] is the least v that codes level k or more; level 0 only continues the ramp. A neuron whose v, at most `reach`
    (rows,), never gets to level 1 has no ramp: one that is dead need not fit.
    """
    ramp = fire.ramp[:, None]
    level = np.arange(fire.code.window)
    steps = level * ramp - ramp // 2
    zero = fire.code.zero * ramp
    signs = (1, -1) if mirrored else (1,)
    theta = np.vstack([-((sign * fire.offset[:, None] + zero - steps) >> fire.exponent) for sign in signs])
    dead = theta[:, 1] > reach
    theta = np.where(dead[:, None], reach[:, None] + 1, theta)
    return theta, np.where(dead, 0, np.tile(fire.ramp >> fire.exponent, len(signs)))


def _fire_ranges(
    worst: tuple[Int64, Int64],
    measured: tuple[Int64, Int64, Int64, Int64] | None,
    vth: int,
    lift: Int64,
    climbs: Int64,
) -> tuple[Range, ...]:
    """All the ways a LIFReset could leave the integers: wrap, saturate, fire early or fire twice.

    Above vth a saturated membrane is harmless: it fires all the same.
    """
    limit = (-LIF_LIMIT, LIF_LIMIT)
    room = max(0, -int(lift.min()))  # a lift downwards must not end below the lowest v
    zero = np.zeros_like(lift)
    return (
        range_of(CURRENT, limit, worst, measured and measured[:2]),
        range_of(MEMBRANE, (room - LIF_LIMIT, vth), worst, measured and measured[2:]),
        range_of("u in the fire phase", limit, (np.minimum(lift, 0), np.maximum(lift, climbs.max(1)))),
        range_of("v after a spike", (-LIF_LIMIT, vth), (zero, climbs.sum(1))),
        range_of("vth", (1, LIF_LIMIT), (zero + vth, zero + vth)),
    )


def _digits(number: Int64) -> Int64:
    """(rows,) integers below 64^3 -> (3, rows) signed digits that fit a synapse."""
    sign, size = np.sign(number), np.abs(number)
    return np.stack([sign * (size // _BASE**place % _BASE) for place in range(_DIGITS)])
