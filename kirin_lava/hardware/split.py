"""Splitting a wide fan-in: one read segment becomes several that each see a part of the inputs; the host adds their membranes.

    codes -> Linear -> sums     becomes     codes -> Slice -> Linear -> sums.0 \\
                                            codes -> Slice -> Linear -> sums.1 -> Sum -> sums

The sum of integers is exact, so nothing changes but the range of each membrane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Linear, Op, Slice, Sum
from kirin_lava.hardware.bounds import Arrivals, arrivals, payload_extremes

__all__ = ["cuts", "make_provable", "parts_needed", "split_block", "split_linear"]


def cuts(linear: Linear, parts: int) -> list[tuple[int, int]]:
    """`parts` nearly equal ranges of inputs, cut between weight groups where there are shifts."""
    inputs = linear.weight.shape[1]
    grain = 1
    if linear.group_shift is not None and inputs % linear.group_shift.shape[1] == 0:
        grain = inputs // linear.group_shift.shape[1]
    units = -(-inputs // grain)
    if not 1 <= parts <= units:
        raise FitError(f"{linear.name}: {inputs} inputs in groups of {grain} cannot be split into {parts} parts")
    edges = [min(round(i * units / parts) * grain, inputs) for i in range(parts + 1)]
    return list(pairwise(edges))


def parts_needed(linear: Linear, seen: Arrivals) -> int | None:
    """Fewest parts (1 for none) with which every membrane is proved to fit the 24-bit state; None where none will do."""
    inputs = linear.weight.shape[1]
    whole = _reach(linear, seen, 0, inputs)
    # The parts reach at least the whole together, so fewer than this cannot do.
    for parts in range(max(1, -(-whole // STATE_MAX)), inputs + 1):
        try:
            edges = cuts(linear, parts)
        except FitError:
            return None
        if max(_reach(linear, seen, start, stop) for start, stop in edges) <= STATE_MAX:
            return parts
    return None


def _reach(linear: Linear, seen: Arrivals, start: int, stop: int) -> int:
    low, high = payload_extremes(linear.weight[:, start:stop], seen).outer()
    return max(-low, high)


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
        shift = linear.group_shift
        if shift is not None:
            grain = linear.weight.shape[1] // shift.shape[1]
            shift = shift[:, start // grain : -(-stop // grain)] if linear.weight.shape[1] % shift.shape[1] == 0 else None
        ops.append(Slice(f"{name}.slice", linear.input, f"{name}.codes", start, stop))
        weight = linear.weight[:, start:stop].copy()
        part = replace(linear, name=name, input=f"{name}.codes", output=f"{name}.sums", weight=weight, group_shift=shift)
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
    return Block(block.name, tuple(ops), block.output, block.width)


def make_provable(block: Block) -> tuple[Block, dict[str, int]]:
    """Split what a split makes provable. Returns the block and how many parts each segment was split into."""
    parts: dict[str, int] = {}
    for op in block.linears():
        if op.fires is None:
            needed = parts_needed(op, arrivals(block, op.input, op.code, op.weight.shape[1]))
            if needed is not None and needed > 1:
                parts[op.name] = needed
    return (split_block(block, parts), parts) if parts else (block, {})
