"""Parts of a wide fan-in in one product again, for a backend that has no neurons whose state would be too narrow.

    codes -> Slice -> Linear -> sums.0 \\
    codes -> Slice -> Linear -> sums.1 -> Sum -> sums     becomes     codes -> Joined -> sums

See `kirin_lava.hardware.split` for the other way. Where a whole sum fits float32 it is the same; a larger one is rounded to
float32, which `Decode`, and nobody else, does to the sum of the parts, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.base.matmul import ROUNDS_ONCE
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Decode, Encode, Linear, Op, Slice, Sum
from kirin_lava.graph.port import Port

__all__ = ["Joined", "join_parts"]


@dataclass(frozen=True, eq=False)
class Joined(Linear):
    """A fan-in in one piece whose parts are proved to fit their states: its own sums need not fit one."""


def join_parts(block: Block) -> Block:
    """The block with as few products as there can be. Parts whose state could overflow stay as they are."""
    makers: dict[str, Op] = {op.output: op for op in block.ops}
    readers = Counter(name for op in block.ops for name in op.reads())
    gone: set[Op] = set()
    whole: dict[Op, Joined] = {}
    for op in block.ops:
        if isinstance(op, Decode) and isinstance(total := makers.get(op.input), Sum) and readers[total.output] == 1:
            ops = _below(total, makers, readers)
            joined = _joined(total, [op for op in ops if isinstance(op, Linear)], makers, block.ports) if ops else None
            if joined:
                whole[total] = joined
                gone |= {*ops} - {total}
    return replace(block, ops=tuple(whole.get(op, op) for op in block.ops if op not in gone))


def _below(total: Sum, makers: dict[str, Op], readers: Counter[str]) -> list[Op]:
    """A sum, the sums below it, and the segments that they add with their slices; none where there is anything else, or where
    somebody else reads them."""
    found: list[Op] = []
    left: list[Op] = [total]
    while left:
        op = left.pop()
        found.append(op)
        if isinstance(op, Slice):
            continue
        for name in op.reads():
            below = makers.get(name)
            wanted = (Slice,) if isinstance(op, Linear) else (Sum, Linear)
            if readers[name] != 1 or not isinstance(below, wanted):
                return []
            left.append(below)
    return found


def _joined(total: Sum, parts: list[Linear], makers: dict[str, Op], ports: Mapping[str, Port]) -> Joined | None:
    slices = [op for op in (makers[part.input] for part in parts) if isinstance(op, Slice)]
    edges = sorted((op.start, op.stop) for op in slices)
    first = parts[0]
    together = [0, *(stop for _, stop in edges)] == [*(start for start, _ in edges), ports[slices[0].input].width]
    if not together or len({op.input for op in slices}) > 1 or any(part.code != first.code or part.fires for part in parts):
        return None
    budget = _messages(makers.get(slices[0].input), ports)
    if first.code.largest > ROUNDS_ONCE or any(_reach(part, budget) > STATE_MAX for part in parts):
        return None
    ordered = [part for _, part in sorted(zip((op.start for op in slices), parts, strict=True), key=lambda pair: pair[0])]
    weight = np.concatenate([part.weight for part in ordered], axis=1)
    return Joined(total.name, slices[0].input, total.output, weight, first.bits, first.code)


def _messages(encode: Op | None, ports: Mapping[str, Port]) -> int | None:
    """Most messages in the codes of a token, None for any number of them."""
    if not isinstance(encode, Encode) or encode.rule.by_row:
        return None
    budget = encode.rule.budget(encode.code, ports[encode.output].width // encode.groups)
    return None if budget is None else budget * encode.groups


def _reach(part: Linear, messages: int | None) -> int:
    """Largest membrane: the largest weights meet messages, the others spikes."""
    size, code = np.abs(part.weight.astype(np.int16)), part.code
    spike = 0 if code.spike_codes is None else max(map(abs, code.spike_codes))
    others = size.shape[1] - (size.shape[1] if messages is None else min(messages, size.shape[1]))
    sums = np.sort(size, 1)[:, others:].sum(1, dtype=np.int64) * (code.largest - spike) if spike else 0
    return int((sums + size.sum(1, dtype=np.int64) * (spike or code.largest)).max(initial=0))
