"""A linear segment as one dense layer of stock netx: synapses, neuron, control lines, ranges.

Read segments are Sigma neurons: exact as they stand. A fire segment makes a silence-threshold neuron of Lava's LIFReset
(`u += a; v += u; spike if v > vth, then v = 0`, cleared before every window) with control lines:

    a neuron must fire in fire step j if  2^f v + m0 >= k D - D // 2  with k = T' - 1 - j    (m0: bias and output zero-point)
    v is an integer, so that is           v >= theta[k] = ceil((k D - D // 2 - m0) / 2^f)
    at fire start the line `lift` adds    vth + 1 - theta[T' - 1] - constant                 (constant: zero * sum_k weight[k])
    in fire step j the ramp adds          theta[T' - j] - theta[T' - 1 - j], which is floor(D / 2^f) or one more
    so the membrane of step j is          v - theta[k] + vth + 1 > vth  exactly if  v >= theta[k]

The membrane therefore holds v, not 2^f v: the shift of `graph.Fire` costs no range here. For signed codes a second
neuron computes the same with -weight and -m0. A number too large for a synapse is split into digits in base 64.

Limits: |u| and |v| stay below 2^23 / 64 (24-bit state, inputs shifted left by 6), vth is 17 bit; a Sigma is 24 bit.
Source: Lava's bit-accurate models `lif/models.py`, `sdn/models.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.loihi2 import LIF_SHIFT, STATE_MAX
from kirin_lava.export.netx.ranges import CURRENT, MEMBRANE, Range, measure, range_of, require, worst_sums
from kirin_lava.export.netx.stimulus import ControlLine, Layout, is_mirrored
from kirin_lava.graph.ops import Fire, Linear

__all__ = ["LIF_LIMIT", "StockLayer", "fire_layer", "read_layer"]

Integers = npt.NDArray[np.integer[Any]]
Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]

LIF_LIMIT = STATE_MAX >> LIF_SHIFT
_BASE, _DIGITS = 64, 3


@dataclass(frozen=True, eq=False)
class StockLayer:
    """One dense layer that stock netx computes exactly.

    Attributes:
        layout: lines and columns.
        synapses: (neurons, lines) int8.
        neuron: the datasets of `layer/0/neuron`.
        constant: (N,) int64, what a read segment's sums contain beside v.
        ranges: every state variable with its limit.
    """

    layout: Layout
    synapses: Int8
    neuron: dict[str, str | int]
    constant: Int64
    ranges: tuple[Range, ...]

    @property
    def guarantee(self) -> str:
        """`proved` if every range is, else `calibrated`."""
        return "proved" if all(r.guarantee == "proved" for r in self.ranges) else "calibrated"


def _guarded(synapses: Int8, control: list[ControlLine]) -> tuple[Int8, tuple[ControlLine, ...]]:
    """Synapses with a positive weight among them.

    Stock netx divides by the largest weight: all zeros are an OverflowError, and without a positive one a lowest weight
    that is a power of two is shifted to -256 and clipped. A silent line with weight 1 avoids both.
    """
    if synapses.max() <= 0:
        synapses = np.hstack([synapses, np.ones((len(synapses), 1), np.int8)])
        control = [*control, ControlLine("guard: always silent, its weight 1 keeps the others exact in stock netx")]
    return synapses, tuple(control)


def read_layer(linear: Linear, codes: Integers | None = None) -> StockLayer:
    """The read segment of a linear: Sigma neurons that send u.

    Args:
        linear: its `fire`, if any, is left out: the host sees v.
        codes: (windows, K) codes on which the ranges are measured, if any.

    Raises:
        FitError: u does not fit its 24 bits.
    """
    weight = _weight(linear)
    measured = None if codes is None else measure(weight, linear.encoding, codes)[:2]
    worst = worst_sums(weight, linear.encoding)
    ranges = (range_of(CURRENT, (-STATE_MAX, STATE_MAX), worst, measured),)
    require(linear.name, ranges)
    synapses, control = _guarded(weight, [])
    layout = Layout(linear.encoding, weight.shape[1], weight.shape[0], None, control)
    constant = linear.encoding.zero * weight.sum(1, dtype=np.int64)
    return StockLayer(layout, synapses, {"type": "SDNN", "vThMant": 0, "sigma_output": 1}, constant, ranges)


def fire_layer(linear: Linear, codes: Integers | None = None, peak: Integers | None = None) -> StockLayer:
    """The fire segment of a linear that has a `fire`: LIFReset neurons and their control lines.

    Args:
        codes: (windows, K) codes on which the ranges are measured, if any.
        peak: (N,) largest |v| seen elsewhere, which counts as measured too.

    Raises:
        FitError: a weight has no mirror in a synapse, or a membrane does not fit; the read segment may.
        UsageError: the linear has no fire phase, or one whose codes are no spikes.
    """
    fire = linear.fire
    if fire is None:
        raise UsageError(f"{linear.name} has no fire phase: write a read segment")
    _check_fire(linear, fire)
    enc = linear.encoding
    weight = _weight(linear)
    mirrored = is_mirrored(fire.encoding)
    if mirrored and weight.min() == -128:
        row, line = np.argwhere(weight == -128)[0]
        raise FitError(
            f"{linear.name}: weight {row}, {line} is -128 and a signed output needs its mirror 128, a synapse ends at 127:"
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
        raise UsageError(f"{linear.name}: peaks of shape {peak.shape} for {len(weight)} neurons")
    if measured is not None and peak is not None:
        reach = np.tile(peak.astype(np.int64), len(rows) // len(peak))
        low_u, high_u, low_v, high_v = measured
        measured = low_u, high_u, np.minimum(low_v, constant - reach), np.maximum(high_v, constant + reach)
    ranges = _fire_ranges(worst, measured, vth, lift, climbs)
    require(linear.name, ranges)
    weights, control = _control_lines(enc.window, lift, ramp, climbs)
    synapses, lines = _guarded(np.hstack([rows, weights.astype(np.int8)]), control)
    layout = Layout(enc, weight.shape[1], weight.shape[0], fire.encoding, lines)
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


def _weight(linear: Linear) -> Int8:
    weight = linear.weight
    if weight.ndim != 2 or weight.dtype != np.int8 or not weight.size:
        raise UsageError(f"{linear.name}: weights are {weight.dtype} {weight.shape}: a segment takes int8 (outputs, inputs)")
    return weight


def _check_fire(linear: Linear, fire: Fire) -> None:
    if not fire.encoding.has_spikes:
        raise UsageError(f"{linear.name}: {fire.encoding.name} codes are no spikes: a neuron cannot fire them")
    if len(fire.ramp) != len(linear.weight) or len(fire.offset) != len(linear.weight):
        raise UsageError(
            f"{linear.name}: {len(fire.ramp)} ramps and {len(fire.offset)} offsets for {len(linear.weight)} neurons"
        )
    if fire.ramp.min() < 1:
        raise UsageError(f"{linear.name}: neuron {fire.ramp.argmin()} has a ramp of {fire.ramp.min()}: it must be 1 or more")


def _thresholds(fire: Fire, mirrored: bool, reach: Int64) -> tuple[Int64, Int64]:
    """theta (rows, T') and floor(D / 2^f) (rows,).

    theta[:, k] is the least v that codes level k or more; level 0 only continues the ramp. A neuron whose v, at most `reach`
    (rows,), never gets to level 1 has no ramp: one that is dead need not fit.
    """
    ramp = fire.ramp[:, None]
    level = np.arange(fire.encoding.window)
    steps = level * ramp - ramp // 2
    zero = fire.encoding.zero * ramp
    signs = (1, -1) if mirrored else (1,)
    theta = np.vstack([-((sign * fire.offset[:, None] + zero - steps) >> fire.shift) for sign in signs])
    dead = theta[:, 1] > reach
    theta = np.where(dead[:, None], reach[:, None] + 1, theta)
    return theta, np.where(dead, 0, np.tile(fire.ramp >> fire.shift, len(signs)))


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
