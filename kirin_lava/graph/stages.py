"""The order in which a block is computed on many tokens: phases, at whose ends all tokens meet, of stages.

    stage   an operation on its own, or an attention as a whole: from its scores to whatever reads a row per position
    phase   stages that a token goes through without looking at others; it ends before an attention that reads what it cached

The tokens of a phase can be computed in any pieces, one after another or on several threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Encode, Mix, Op, Score

__all__ = ["Phase", "Stage", "phases_of"]

Stage = tuple[Op, ...]


@dataclass(frozen=True)
class Phase:
    """Stages in order.

    Attributes:
        cached: operations whose codes are kept for later tokens.
        kept: names of the values that later phases read, and of the block's result.
    """

    stages: tuple[Stage, ...]
    cached: tuple[Encode, ...]
    kept: frozenset[str]


def phases_of(block: Block) -> tuple[Phase, ...]:
    """The phases of a block, in order."""
    grouped: list[list[Stage]] = [[]]
    for stage in _stages(block):
        cached = {op.output for op in _cached(grouped[-1])}
        if any(isinstance(op, (Score, Mix)) and op.cache in cached for op in stage):
            grouped.append([])
        grouped[-1].append(stage)
    phases: list[Phase] = []
    read = {block.output}
    for stages in reversed(grouped):
        phases.insert(0, Phase(tuple(stages), _cached(stages), frozenset(read)))
        read |= {name for stage in stages for op in stage for name in op.reads()}
    return tuple(phases)


def _stages(block: Block) -> list[Stage]:
    """Operations one by one, but those of an attention together."""
    ops, stages, start = block.ops, [], 0
    while start < len(ops):
        stop = start + 1
        if isinstance(ops[start], Score):
            for i in range(start + 1, len(ops)):
                if isinstance(ops[i], Score):
                    break
                if any(block.ports[name].by_position for name in ops[i].reads()):
                    stop = i + 1
        stages.append(ops[start:stop])
        start = stop
    return stages


def _cached(stages: list[Stage]) -> tuple[Encode, ...]:
    return tuple(op for stage in stages for op in stage if isinstance(op, Encode) and op.cached)
