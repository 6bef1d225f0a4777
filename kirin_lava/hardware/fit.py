"""Whether a model fits the chip's registers before there are weights: what is proved of every segment, whatever they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Linear, Mix
from kirin_lava.hardware.bounds import arrivals, payload_extremes
from kirin_lava.hardware.ranges import PROVED, UNFIT, block_ranges
from kirin_lava.hardware.split import parts_needed, reach_of

__all__ = ["UNKNOWN", "SegmentFit", "block_fit", "require_planned_fit"]

UNKNOWN = "depends on the weights"


@dataclass(frozen=True)
class SegmentFit:
    """One segment.

    Attributes:
        guarantee: "proved" whatever the weights are, "depends on the weights", or "does not fit".
        parts: neurons that share the fan-in of an output so that it is proved, at most: small weights need fewer.
        positions: of a part, where positions are split, else 0.
    """

    block: str
    segment: str
    kind: str
    guarantee: str
    parts: int = 1
    positions: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def block_fit(block: Block, context: int, farthest: int) -> list[SegmentFit]:
    """What is proved of the segments of a block.

    Args:
        context: positions to bound attention for.
        farthest: largest magnitude of a weight that can come up.
    """
    rows = []
    ranges = {row.segment: row.guarantee for row in block_ranges(block, context)}
    for op in block.core_ops():
        guarantee, parts, positions = ranges[op.name], 1, 0
        if isinstance(op, Mix):
            parts, positions = op.parts(context), op.part or 0
        elif isinstance(op, Linear):
            guarantee, parts = _linear_fit(block, op, farthest)
        rows.append(SegmentFit(block.name, op.name, op.kind, guarantee, parts, positions))
    return rows


def _linear_fit(block: Block, op: Linear, farthest: int) -> tuple[str, int]:
    """Of the farthest weights in every place, of one sign; a segment that fires is fitted to its weights by its method."""
    row = np.full((1, op.weight.shape[1]), -farthest, np.int8)
    seen = arrivals(block, op.input, op.code, op.weight.shape[1])
    if op.fires is not None:
        low, high = payload_extremes(row, seen, op.neuron).outer()
        return (PROVED if max(-low, high) <= STATE_MAX else UNKNOWN), 1
    plain = replace(op, weight=row)
    needed = parts_needed(plain, seen)
    if needed != 1 and reach_of(plain) is not None:
        return PROVED, 1
    return (UNKNOWN, 1) if needed is None else (PROVED, needed)


def require_planned_fit(rows: Iterable[SegmentFit], context: int) -> None:
    """Raise one `FitError` that lists what cannot fit, whatever the weights are."""
    lines = [f"  {row.block} {row.segment}" for row in rows if row.guarantee == UNFIT]
    if lines:
        head = f"{len(lines)} segments do not fit Loihi 2 at {context} positions; shorten the context or use narrower messages:"
        raise FitError("\n".join([head, *lines]))
