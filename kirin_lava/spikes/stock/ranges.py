"""Ranges of a stock segment: what its state variables can reach, in the worst case and on codes.

`u` and `v` are followed column by column as stock neurons compute them, in integers that cannot overflow, and compared with
what the neuron holds. A range that fits in the worst case is `proved`; one that fits on calibration codes is `calibrated`,
and is then checked again on the codes of every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import FitError
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.stock.layout import Layout

__all__ = ["CURRENT", "MEMBRANE", "Range", "check_codes", "exact_sums", "measure", "range_of", "require", "worst_sums"]

Integers = npt.NDArray[np.integer[Any]]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

CURRENT, MEMBRANE = "u while inputs arrive", "v while inputs arrive"
_ROWS = 4096  # neurons that are followed at once, for the memory of their float64 synapses


@dataclass(frozen=True)
class Range:
    """What one state variable of a layer can reach.

    Attributes:
        quantity: the variable.
        limit: (low, high) that the neuron can hold, inclusive.
        worst: (low, high) over all codes.
        measured: (low, high) over the calibration codes, None where none were given.
        neuron: the one nearest to the limit or furthest beyond it, as measured, else in the worst case.
    """

    quantity: str
    limit: tuple[int, int]
    worst: tuple[int, int]
    measured: tuple[int, int] | None
    neuron: int

    @property
    def guarantee(self) -> str | None:
        """`proved` for all codes, `calibrated` for those that were measured, None where neither fits."""
        for name, reached in (("proved", self.worst), ("calibrated", self.measured)):
            if reached is not None and self.limit[0] <= reached[0] and reached[1] <= self.limit[1]:
                return name
        return None


def worst_sums(weight: Integers, code: SpikeCode) -> tuple[Int64, Int64]:
    """(N,) lowest and highest sum of `weight * payload` up to any step of a window, 0 included."""
    messages = code.running_span
    positive, negative = np.maximum(weight, 0).sum(1, dtype=np.int64), np.minimum(weight, 0).sum(1, dtype=np.int64)
    low = positive * messages[0] + negative * messages[1]
    high = positive * messages[1] + negative * messages[0]
    return low, high


def exact_sums(weight: Integers, codes: Integers) -> Int64:
    """v (windows, N) of codes (windows, K), through float64, which holds every such sum exactly."""
    inputs = codes.astype(np.float64)
    parts = [inputs @ weight[i : i + _ROWS].T.astype(np.float64) for i in range(0, len(weight), _ROWS)]
    return np.concatenate(parts, axis=1).astype(np.int64)


def measure(weight: Integers, code: SpikeCode, codes: Integers) -> tuple[Int64, Int64, Int64, Int64]:
    """(N,) lowest and highest u, lowest and highest v, in any column of the windows (windows, K), 0 included."""
    payloads = code.payloads(codes).astype(np.float64)
    parts = [_measure(weight[i : i + _ROWS], payloads, code.gains()) for i in range(0, len(weight), _ROWS)]
    low_u, high_u, low_v, high_v = (np.concatenate(part) for part in zip(*parts, strict=True))
    return low_u, high_u, low_v, high_v


def _measure(weight: Integers, payloads: Float64, gains: tuple[int, ...]) -> tuple[Int64, ...]:
    """Follow u and v through the columns of (windows, K, T). Exact: 2^53 is far above any sum of synapses and messages."""
    synapses = weight.T.astype(np.float64)
    u = np.zeros((len(payloads), len(weight)))
    v = np.zeros_like(u)
    lowest, highest = np.zeros((2, len(weight))), np.zeros((2, len(weight)))
    for column, gain in enumerate(gains):
        u += np.ascontiguousarray(payloads[..., column]) @ synapses  # what is not contiguous, NumPy multiplies without BLAS
        v += gain * u
        lowest = np.minimum(lowest, [u.min(0, initial=0), v.min(0, initial=0)])
        highest = np.maximum(highest, [u.max(0, initial=0), v.max(0, initial=0)])
    return tuple(a.astype(np.int64) for a in (lowest[0], highest[0], lowest[1], highest[1]))


def range_of(
    quantity: str, limit: tuple[int, int], worst: tuple[Int64, Int64], measured: tuple[Int64, Int64] | None = None
) -> Range:
    """The range of a layer from those of its neurons."""
    low, high = worst if measured is None else measured
    excess = np.maximum(high - limit[1], limit[0] - low)
    reached = None if measured is None else (int(measured[0].min()), int(measured[1].max()))
    return Range(quantity, limit, (int(worst[0].min()), int(worst[1].max())), reached, int(excess.argmax()))


def require(name: str, ranges: tuple[Range, ...]) -> None:
    """FitError for a range without a guarantee, those that no codes can mend first."""
    for r in sorted(ranges, key=lambda r: r.quantity in (CURRENT, MEMBRANE)):
        if r.guarantee is None:
            seen, reached = ("in the worst case", r.worst) if r.measured is None else ("on the calibration codes", r.measured)
            way_out = "use fewer outliers, smaller weights or fewer inputs"
            if r.quantity not in (CURRENT, MEMBRANE):
                way_out = "use finer output steps or smaller offsets"
            elif r.measured is None:
                way_out = f"pass calibration codes that stay inside, or {way_out}"
            raise FitError(
                f"{name}: {r.quantity} reaches {reached[0]}..{reached[1]} {seen} (neuron {r.neuron}),"
                f" stock Lava holds {r.limit[0]}..{r.limit[1]}: {way_out}"
            )


def check_codes(name: str, layout: Layout, synapses: Integers, ranges: tuple[Range, ...], codes: Integers) -> None:
    """FitError where codes (windows, K) leave the ranges of a layer that is only calibrated; those of a proved one cannot."""
    if all(r.guarantee == "proved" for r in ranges):
        return
    low_u, high_u, low_v, high_v = measure(synapses[:, : layout.inputs], layout.code, codes)
    reached = {CURRENT: (low_u, high_u), MEMBRANE: (low_v, high_v)}
    for r in ranges:
        if r.quantity not in reached:
            continue
        low, high = reached[r.quantity]
        over = np.maximum(high - r.limit[1], r.limit[0] - low)
        if over.max() > 0:
            n = int(over.argmax())
            raise FitError(
                f"{name}: {r.quantity} reaches {low[n]}..{high[n]} in neuron {n} on these codes, stock Lava holds"
                f" {r.limit[0]}..{r.limit[1]}, and the segment is calibrated only: export it with these codes as calibration"
            )
