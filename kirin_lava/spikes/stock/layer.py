"""One dense layer that unmodified netx computes exactly, and the one that reads membranes out.

A read segment is a layer of Sigma neurons, which send their running sum u: exact as they stand for every code, because the host
weights what it reads by the gains of the code (`kirin_lava.spikes.codes.code`). Source: Lava's bit-accurate `sdn/models.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import UsageError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.stock.layout import ControlLine, Layout
from kirin_lava.spikes.stock.ranges import CURRENT, Range, measure, range_of, require, worst_sums

__all__ = ["StockLayer", "checked_weight", "guarded", "read_layer"]

Integers = npt.NDArray[np.integer[Any]]
Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]


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


def guarded(synapses: Int8, control: list[ControlLine]) -> tuple[Int8, tuple[ControlLine, ...]]:
    """Synapses with a positive weight among them.

    Stock netx divides by the largest weight: all zeros are an OverflowError, and without a positive one a lowest weight
    that is a power of two is shifted to -256 and clipped. A silent line with weight 1 avoids both.
    """
    if synapses.max() <= 0:
        synapses = np.hstack([synapses, np.ones((len(synapses), 1), np.int8)])
        control = [*control, ControlLine("guard: always silent, its weight 1 keeps the others exact in stock netx")]
    return synapses, tuple(control)


def checked_weight(name: str, weight: Int8) -> Int8:
    """The weights of a segment; `UsageError` where they are none."""
    if weight.ndim != 2 or weight.dtype != np.int8 or not weight.size:
        raise UsageError(f"{name}: weights are {weight.dtype} {weight.shape}: a segment takes int8 (outputs, inputs)")
    return weight


def read_layer(name: str, weight: Int8, code: SpikeCode, codes: Integers | None = None) -> StockLayer:
    """Sigma neurons that send u: the host sees the membranes v, whatever neuron a segment has.

    Args:
        weight: (N, K) int8. code: of the inputs.
        codes: (windows, K) codes on which the ranges are measured, if any.

    Raises:
        FitError: u does not fit its 24 bits.
    """
    weight = checked_weight(name, weight)
    measured = None if codes is None else measure(weight, code, codes)[:2]
    ranges = (range_of(CURRENT, (-STATE_MAX, STATE_MAX), worst_sums(weight, code), measured),)
    require(name, ranges)
    synapses, control = guarded(weight, [])
    layout = Layout(code, weight.shape[1], weight.shape[0], None, control)
    constant = code.zero * weight.sum(1, dtype=np.int64)
    return StockLayer(layout, synapses, {"type": "SDNN", "vThMant": 0, "sigma_output": 1}, constant, ranges)
