"""Ranges: whether every integer of every segment fits what must hold it, in the worst case and on real text.

For each neuron of the time-stepped form (`kirin_lava.spikes.neurons`): the synapse (times 2^shift), the payload of a
message, u and v
in any step of a window, the membrane at its end (zero-point taken off, bias and shift put on), threshold and offset.

    any codes   over all codes of the encoding: sum_k |w| * largest code
    worst       over the codes that the segment's encoder can send, see `kirin_lava.hardware.bounds`
    calibrated  what came up on text, by a `RangeObserver`

A segment is `proved` if the worst case of every quantity fits, else `calibrated` if what came up on text fits, else it
`does not fit`. A calibrated segment is watched at run time: every backend raises where a state leaves its 24 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import MESSAGE_MAX, STATE_MAX, WEIGHT_MAX, WEIGHT_MIN
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.ops import CoreOp, Linear, Mix, Score
from kirin_lava.hardware.bounds import (
    Arrivals,
    Integers,
    Span,
    arrivals,
    cache_extremes,
    code_extremes,
    payload_extremes,
    weights_of,
)
from kirin_lava.hardware.observe import RangeObserver, shift_of
from kirin_lava.hardware.split import parts_needed

__all__ = ["CALIBRATED", "PROVED", "UNFIT", "Bound", "SegmentRange", "block_ranges", "model_ranges", "require_fit"]

PROVED, CALIBRATED, UNFIT = "proved", "calibrated", "does not fit"

_LIMITS = {
    "stored weight": (WEIGHT_MIN, WEIGHT_MAX, "WEIGHT_MIN..WEIGHT_MAX"),
    "payload": (-MESSAGE_MAX, MESSAGE_MAX, "MESSAGE_MAX"),
}
_STATE = (-STATE_MAX, STATE_MAX, "STATE_MAX")


@dataclass(frozen=True)
class Bound:
    """One quantity of a segment over all its neurons; pairs are (lowest, highest).

    Attributes:
        limit, limit_name: what holds it, a constant of `kirin_lava.base.loihi2`.
        neuron: the one that comes nearest to the limit in the worst case.
        calibrated: None where the quantity was not observed. States inside the window are followed only where the worst case
            does not fit; elsewhere v is that of the window's end.
    """

    quantity: str
    limit: tuple[int, int]
    limit_name: str
    any_codes: tuple[int, int]
    worst: tuple[int, int]
    calibrated: tuple[int, int] | None
    neuron: int

    @property
    def guarantee(self) -> str:
        """`proved`, `calibrated` or `does not fit`."""
        for word, reached in ((PROVED, self.worst), (CALIBRATED, self.calibrated)):
            if reached is not None and self.limit[0] <= reached[0] and reached[1] <= self.limit[1]:
                return word
        return UNFIT

    @property
    def margin_bits(self) -> float:
        """How often the worst case could double before it reached the limit; negative where it is beyond."""
        used = max(self.worst[0] / self.limit[0], self.worst[1] / self.limit[1])
        return -math.log2(used) if used > 0 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Plain values; no margin where nothing is ever sent."""
        margin = self.margin_bits
        return {
            "quantity": self.quantity,
            "limit": list(self.limit),
            "limit_name": self.limit_name,
            "any_codes": list(self.any_codes),
            "worst": list(self.worst),
            "calibrated": None if self.calibrated is None else list(self.calibrated),
            "neuron": self.neuron,
            "margin_bits": None if math.isinf(margin) else margin,
            "guarantee": self.guarantee,
        }


@dataclass(frozen=True, eq=False)
class SegmentRange:
    """All bounds of a segment.

    Attributes:
        context: positions for which an attention product was bounded, 0 for a linear segment.
        advice: what would make it proved; empty where it is.
        worst, calibrated: per neuron, quantity -> span (not in `to_dict`).
    """

    block: str
    segment: str
    kind: str
    neurons: int
    context: int
    bounds: tuple[Bound, ...]
    advice: str
    worst: dict[str, Span]
    calibrated: dict[str, Span]

    @property
    def guarantee(self) -> str:
        """The weakest of its bounds."""
        words = {bound.guarantee for bound in self.bounds}
        return next(word for word in (UNFIT, CALIBRATED, PROVED) if word in words)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "block": self.block,
            "segment": self.segment,
            "kind": self.kind,
            "neurons": self.neurons,
            "context": self.context,
            "guarantee": self.guarantee,
            "advice": self.advice,
            "bounds": [bound.to_dict() for bound in self.bounds],
        }


def model_ranges(model: Model, observed: RangeObserver | None = None, context: int | None = None) -> list[SegmentRange]:
    """Ranges of all segments.

    Args:
        observed: a `RangeObserver` that watched the model on text, or None for worst cases alone.
        context: positions to bound attention for; None for the longest sequence.
    """
    positions = model.max_positions if context is None else context
    return [row for block in (*model.blocks, model.head) for row in block_ranges(block, positions, observed)]


def block_ranges(block: Block, context: int, observed: RangeObserver | None = None) -> list[SegmentRange]:
    """Ranges of the segments of one block, see `model_ranges`."""
    return [_segment(block, op, context, observed) for op in block.core_ops()]


