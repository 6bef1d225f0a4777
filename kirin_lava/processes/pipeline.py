"""The pipeline of a block network: which host stage computes what, what it plays, and what it hands on. Imports no Lava.

The stage of an operation is the number of core operations before it, so a straight list of operations becomes a pipeline:

    host stage 0 -> core op 0 -> host stage 1 -> core op 1 -> host stage 2 ..

Each arrow is one window. Where core op i fires, its spikes go straight to core op i+1 and there is no host stage between.
Values that a later stage needs (a residual, the step of codes, a row of the cache) ride along on a real-valued message from
host stage to host stage.

Where the block is not causal, a token's scores need the keys of the whole sequence. The stage that plays them is a buffer: it
sends on at once what is cached, and holds the rest of a token until the last one has come, as many windows as the sequence has
tokens. From then on one token leaves it in every window.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import CoreOp, Linear, Mix, Score, StageOp, synapses_of
from kirin_lava.graph.port import CODES, Port
from kirin_lava.spikes.codes import SpikeCode

__all__ = ["Freight", "HostStagePlan", "Pipeline", "plan_block"]


@dataclass(frozen=True)
class Freight:
    """One value on the message between host stages: `real` or `fixed` numbers, `sums`, `codes` with their steps and zero
    points, or those `steps` alone."""

    name: str
    kind: str
    size: int


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
        fired: codes that are fired before the next host stage; their step is 1.
        arrives, leaves: the freight of its messages.
        holds: whether tokens wait in it until the sequence is complete.
    """

    index: int
    gap: int
    receives: CoreOp | None
    ops: tuple[StageOp, ...]
    plays: CoreOp | None
    row: str | None
    fired: tuple[str, ...]
    arrives: tuple[Freight, ...]
    leaves: tuple[Freight, ...]
    holds: bool = False


@dataclass(frozen=True, eq=False)
class Pipeline:
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
        """Windows from a token's entry to its result, without those that it waits for others."""
        return len(self.cores)

    def wait(self, index: int, tokens: int) -> int:
        """Windows that the tokens of a sequence of so many have waited when core operation `index` takes them."""
        return tokens * sum(stage.holds for stage in self.stages if stage.index <= index)

    def membranes(self, op: CoreOp) -> int:
        """Sums that a core operation makes; of a `Mix` in parts those of all parts, part by part."""
        return self.widths[op.output] * (op.parts(self.capacity) if isinstance(op, Mix) else 1)

    def halves(self, op: CoreOp) -> int:
        """Neurons for each of these sums: as many as a cached code has synapses. Their membranes are digits to the base 256."""
        return 1 if isinstance(op, Linear) else len(synapses_of(self.block.ports[op.cache].code))

    def is_fired(self, index: int) -> bool:
        """Whether core operation `index` takes its input from the neurons before it."""
        return index > 0 and _fires(self.cores[index - 1]) is not None


def places(window: int | None, positions: int) -> int:
    """Places that a cache has for so many positions: position p takes that of p - window."""
    return positions if window is None else min(window, positions)


