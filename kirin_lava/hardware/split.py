"""Splitting a wide fan-in: one read segment becomes several that each see a part of the inputs; the host adds their membranes.

    codes -> Linear -> sums     becomes     codes -> Slice -> Linear -> sums.0 \\
                                            codes -> Slice -> Linear -> sums.1 -> Sum -> sums

The sum of integers is exact, so nothing changes but the range of each membrane.

Probabilities times cached values are split by positions, see `Mix`: a part holds as many positions as are proved to fit,
whatever comes. Of a row of J codes at most b are messages (`StepRule.budget`), so those of n positions sum to at most
`min(b, n) * code_max + (n - min(b, n)) * spike_max`. No sum of the probabilities bounds them further: the step follows the row,
and b equal large probabilities with J - b equal small ones reach it.

Spikes with wide messages are not split: few messages could pass a membrane, wherever the cut. Their encoder keeps the sum of
its codes below a `reach` instead (`TokenBudget`), which is far above what comes up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Encode, Linear, Mix, Op, Slice, Sum
from kirin_lava.hardware.bounds import Arrivals, arrivals, cache_extremes, payload_extremes, spent, weights_of
from kirin_lava.spikes.neurons import Neuron
from kirin_lava.spikes.steps import TokenBudget

__all__ = ["MOST_PARTS", "cuts", "make_provable", "parts_needed", "provable_part", "split_block", "split_linear"]


MOST_PARTS = 32
"""Of a linear segment. Every part reads all outputs out: a recipe whose messages need more is watched at run time instead."""


def cuts(linear: Linear, parts: int) -> list[tuple[int, int]]:
    """`parts` nearly equal ranges of inputs."""
    inputs = linear.weight.shape[1]
    if not 1 <= parts <= inputs:
        raise FitError(f"{linear.name}: {inputs} inputs cannot be split into {parts} parts")
    return list(pairwise(round(i * inputs / parts) for i in range(parts + 1)))


def parts_needed(linear: Linear, seen: Arrivals) -> int | None:
    """Fewest parts (1 for none) with which every membrane is proved to fit the 24-bit state; None where `MOST_PARTS` do not."""
    inputs = linear.weight.shape[1]
    whole = _reach(linear, seen, 0, inputs)
    # The parts reach at least the whole together, so fewer than this cannot do.
    for parts in range(max(1, -(-whole // STATE_MAX)), min(MOST_PARTS, inputs) + 1):
        if max(_reach(linear, seen, start, stop) for start, stop in cuts(linear, parts)) <= STATE_MAX:
            return parts
    return None


def _reach(linear: Linear, seen: Arrivals, start: int, stop: int) -> int:
    low, high = payload_extremes(weights_of(linear)[:, start:stop], seen, linear.neuron).outer()
    return max(-low, high)


def provable_part(block: Block, op: Mix, positions: int) -> int | None:
    """Most positions that share neurons so that their membranes are proved to fit the 24-bit state, for any context up to
    `positions`, which is cut evenly; None where all of them may, 0 where not even one may."""
    positions = op.held(positions)
    seen = arrivals(block, op.input, op.code, positions, positions)
    most = _provable_positions(seen, op.neuron, int(abs(cache_extremes(block, op, 1)).max()), positions)
    if most in (0, positions):
        return None if most else 0
    parts = -(-positions // most)
    return -(-positions // parts)


@cache
def _provable_positions(seen: Arrivals, neuron: Neuron, largest: int, positions: int) -> int:
    """Inputs of a neuron whose weights reach `largest`, `positions` at most."""
    span = seen.code.step_span if neuron.every_step else seen.code.payload_span(messages=seen.budget is None)
    each = max(map(abs, span))  # what every input reaches at least
    least, most = 0, min(positions, STATE_MAX // max(each * largest, 1))
    while least < most:
        middle = (least + most + 1) // 2
        weight = np.repeat([[largest], [-largest]], middle, axis=1)
        low, high = payload_extremes(
            weight, replace(seen, budget=None if seen.budget is None else min(seen.budget, middle)), neuron
        ).outer()
        least, most = (middle, most) if max(-low, high) <= STATE_MAX else (least, middle - 1)
    return least


def split_linear(linear: Linear, parts: int) -> list[Op]:
    """A read segment as `parts` read segments; the last operation writes the same sums under the same name.

    Raises:
        FitError: a segment that fires (its neurons need the whole sum), or more parts than inputs.
    """
    if linear.fires is not None:
        raise FitError(f"{linear.name}: a segment that fires needs its whole sum in one membrane and cannot be split")
    ops: list[Op] = []
    edges = cuts(linear, parts)
    total = ""
    for i, (start, stop) in enumerate(edges):
        name = f"{linear.name}.part{i}"
        ops.append(Slice(f"{name}.slice", linear.input, f"{name}.codes", start, stop))
        weight = linear.weight[:, start:stop].copy()
        code = linear.code.part(start, stop)
        part = replace(linear, name=name, input=f"{name}.codes", output=f"{name}.sums", weight=weight, code=code)
        ops.append(part)
        if i == 0:
            total = part.output
            continue
        result = linear.output if i + 1 == len(edges) else f"{name}.total"
        ops.append(Sum(f"{name}.sum", total, part.output, result))
        total = result
    return ops


def split_block(block: Block, parts: Mapping[str, int]) -> Block:
    """The block with some of its read segments split: name -> number of parts, at least 2."""
    ops: list[Op] = []
    for op in block.ops:
        many = parts.get(op.name, 1) if isinstance(op, Linear) else 1
        ops += split_linear(op, many) if isinstance(op, Linear) and many > 1 else [op]
    return replace(block, ops=tuple(ops))


def reach_of(linear: Linear) -> int | None:
    """Most that the codes of a token may sum to so that every membrane is proved, whichever they are; None where spikes alone
    could sum to more, or where messages are of 8 bits or there are no spikes: such a segment is split."""
    code, inputs = linear.code, linear.weight.shape[1]
    if not code.has_spikes or code.message_bits <= 8 or linear.fires is not None:
        return None
    # of every row the largest weights, the second largest and so on: no row makes more of a reach than this one
    weight = np.max([np.sort(np.abs(row.astype(np.int16)))[::-1] for row in weights_of(linear)], axis=0)[None]
    low, high = 0, STATE_MAX
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(spent(weight, code.max_message, middle)[0]) <= STATE_MAX else (low, middle - 1)
    reach = low - abs(code.zero) * inputs
    return reach if reach > inputs * max(map(abs, code.code_span(messages=False))) else None


def _limited(block: Block) -> Block:
    """The block with a reach for the encoders whose wide messages could pass a membrane."""
    rules: dict[str, TokenBudget] = {}
    for op in block.linears():
        source = block.producer(op.input)
        seen = arrivals(block, op.input, op.code, op.weight.shape[1])
        if not isinstance(source, Encode) or not isinstance(source.rule, TokenBudget) or source.groups != 1:
            continue
        if _reach(op, seen, 0, op.weight.shape[1]) <= STATE_MAX:
            continue
        reach = reach_of(op)
        if reach is not None:
            rule = rules.get(source.name, source.rule)
            rules[source.name] = replace(rule, reach=reach if rule.reach is None else min(reach, rule.reach))
    ops = tuple(replace(op, rule=rules[op.name]) if isinstance(op, Encode) and op.name in rules else op for op in block.ops)
    return replace(block, ops=ops) if rules else block


def make_provable(block: Block, positions: int) -> tuple[Block, dict[str, int]]:
    """Limit what wide messages reach, and split what a split makes provable. Returns the block and how many parts each segment
    was split into.

    Args:
        positions: most of a sequence.
    """
    block = _limited(block)
    parts: dict[str, int] = {}
    mixes = {op.name: replace(op, part=provable_part(block, op, positions) or None) for op in block.ops if isinstance(op, Mix)}
    parts |= {name: op.parts(positions) for name, op in mixes.items() if op.part is not None}
    if parts:
        block = replace(block, ops=tuple(mixes.get(op.name, op) for op in block.ops))
    for op in block.linears():
        if op.fires is None:
            needed = parts_needed(op, arrivals(block, op.input, op.code, op.weight.shape[1]))
            if needed is not None and needed > 1:
                parts[op.name] = needed
    return split_block(block, parts), parts