def require_fit(ranges: Iterable[SegmentRange]) -> None:
    """Raise one `FitError` that lists every quantity of every segment that does not fit, and what to change."""
    lines = []
    for row in ranges:
        for bound in row.bounds:
            if bound.guarantee == UNFIT:
                reached = bound.worst if bound.calibrated is None else bound.calibrated
                how = "in the worst case" if bound.calibrated is None else "on the calibration text"
                lines.append(
                    f"  {row.block} {row.segment}: {bound.quantity} of neuron {bound.neuron} reaches {reached[0]}..{reached[1]}"
                    f" {how}, {bound.limit_name} holds {bound.limit[0]}..{bound.limit[1]}; {row.advice}"
                )
    if lines:
        raise FitError("\n".join([f"{len(lines)} quantities do not fit Loihi 2:", *lines]))


def _segment(block: Block, op: CoreOp, context: int, observed: RangeObserver | None) -> SegmentRange:
    found = {} if observed is None else observed.spans.get((block.name, op.name), {})
    worst, anything = _worst_cases(block, op, context)
    calibrated = _calibrated(op, found)
    bounds = tuple(_bound(name, worst[name], anything[name], calibrated.get(name)) for name in worst)
    beyond = [bound.quantity for bound in bounds if bound.guarantee != PROVED]
    return SegmentRange(
        block=block.name,
        segment=op.name,
        kind=op.kind,
        neurons=block.ports[op.output].width,
        context=0 if isinstance(op, Linear) else context,
        bounds=bounds,
        advice=_advice(block, op, beyond, context) if beyond else "",
        worst=worst,
        calibrated=calibrated,
    )


def _worst_cases(block: Block, op: CoreOp, context: int) -> tuple[dict[str, Span], dict[str, Span]]:
    """Over the codes that the encoder can send, and over all codes."""
    weight: Integers
    if isinstance(op, Linear):
        weight = weights_of(op)
    else:
        width = block.ports[op.input].width // op.heads if isinstance(op, Score) else min(op.held(context), op.part or context)
        weight = cache_extremes(block, op, width)
    seen = arrivals(block, op.input, op.code, weight.shape[1], context)
    return _spans(op, weight, seen), _spans(op, weight, seen.anything())


def _spans(op: CoreOp, weight: Integers, seen: Arrivals) -> dict[str, Span]:
    """Every quantity's span per neuron; of attention, whose two rows of weights stand for any, in one row."""
    code, scale = seen.code, 2 ** shift_of(op)
    states, final = payload_extremes(weight, seen, op.neuron), code_extremes(weight, seen, op.neuron)
    stored = Span(weight.min(1).astype(np.int64), weight.max(1).astype(np.int64))
    offset = np.zeros(1, np.int64)
    if isinstance(op, Linear):
        offset = -code.zero * weight.sum(1, dtype=np.int64) * scale
    else:
        states, final, stored = _joined(states), _joined(final), _joined(stored)
    messages = code.step_span if seen.budget != 0 else (0, 0)
    spans = {
        "stored weight": stored.scaled(scale),
        "payload": Span(np.array([messages[0]]), np.array([messages[1]])),
        "u": states.scaled(scale),  # u and v share their worst case: the last step may bring every outlier at once
        "v": states.scaled(scale),
    }
    lift, top = op.neuron.lift(), op.neuron.top()
    spans["membrane"] = final.scaled(scale, lift)
    spans["offset"] = Span(offset + lift, offset + lift)
    if top is not None:
        spans["threshold"] = Span(np.zeros_like(top), top)
    return spans


def _calibrated(op: CoreOp, found: dict[str, Span]) -> dict[str, Span]:
    """Observed spans in the units of the bounds. Where v was not followed inside the window, that of its end."""
    result = dict(found)
    if "membrane" not in found:
        return result
    scale = 2 ** shift_of(op)
    if isinstance(op, Linear):
        result["membrane"] = found["membrane"].scaled(scale, op.neuron.lift())
    if "v" not in found and isinstance(op, Linear):
        constant = op.code.zero * op.weight.sum(1, dtype=np.int64)
        result["v"] = found["membrane"].scaled(1, constant).scaled(scale)
    return result


def _joined(span: Span) -> Span:
    low, high = span.outer()
    return Span(np.array([low]), np.array([high]))


def _bound(name: str, worst: Span, anything: Span, calibrated: Span | None) -> Bound:
    low, high, limit_name = _LIMITS.get(name, _STATE)
    used = np.maximum(worst.low / low, worst.high / high)
    seen = None if calibrated is None else calibrated.outer()
    return Bound(name, (low, high), limit_name, anything.outer(), worst.outer(), seen, int(used.argmax()))


def _advice(block: Block, op: CoreOp, beyond: list[str], context: int) -> str:
    """What would make a segment proved."""
    if "stored weight" in beyond:
        return "use a recipe with 4-bit weights"
    if isinstance(op, Mix):
        positions = _provable_positions(block, op, context)
        return f"proved up to {positions} positions: shorten the context or lower the ratio of attn.p"
    if not isinstance(op, Linear) or op.fires is not None:
        return "lower the shift of its fire phase, or read its membranes out on the host"
    parts = parts_needed(op, arrivals(block, op.input, op.code, op.weight.shape[1]))
    if parts is None:
        return "use a recipe with fewer outliers, narrower messages or narrower weights"
    return f"split its fan-in of {op.weight.shape[1]} over {parts} read segments"


def _provable_positions(block: Block, op: Mix, context: int) -> int:
    """Most positions for which an attention product is proved."""
    low, high = 0, context
    while low < high:
        middle = (low + high + 1) // 2
        spans, _ = _worst_cases(block, op, middle)
        if all(_bound(name, span, span, None).guarantee == PROVED for name, span in spans.items()):
            low = middle
        else:
            high = middle - 1
    return low
