"""Worst cases: the smallest and largest integer that a sum of weights times codes reaches, over all code vectors that can come.

An encoder that chooses its step per token lets at most `budget` codes be messages; all others stay in the spike range. So a
neuron's extreme is the sum of its spike extremes plus the `budget` largest gains of making an input a message instead. A
fixed step lets all inputs be messages. Where the encoder lets the magnitudes of all codes sum to `reach` at most, a sum cannot
be larger than that spent on the largest weights, so much on each as a code holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.loihi2 import WEIGHT_MAX
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Encode, Linear, Mix, Op, Score, Slice, synapses_of
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.neurons import READ_OUT, Neuron
from kirin_lava.spikes.steps import TokenBudget

__all__ = [
    "Arrivals",
    "Span",
    "arrivals",
    "cache_extremes",
    "code_extremes",
    "payload_extremes",
    "source_of",
    "spent",
    "weights_of",
]

Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]
_CHUNK = 2**21  # weights that are sorted at once, in 64 bits


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

    def within(self, most: Int64) -> Span:
        """What lies between -most and most."""
        return Span(np.maximum(self.low, -most), np.minimum(self.high, most))

    def outer(self) -> tuple[int, int]:
        """Lowest and highest of all neurons."""
        return int(self.low.min()), int(self.high.max())


@dataclass(frozen=True)
class Arrivals:
    """What the codes of a window can be.

    Attributes:
        code: of the inputs.
        budget: most messages in a window, None for any number of them.
        reach: what the magnitudes of all codes q sum to at most, None for no such promise.
    """

    code: SpikeCode
    budget: int | None = None
    reach: int | None = None

    def anything(self) -> Arrivals:
        """All codes there are, whatever the encoder promises."""
        return Arrivals(self.code)


def source_of(block: Block, value: str) -> Op:
    """The operation that made codes, slices looked through."""
    op = block.producer(value)
    while isinstance(op, Slice):
        op = block.producer(op.input)
    return op


def arrivals(block: Block, value: str, code: SpikeCode, width: int, context: int = 0) -> Arrivals:
    """What can arrive at an operation of `width` inputs that reads the codes `value` of a block.

    Args:
        context: positions so far, for attention probabilities, whose budget grows with them.
    """
    op = source_of(block, value)
    if not isinstance(op, Encode):
        return Arrivals(code, budget=0)  # neurons fire spikes alone
    row = block.ports[op.output].window or context
    whole = min(context, row) if op.rule.by_row else block.ports[op.output].width // op.groups
    budget = op.rule.budget(code, whole)
    reach = op.rule.reach if isinstance(op.rule, TokenBudget) and op.groups == 1 else None
    return Arrivals(code, None if budget is None else min(budget, width), reach)


def weights_of(linear: Linear) -> npt.NDArray[np.int8]:
    """Weights to bound: (N, K), or (1, K) of a plan, whose rows are all one and the same."""
    return linear.weight[: None if linear.weight.strides[0] else 1]


def cache_extremes(block: Block, op: Score | Mix, inputs: int) -> Int64:
    """Synapses of cached codes as far from zero as they come: (2, inputs), one row per sign."""
    largest = max(synapses_of(block.ports[op.cache].code))
    return np.repeat([[min(largest, WEIGHT_MAX)], [-largest]], inputs, axis=1).astype(np.int64)


def code_extremes(weight: Integers, seen: Arrivals, neuron: Neuron = READ_OUT) -> Span:
    """What `sum_k weight[n, k] * q[k]` of every neuron can reach, or that of a step where each is sent on its own."""
    if neuron.every_step:
        return payload_extremes(weight, seen, neuron)
    span = _extremes(weight, seen.code.code_span(messages=False), seen.code.code_span(), seen.budget)
    return span if seen.reach is None else span.within(spent(weight, seen.code.largest, seen.reach))


def payload_extremes(weight: Integers, seen: Arrivals, neuron: Neuron = READ_OUT) -> Span:
    """What the states `v` and `u` of every neuron can reach in any step of a window.

    Up to a step, a spike of code c counts between 0 and c in v and 0 or its sign in u, an outlier nothing or c in both.
    """
    if neuron.every_step:
        return _extremes(weight, seen.code.step_span, seen.code.step_span, None)
    span = _extremes(weight, seen.code.payload_span(messages=False), seen.code.payload_span(), seen.budget)
    if seen.reach is None:
        return span
    return span.within(spent(weight, seen.code.max_message, seen.reach + abs(seen.code.zero) * weight.shape[1]))


def spent(weight: Integers, largest: int, reach: int) -> Int64:
    """(N,) most that codes of `largest` at most, whose magnitudes sum to `reach`, make of weights (N, K)."""
    full, rest = divmod(reach, largest)
    result = np.empty(len(weight), np.int64)
    for few in _in_parts(weight):
        ordered = -np.sort(-np.abs(weight[few].astype(np.int64)), axis=1)
        result[few] = ordered[:, :full].sum(1) * largest + (ordered[:, full] * rest if full < ordered.shape[1] else 0)
    return result


def _extremes(weight: Integers, spikes: tuple[int, int], codes: tuple[int, int], budget: int | None) -> Span:
    low, high = np.empty((2, len(weight)), np.int64)
    for few in _in_parts(weight):
        part = weight[few].astype(np.int64)
        high[few] = _highest(part, spikes, codes, budget)
        low[few] = -_highest(-part, spikes, codes, budget)
    return Span(low, high)


def _in_parts(weight: Integers) -> Iterator[slice]:
    """Rows that are taken to 64 bits at a time: a head has tens of millions of weights."""
    rows = max(1, _CHUNK // max(weight.shape[1], 1))
    return (slice(start, start + rows) for start in range(0, len(weight), rows))


def _highest(weight: Int64, spikes: tuple[int, int], codes: tuple[int, int], budget: int | None) -> Int64:
    base = np.maximum(weight * spikes[0], weight * spikes[1])
    gain = np.maximum(weight * codes[0], weight * codes[1]) - base
    if budget is not None and budget < gain.shape[1]:
        gain = -np.partition(-gain, budget - 1, axis=1)[:, :budget] if budget else gain[:, :0]
    result: Int64 = base.sum(1) + gain.sum(1)
    return result
