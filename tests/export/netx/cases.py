"""Random layers and codes, the integers they must give, and the stock neurons of Lava in a few lines of NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import CODES, SpikeCode, integer, offset, signed
from kirin_lava.spikes.neurons import Silence
from kirin_lava.spikes.stock.layer import StockLayer, read_layer
from kirin_lava.spikes.stock.layout import columns

Integers = npt.NDArray[np.integer[Any]]
Int64 = npt.NDArray[np.int64]

INPUTS = tuple(code for code in CODES if code.message_bits <= 8)
BEFORE_FIRE = tuple(code for code in INPUTS if set(code.gains()) == {1})
"""What stock neurons that fire can integrate."""
WIDE = (offset(12), signed(8, 12), signed(16, 16), integer(16))
OUTPUTS = tuple(code for code in INPUTS if code.has_spikes and not code.graded and not code.repeats)


def few(inputs: int, enc: SpikeCode) -> int:
    """As many of the inputs as messages of this width can have with any weight in 24 bits."""
    return min(inputs, STATE_MAX // (128 * (enc.max_message + 1)))


def some_codes(rng: np.random.Generator, enc: SpikeCode, windows: int, inputs: int, outliers: float = 0.05) -> Int64:
    """Spike codes with a share of outliers; the second window is silent, the third all outliers where there are any."""
    anything = rng.integers(enc.code_min, enc.code_max + 1, (windows, inputs))
    if not enc.has_spikes:
        codes = anything
    else:
        low, high = enc.code_span(messages=False)
        spikes = rng.integers(low, high + 1, (windows, inputs))
        codes = np.where(rng.random((windows, inputs)) < outliers, anything, spikes)
    if windows > 1:
        codes[1] = -enc.zero
    if windows > 2:
        codes[2] = np.where(rng.random(inputs) < 0.5, enc.code_min, enc.code_max)
    return enc.admitted(codes).astype(np.int64)


def some_weights(rng: np.random.Generator, outputs: int, inputs: int, low: int = -8, high: int = 7) -> npt.NDArray[np.int8]:
    """Uniform weights with a zero row where there is room for one."""
    weight = rng.integers(low, high + 1, (outputs, inputs)).astype(np.int8)
    if outputs > 2:
        weight[1] = 0
    return weight


def some_linear(rng: np.random.Generator, inputs: int, outputs: int, enc: SpikeCode, low: int = -8, high: int = 7) -> Linear:
    """A read segment."""
    return Linear("seg", "x", "y", some_weights(rng, outputs, inputs, low, high), 4 if low >= -8 else 8, enc)


def with_fire(rng: np.random.Generator, linear: Linear, out: SpikeCode, sums: Int64, shift: int) -> Linear:
    """The same with a fire phase whose levels the given sums use."""
    n = len(linear.weight)
    reach = max(8, int(np.abs(sums).max())) << shift
    ramp = rng.integers(max(1, reach // (4 * out.window)), max(2, reach // out.window) + 1, n)
    offset = rng.integers(-reach // 8, reach // 8 + 1, n)
    return replace(linear, neuron=Silence(out, ramp, offset, shift))


def expected(linear: Linear, codes: Integers) -> Int64:
    """The integers of a segment by the formulas of `graph.Linear` and `graph.Silence`, written out."""
    v = codes.astype(np.int64) @ linear.weight.T.astype(np.int64)
    fire = linear.neuron
    if not isinstance(fire, Silence):
        return v
    top, ramp, zero = fire.code.window - 1, fire.ramp, fire.code.zero
    m = 2**fire.shift * v + fire.offset
    if fire.code.mirrored:
        return np.sign(m) * np.minimum((np.abs(m) + ramp // 2) // ramp, top)
    return np.clip((m + zero * ramp + ramp // 2) // ramp, 0, top) - zero


def read_form(linear: Linear, codes: Integers | None = None) -> StockLayer:
    """The stock form that reads membranes out."""
    return read_layer(linear.name, linear.weight, linear.code, codes)


def stock_form(linear: Linear, codes: Integers | None = None, peak: Integers | None = None) -> StockLayer:
    """The stock form of the segment's own neurons."""
    return linear.neuron.stock(linear.name, linear.weight, linear.code, codes, peak)


def emulate(layer: StockLayer, codes: Integers) -> tuple[Int64, Int64, Int64]:
    """Dense and Sigma or LIFReset, step by step, as lava-nc 0.10.0 computes them in `fixed_pt`.

    Returns:
        (neurons, steps) each: what is sent, u and v (0 for a Sigma), both without the shift of 6.
    """
    x = columns(layer.layout, codes)
    synapses = layer.synapses.astype(np.int64)
    n, period, edge = len(synapses), layer.layout.period, 1 << 23
    a, u, v = np.zeros((3, n), np.int64)
    sent, us, vs = np.zeros((3, n, x.shape[1]), np.int64)
    for i in range(x.shape[1]):
        if layer.layout.fires is None:
            u = u + a
            sent[:, i] = us[:, i] = u
        else:
            if (i + 1) % period == 2 % period:
                u, v = np.zeros((2, n), np.int64)
            u = u + (a << 6)
            u = np.where(u > edge, u - 2 * edge, np.where(u <= -edge, u + 2 * edge, u))
            v = np.clip(v + u, 1 - edge, edge - 1)
            us[:, i], vs[:, i] = u >> 6, v >> 6
            sent[:, i] = v > int(layer.neuron["vThMant"]) << 6
            v = np.where(sent[:, i] != 0, 0, v)
        a = synapses @ x[:, i]
    return sent, us, vs
