"""The plan of a block network: which host stage computes what, what it plays, and what it hands on. Imports no Lava.

The stage of an operation is the number of core operations before it, so a straight list of operations becomes a pipeline:

    host stage 0 -> core op 0 -> host stage 1 -> core op 1 -> host stage 2 ..

Each arrow is one window. Where core op i fires, its spikes go straight to core op i+1 and there is no host stage between.
Values that a later stage needs (a residual, the step of codes, a row of the cache) ride along on a real-valued message from
host stage to host stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.graph.ops import (
    Add,
    Block,
    CoreOp,
    Decode,
    Encode,
    Fire,
    Gate,
    HostOp,
    Linear,
    Mix,
    Norm,
    Rotary,
    Score,
    Slice,
    Softmax,
    Sum,
)
from kirin_lava.spikes.codes.coding import Encoding

__all__ = ["BlockPlan", "FiredStep", "Freight", "HostStagePlan", "plan_block"]


@dataclass(frozen=True)
class Freight:
    """One value on the message between host stages: `real` numbers, `sums`, `codes` with their steps, or the `steps` alone."""

    name: str
    kind: str
    size: int


@dataclass(frozen=True, eq=False)
class FiredStep:
    """The step of codes that neurons fire, from that of their input codes: see `graph.Fire`."""

    output: str
    source: str
    fire: Fire


@dataclass(frozen=True, eq=False)
class HostStagePlan:
    """One host stage.

    Attributes:
        index: number of core operations before it, its delay in windows.
        gap: windows since the host stage before.
        receives: the core operation whose membranes arrive, None for stage 0.
        ops: host operations, in order.
        plays: the core operation whose input codes it sends, None for the last stage.
        row: the cached codes that it sends along, or None.
        fired: steps of codes that are fired before the next host stage.
        arrives, leaves: the freight of its messages.
    """

    index: int
    gap: int
    receives: CoreOp | None
    ops: tuple[HostOp, ...]
    plays: CoreOp | None
    row: str | None
    fired: tuple[FiredStep, ...]
    arrives: tuple[Freight, ...]
    leaves: tuple[Freight, ...]


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """A block as a pipeline.

    Attributes:
        cores: core operations in order; number i takes its input in stage i.
        stages: host stages in order.
        widths: numbers per token of every value, at full capacity for scores and probabilities.
        period: time steps per window.
        capacity: most positions.
    """

    block: Block
    cores: tuple[CoreOp, ...]
    stages: tuple[HostStagePlan, ...]
    widths: dict[str, int]
    period: int
    capacity: int

    @property
    def latency(self) -> int:
        """Windows from a token's entry to its result."""
        return len(self.cores)

    def is_fired(self, index: int) -> bool:
        """Whether core operation `index` takes its input from the neurons before it."""
        return index > 0 and _fire_of(self.cores[index - 1]) is not None


def plan_block(block: Block, width: int, capacity: int) -> BlockPlan:
    """Plan the network of a block.

    Args:
        block: the block.
        width: numbers per token at its input.
        capacity: most positions.

    Raises:
        UnsupportedError: a block that is no pipeline: scores that wait for their softmax, fired codes that do not feed the
            next linear segment.
    """
    cores = tuple(block.core_ops())
    if not cores:
        raise UnsupportedError(f"{block.name} has no core operation: there is nothing to run on Lava")
    widths, groups = _shapes(block, width, capacity)
    stage_ops: list[list[HostOp]] = [[] for _ in range(len(cores) + 1)]
    born: dict[str, int] = {"x": 0}
    stage = 0
    for op in block.ops:
        if isinstance(op, (Linear, Score, Mix)):
            stage += 1
        else:
            stage_ops[stage].append(op)
        born[op.output] = stage
    fired = {core.output: i for i, core in enumerate(cores) if _fire_of(core) is not None}
    for name, i in fired.items():
        if i + 1 == len(cores) or cores[i + 1].input != name or not isinstance(cores[i + 1], Linear) or stage_ops[i + 1]:
            raise UnsupportedError(
                f"{block.name}: the codes that {cores[i].name} fires must feed the next linear segment, and it alone"
            )
    for i, ops in enumerate(stage_ops):
        for op in ops:
            if isinstance(op, Softmax) and born[op.input] != i:
                raise UnsupportedError(f"{block.name}: {op.name} must take the scores {op.input} as soon as they are there")

    hosted = [i for i in range(len(cores) + 1) if i == 0 or i == len(cores) or cores[i - 1].output not in fired]
    kinds = _kinds(block)
    needs = {}
    for i in hosted:
        arrived = cores[i - 1].output if i else ""
        needs[i] = _needs(stage_ops[i], None if i == len(cores) else cores[i], block.output, kinds, arrived)
    freights: dict[int, tuple[Freight, ...]] = {hosted[0]: ()}
    for previous, current in pairwise(hosted):
        wanted: dict[str, str] = {}
        for later in (i for i in hosted if i >= current):
            for name, kind in needs[later].items():
                if fired[name] < current if name in fired else born[name] <= previous:
                    wanted[name] = "codes" if "codes" in (kind, wanted.get(name)) else kind
        freights[current] = tuple(
            Freight(name, kind, _size(kind, widths[name], groups.get(name, 0))) for name, kind in sorted(wanted.items())
        )

    stages = []
    for k, i in enumerate(hosted):
        last = i == len(cores)
        following = None if last else hosted[k + 1]
        plays = None if last else cores[i]
        chain = range(i, i if following is None else following)
        steps = tuple(FiredStep(c.output, c.input, f) for c in (cores[j] for j in chain) if (f := _fire_of(c)) is not None)
        row = plays.cache if isinstance(plays, (Score, Mix)) else None
        leaves = () if following is None else freights[following]
        gap = 0 if k == 0 else i - hosted[k - 1]
        receives = cores[i - 1] if i else None
        stages.append(HostStagePlan(i, gap, receives, tuple(stage_ops[i]), plays, row, steps, freights[i], leaves))
    return BlockPlan(block, cores, tuple(stages), widths, _period(cores), capacity)