def plan_block(block: Block, capacity: int) -> Pipeline:
    """Plan the network of a block.

    Args:
        block: the block.
        capacity: most positions.

    Raises:
        UnsupportedError: a block that is no pipeline: scores that wait for their softmax, fired codes that do not feed the
            next linear segment.
    """
    cores = tuple(block.core_ops())
    if not cores:
        raise UnsupportedError(f"{block.name} has no core operation: there is nothing to run on Lava")
    ports = block.ports
    widths = {name: port.width * (places(port.window, capacity) if port.by_position else 1) for name, port in ports.items()}
    stage_ops: list[list[StageOp]] = [[] for _ in range(len(cores) + 1)]
    born: dict[str, int] = {"x": 0}
    stage = 0
    for op in block.ops:
        if isinstance(op, (Linear, Score, Mix)):
            stage += 1
        else:
            stage_ops[stage].append(cast(StageOp, op))
        born[op.output] = stage
    fired = {core.output: i for i, core in enumerate(cores) if _fires(core) is not None}
    for name, i in fired.items():
        if i + 1 == len(cores) or cores[i + 1].input != name or not isinstance(cores[i + 1], Linear) or stage_ops[i + 1]:
            raise UnsupportedError(
                f"{block.name}: the codes that {cores[i].name} fires must feed the next linear segment, and it alone"
            )
    for i, ops in enumerate(stage_ops):
        for op in ops:
            late = [name for name, part in op.reads().items() if part == "all" and ports[name].by_position and born[name] != i]
            if late:
                raise UnsupportedError(f"{block.name}: {op.name} must take the scores {late[0]} as soon as they are there")

    hosted = [i for i in range(len(cores) + 1) if i == 0 or i == len(cores) or cores[i - 1].output not in fired]
    needs = {}
    for i in hosted:
        arrived = cores[i - 1].output if i else ""
        needs[i] = _needs(stage_ops[i], None if i == len(cores) else cores[i], block.output, ports, arrived)
    freights: dict[int, tuple[Freight, ...]] = {hosted[0]: ()}
    for previous, current in pairwise(hosted):
        wanted: dict[str, str] = {}
        for later in (i for i in hosted if i >= current):
            for name, kind in needs[later].items():
                if fired[name] < current if name in fired else born[name] <= previous:
                    wanted[name] = "codes" if "codes" in (kind, wanted.get(name)) else kind
        freights[current] = tuple(
            Freight(name, kind, _size(kind, widths[name], ports[name].groups + ports[name].zero_points))
            for name, kind in sorted(wanted.items())
        )

    stages = []
    for k, i in enumerate(hosted):
        last = i == len(cores)
        following = None if last else hosted[k + 1]
        plays = None if last else cores[i]
        chain = range(i, i if following is None else following)
        steps = tuple(cores[j].output for j in chain if _fires(cores[j]) is not None)
        row = plays.cache if isinstance(plays, (Score, Mix)) else None
        leaves = () if following is None else freights[following]
        gap = 0 if k == 0 else i - hosted[k - 1]
        receives = cores[i - 1] if i else None
        holds = isinstance(plays, Score) and not block.causal
        if holds:
            _require_buffer(block, cores, i, born)
        stages.append(HostStagePlan(i, gap, receives, tuple(stage_ops[i]), plays, row, steps, freights[i], leaves, holds))
    return Pipeline(block, cores, tuple(stages), widths, _period(cores), capacity)


def _require_buffer(block: Block, cores: tuple[CoreOp, ...], index: int, born: dict[str, int]) -> None:
    """Keys and values of a sequence are there before its first scores, and the probabilities meet the values right after."""
    following = cores[index + 1] if index + 1 < len(cores) else None
    if not isinstance(following, Mix) or born[following.cache] > index:
        raise UnsupportedError(
            f"{block.name}: {cores[index].name} attends to the whole sequence; its values must be there with the keys, and "
            "a mix must follow it"
        )


def _fires(op: CoreOp) -> SpikeCode | None:
    return op.fires if isinstance(op, Linear) else None


def _period(cores: tuple[CoreOp, ...]) -> int:
    fired = (code for op in cores if (code := _fires(op)) is not None)
    return max(code.window for code in (*(op.code for op in cores), *fired))


def _needs(ops: list[StageOp], plays: CoreOp | None, result: str, ports: dict[str, Port], arrived: str) -> dict[str, str]:
    """What a host stage needs from the stages before it: value name -> kind of freight. `arrived` are its membranes."""
    needs: dict[str, str] = {}
    here = {arrived}

    def need(name: str, kind: str | None = None) -> None:
        if name not in here and needs.get(name) != CODES:
            needs[name] = kind or ports[name].kind

    for op in ops:
        for name, part in op.reads().items():
            need(name, None if part == "all" else part)
        here.add(op.output)
    if plays is None:
        need(result)
    else:
        need(plays.input)
        if isinstance(plays, (Score, Mix)):
            need(plays.cache)
    return needs


def _size(kind: str, width: int, beside: int) -> int:
    """Numbers of a freight: sums need two, see `HostStage`; `beside` codes are their steps and zero points."""
    return {"real": width, "fixed": width, "sums": 2 * width, "codes": width + beside, "steps": beside}[kind]
