"""Worst cases: the smallest and largest integer that a sum of weights times codes reaches, over all code vectors that can come.

An encoder that chooses its step per token lets at most `budget` codes be outliers; all others stay in the spike range. So a
neuron's extreme is the sum of its spike extremes plus the `budget` largest gains of making an input an outlier instead. A
static step, or a fixed set of outlier channels, lets all or just these inputs be outliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.graph.host import outlier_budget
from kirin_lava.graph.ops import Block, Encode, Op, Slice
from kirin_lava.spikes.codes.coding import Encoding

__all__ = ["Arrivals", "Span", "arrivals", "code_extremes", "payload_extremes", "source_of"]

Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]
_CHUNK = 2**24  # weights that are sorted at once


@dataclass(frozen=True, eq=False)
class Span:
    """Lowest and highest value of every neuron, (N,) int64 each."""

    low: Int64
    high: Int64

    def join(self, other: Span) -> Span:
        """What both reach."""
        return Span(np.minimum(self.low, other.low), np.maximum(self.high, other.high))

    def scaled(self, factor: int | Int64, offset: int | Int64 = 0) -> Span:
        """`factor * x + offset` for a positive factor."""
        return Span(self.low * factor + offset, self.high * factor + offset)

    def outer(self) -> tuple[int, int]:
        """Lowest and highest of all neurons."""
        return int(self.low.min()), int(self.high.max())


@dataclass(frozen=True, eq=False)
class Arrivals:
    """What the codes of a window can be.

    Attributes:
        encoding: of the codes.
        budget: most outliers in a window, None for any number of them.
        channels: (K,) bool, the only inputs that may be outliers, or None for all.
    """

    encoding: Encoding
    budget: int | None = None
    channels: npt.NDArray[np.bool_] | None = None

    def anything(self) -> Arrivals:
        """All codes of the encoding, whatever the encoder promises."""
        return Arrivals(self.encoding)


def source_of(block: Block, value: str) -> tuple[Op, int]:
    """The operation that made codes and the channel of it that comes first, slices looked through."""
    op, start = block.producer(value), 0
    while isinstance(op, Slice):
        start += op.start
        op = block.producer(op.input)
    return op, start


def arrivals(block: Block, value: str, encoding: Encoding, width: int, context: int = 0) -> Arrivals:
    """What can arrive at an operation of `width` inputs that reads the codes `value` of a block.

    Args:
        context: positions so far, for attention probabilities, whose budget grows with them.
    """
    op, start = source_of(block, value)
    if not isinstance(op, Encode):
        return Arrivals(encoding, budget=0)  # neurons fire spikes alone
    if op.static_step is not None or not encoding.has_spikes:
        return Arrivals(encoding)
    if op.channels is not None:
        return Arrivals(encoding, channels=op.channels[start : start + width])
    whole = context if op.causal else _group_width(block, op, width)
    return Arrivals(encoding, budget=min(outlier_budget(op.ratio, whole), width))


def _group_width(block: Block, op: Encode, width: int) -> int:
    """Inputs that share a step. A slice is narrower than what was encoded; its end tells only a lower bound, so count all."""
    ends = [width]
    for other in block.ops:
        if isinstance(other, Slice) and other.input == op.output:
            ends.append(other.stop)
    return max(ends)


def code_extremes(weight: Integers, seen: Arrivals) -> Span:
    """What `sum_k weight[n, k] * q[k]` of every neuron can reach."""
    enc = seen.encoding
    spikes = (enc.spike_min, enc.spike_max) if enc.has_spikes else (0, 0)
    return _extremes(weight, spikes, (enc.code_min, enc.code_max), seen)


def payload_extremes(weight: Integers, seen: Arrivals) -> Span:
    """What the states `v` and `u` of every neuron can reach in any step of a window.

    Up to a step, a spike of code c counts between 0 and c in v and 0 or its sign in u, an outlier nothing or c in both.
    """
    enc = seen.encoding
    spikes = (enc.spike_min + enc.zero, enc.spike_max + enc.zero) if enc.has_spikes else (0, 0)
    return _extremes(weight, _with_zero(spikes), _with_zero((enc.code_min + enc.zero, enc.code_max + enc.zero)), seen)


def _with_zero(span: tuple[int, int]) -> tuple[int, int]:
    return min(0, span[0]), max(0, span[1])


def _extremes(weight: Integers, spikes: tuple[int, int], codes: tuple[int, int], seen: Arrivals) -> Span:
    rows = max(1, _CHUNK // max(weight.shape[1], 1))
    parts = [weight[i : i + rows].astype(np.int64) for i in range(0, len(weight), rows)]
    high = np.concatenate([_highest(part, spikes, codes, seen) for part in parts])
    low = np.concatenate([-_highest(-part, spikes, codes, seen) for part in parts])
    return Span(low, high)


def _highest(weight: Int64, spikes: tuple[int, int], codes: tuple[int, int], seen: Arrivals) -> Int64:
    base = np.maximum(weight * spikes[0], weight * spikes[1])
    gain = np.maximum(weight * codes[0], weight * codes[1]) - base
    if seen.channels is not None:
        gain = gain[:, seen.channels]
    elif seen.budget is not None and seen.budget < gain.shape[1]:
        gain = -np.partition(-gain, seen.budget - 1, axis=1)[:, : seen.budget] if seen.budget else gain[:, :0]
    result: Int64 = base.sum(1) + gain.sum(1)
    return result