def _fire_of(op: CoreOp) -> Fire | None:
    return None if isinstance(op, Score) else op.fire


def _period(cores: tuple[CoreOp, ...]) -> int:
    encodings: list[Encoding] = [op.encoding for op in cores]
    encodings += [fire.encoding for op in cores if (fire := _fire_of(op)) is not None]
    return max(encoding.window for encoding in encodings)


def _kinds(block: Block) -> dict[str, str]:
    """Kind of every value of a block."""
    kinds = {"x": "real"}
    for op in block.ops:
        if isinstance(op, Slice):
            kinds[op.output] = kinds[op.input]
        elif isinstance(op, Encode) or (isinstance(op, (Linear, Mix)) and op.fire is not None):
            kinds[op.output] = "codes"
        else:
            kinds[op.output] = "sums" if isinstance(op, (Linear, Score, Mix, Sum)) else "real"
    return kinds


def _needs(ops: list[HostOp], plays: CoreOp | None, result: str, kinds: dict[str, str], arrived: str) -> dict[str, str]:
    """What a host stage needs from the stages before it: value name -> kind of freight. `arrived` are its membranes."""
    needs: dict[str, str] = {}
    here = {arrived}

    def need(name: str, kind: str | None = None) -> None:
        if name not in here and needs.get(name) != "codes":
            needs[name] = kind or kinds[name]

    for op in ops:
        need(op.input)
        if isinstance(op, Decode):
            need(op.codes, "steps")
        elif isinstance(op, Softmax):
            for name in (op.query, op.key, op.value):
                need(name, "steps")
        elif isinstance(op, (Add, Sum)):
            need(op.other)
        here.add(op.output)
    if plays is None:
        need(result)
    else:
        need(plays.input)
        if isinstance(plays, (Score, Mix)):
            need(plays.cache)
    return needs


def _size(kind: str, width: int, groups: int) -> int:
    """Numbers of a freight: sums need two, see `HostStage`."""
    return {"real": width, "sums": 2 * width, "codes": width + groups, "steps": groups}[kind]


def _shapes(block: Block, width: int, capacity: int) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers per token of every value, and steps per token of every codes value."""
    widths = {"x": width}
    groups: dict[str, int] = {}
    for op in block.ops:
        match op:
            case Slice():
                widths[op.output] = op.stop - op.start
            case Gate():
                widths[op.output] = widths[op.input] // 2
            case Linear():
                widths[op.output] = len(op.weight)
            case Score() | Softmax():
                widths[op.output] = op.heads * capacity
            case Mix():
                widths[op.output] = widths[op.cache] // op.kv_heads * op.heads
            case Norm() | Rotary() | Add() | Sum() | Encode() | Decode():
                widths[op.output] = widths[op.input]
        if isinstance(op, Encode):
            groups[op.output] = op.groups
        elif op.input in groups and (isinstance(op, Slice) or (isinstance(op, (Linear, Mix)) and op.fire is not None)):
            groups[op.output] = groups[op.input]
    return widths, groups
