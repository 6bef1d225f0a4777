"""The shape of a converted model: its segments and host operations as plain numbers, with no weight in memory.

The model may be a real one, or one with stand-ins for its weights that a config.json and a recipe give
(`kirin_lava.quantize.without_weights`). Both have the same shape, except that a real segment whose weights happen to be
small may be
stored in fewer bits, and one whose weights are large may be split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.counter import halves_of, readouts_of, stored_bits
from kirin_lava.graph.ops import CoreOp, Encode, Linear, Mix, Op, Score, StageOp
from kirin_lava.graph.ops.integer import IntegerOp, IntegerRotary
from kirin_lava.graph.ops.op import HOST
from kirin_lava.spikes.codes import SpikeCode, code_named
from kirin_lava.spikes.neurons import READ_OUT

__all__ = ["HostWork", "ModelShape", "Segment", "shape_of_model"]


@dataclass(frozen=True)
class Segment:
    """One operation that runs as spikes. Sizes that depend on the number of positions so far take it as `context`.

    Attributes:
        kind: "read" and "fire" are linear, "score" and "mix" are the two products of attention.
        inputs: K; of "score" the width of a head. outputs: N; of "score" the heads, of "mix" heads * width of a head.
        bits: of a stored synapse or cached code. weight_bits: of a weight before its shift.
        encoding: name of the code that arrives. outlier_share: how much of it may be messages.
        fires: name of the code it fires, None where its membranes are read out.
        fed_by: name of the segment whose spikes it gets on chip, None where the host encodes.
        states_touched: states of a neuron that every step reads and writes.
        heads, kv_heads: of attention, else 0.
        part: positions that share the neurons of a "mix", 0 for all of them.
        reach: positions that an attention keeps at most, 0 for all of them.
        hosted: whether a host sends what arrives and takes what is read out; else neurons of integer operations do.
        state_words: 24-bit words that a core keeps per neuron.
        comparisons, ramp_adds: of a neuron in one window, as if it fired in the last step.
        readouts: sums that leave for each output and window. halves: neurons for each output, see `synapses_of`.
    """

    block: str
    name: str
    kind: str
    inputs: int
    outputs: int
    bits: int
    weight_bits: int
    encoding: str
    outlier_share: float
    fires: str | None = None
    fed_by: str | None = None
    states_touched: int = READ_OUT.states_touched
    heads: int = 0
    kv_heads: int = 0
    state_words: int = READ_OUT.state_words
    comparisons: int = 0
    ramp_adds: int = 0
    part: int = 0
    hosted: bool = True
    readouts: int = 1
    halves: int = 1
    reach: int = 0

    @property
    def codes(self) -> SpikeCode:
        """Code of what arrives."""
        return code_named(self.encoding)

    def row(self, context: int) -> int:
        """Inputs that meet in an output: those of a neuron, or of all parts together."""
        return self.held(context) if self.kind == "mix" else self.inputs

    def held(self, context: int) -> int:
        """Positions that are kept of so many."""
        return min(context, self.reach) if self.reach else context

    def fan_ins(self, context: int) -> list[int]:
        """Inputs of a neuron of every part."""
        whole, part = self.row(context), self.part or self.row(context)
        return [min(part, whole - start) for start in range(0, whole, part)]

    def lines(self, context: int) -> int:
        """Input lines of the whole segment: every head has its own."""
        return self.row(context) * max(self.heads, 1)

    def neurons(self, context: int) -> int:
        """Neurons; of "score" one per head and position, of "mix" those of every part."""
        return self.outputs * (self.held(context) if self.kind == "score" else len(self.fan_ins(context)))

    def synapses(self, context: int) -> int:
        """Weights or cached codes; query heads that share a key or value head hold copies, as plain dense synapses do."""
        return self.row(context) * self.outputs * (self.held(context) if self.kind == "score" else 1)

    def cached(self) -> int:
        """Codes that a token adds to this segment's cache, 0 for a linear one."""
        if not self.heads:
            return 0
        return self.kv_heads * (self.inputs if self.kind == "score" else self.outputs // self.heads)


@dataclass(frozen=True)
class HostWork:
    """One operation between segments. operations: float ones of the host or, `on_chip`, integer ones of neurons; per token, or
    per token and position where `per_position`, or, where membranes of parts are added, for every part of so many positions but
    the first.

    Attributes:
        products: among the operations, counted like them. constant_bytes: that every neuron keeps. tables: names and bytes of
            what its neurons look up.
        reach: positions of a row at most, 0 for all.
    """

    block: str
    name: str
    kind: str
    width: int
    operations: int
    per_position: bool = False
    part: int = 0
    on_chip: bool = False
    products: int = 0
    constant_bytes: int = 0
    tables: tuple[tuple[str, int], ...] = ()
    reach: int = 0

    def positions(self, context: int) -> int:
        """Of a row, where so many were."""
        return min(context, self.reach) if self.reach else context

    def neurons(self, context: int) -> int:
        """One for every number of the result."""
        return self.width * (self.positions(context) if self.per_position else 1)

    def at(self, context: int) -> int:
        """Operations of a token that sees `context` positions."""
        if self.part:
            return self.operations * (-(-self.positions(context) // self.part) - 1)
        return self.operations * (self.positions(context) if self.per_position else 1)


@dataclass(frozen=True)
class ModelShape:
    """A converted model.

    Attributes:
        position_rows: learned positions, 0 where there are none.
        between_steps: time steps that integer operations between the segments add to a token's way, along its longest path.
        rotary_width: width of the rotary tables that such operations read, 0 where they read none.
    """

    model_type: str
    layers: int
    width: int
    vocabulary: int
    max_positions: int
    position_rows: int
    segments: tuple[Segment, ...]
    host: tuple[HostWork, ...]
    between_steps: int = 0
    rotary_width: int = 0

    def weights(self) -> int:
        """Weights of all linear segments."""
        return sum(s.inputs * s.outputs for s in self.segments if not s.heads)

    def host_parameters(self) -> int:
        """Embedding entries, learned positions included."""
        return (self.vocabulary + self.position_rows) * self.width

    def blocks(self) -> list[str]:
        """Names of the blocks, in order."""
        return list(dict.fromkeys(s.block for s in self.segments))

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def shape_of_model(model: Model) -> ModelShape:
    """The shape of a converted model."""
    segments: list[Segment] = []
    host: list[HostWork] = []
    vocabulary, width = model.embedding.tokens.shape
    for block in (*model.blocks, model.head):
        segments += (_segment(block, op) for op in block.core_ops())
        host += _host_work(block)
    return ModelShape(
        model_type=str(model.facts.get("model_type", "")),
        layers=len(model.blocks),
        width=width,
        vocabulary=vocabulary,
        max_positions=model.max_positions,
        position_rows=0 if model.embedding.positions is None else len(model.embedding.positions),
        segments=tuple(segments),
        host=tuple(host),
        between_steps=sum(_longest_way(block) for block in (*model.blocks, model.head)),
        rotary_width=max((_rotary_width(block) for block in model.blocks), default=0),
    )


def _longest_way(block: Block) -> int:
    """Steps of integer operations from the block's input to its output, where those that can run side by side do."""
    depth = {"x": 0}
    for op in block.ops:
        depth[op.output] = max(depth[name] for name in op.reads()) + (op.steps if isinstance(op, IntegerOp) else 0)
    return depth[block.output]


def _rotary_width(block: Block) -> int:
    turned = [(op.table or 0, block.ports[op.output].width // op.heads) for op in block.ops if isinstance(op, IntegerRotary)]
    return max(((table + 1) * width for table, width in turned), default=0)


def _segment(block: Block, op: CoreOp) -> Segment:
    bits, ports = stored_bits(op, block), block.ports
    source = block.producer(op.input)
    neuron = op.neuron
    comparisons, ramp_adds = neuron.most_work()
    linear = isinstance(op, Linear)
    inputs = ports[op.input].width if linear else ports[op.input].width // op.heads if isinstance(op, Score) else 0
    return Segment(
        block=block.name,
        name=op.name,
        kind=op.kind,
        inputs=inputs,
        outputs=ports[op.output].width,
        bits=bits,
        weight_bits=op.bits if isinstance(op, Linear) else bits,
        encoding=op.code.name,
        outlier_share=_message_share(source, ports[op.input].width),
        fires=None if neuron.fires is None else neuron.fires.name,
        fed_by=source.name if isinstance(source, Linear) else None,
        heads=0 if isinstance(op, Linear) else op.heads,
        kv_heads=0 if isinstance(op, Linear) else op.kv_heads,
        state_words=neuron.state_words * halves_of(op, block),
        states_touched=neuron.states_touched,
        comparisons=comparisons,
        ramp_adds=ramp_adds,
        part=(op.part or 0) if isinstance(op, Mix) else 0,
        hosted=block.fraction is None,
        readouts=readouts_of(op, block),
        halves=halves_of(op, block),
        reach=0 if isinstance(op, Linear) else op.window or 0,
    )


def _message_share(source: Op, width: int) -> float:
    """Largest share of messages among the codes of a token; of probabilities, whose number grows, the ratio itself."""
    if not isinstance(source, Encode):
        return 0.0  # neurons fire spikes alone
    return source.rule.share(source.code, width, source.groups)


def _host_work(block: Block) -> Iterator[HostWork]:
    for op in block.ops:
        if isinstance(op, StageOp):
            port, on_chip = block.ports[op.output], op.place != HOST
            operations = port.width * op.operations()
            kind, reach = type(op).__name__, port.window or 0
            work = HostWork(block.name, op.name, kind, port.width, operations, port.by_position, on_chip=on_chip, reach=reach)
            if isinstance(op, IntegerOp):
                tables = tuple((table.name, table.bytes) for table in op.tables())
                products = port.width * op.products
                work = replace(work, products=products, constant_bytes=op.constant_bytes(), tables=tables)
            yield work
        elif isinstance(op, Mix) and op.part is not None:
            width = block.ports[op.output].width
            yield HostWork(
                block.name,
                f"{op.name}.sum",
                "Sum",
                width,
                width,
                part=op.part,
                on_chip=block.fraction is not None,
                reach=op.window or 0,
            )
