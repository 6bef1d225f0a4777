"""The shape of a converted model: its segments and host operations as plain numbers, with no weight in memory.

The model may be a real one, or one with stand-ins for its weights that a config.json and a recipe give
(`kirin_lava.quantize.without_weights`). Both have the same shape, except that a real segment whose weights happen to be
small may be
stored in fewer bits, and one whose weights are large may be split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kirin_lava.graph.counter import stored_bits
from kirin_lava.graph.host import outlier_budget
from kirin_lava.graph.host_work import float_operations
from kirin_lava.graph.ops import Block, CoreOp, Encode, Gate, Linear, Mix, Model, Op, Score, Slice, Softmax
from kirin_lava.spikes.codes.coding import Encoding, encoding

__all__ = ["HostWork", "ModelShape", "Segment", "shape_of_model", "value_widths"]


@dataclass(frozen=True)
class Segment:
    """One operation that runs as spikes. Sizes that depend on the number of positions so far take it as `context`.

    Attributes:
        kind: "read" and "fire" are linear, "score" and "mix" are the two products of attention.
        inputs: K; of "score" the width of a head. outputs: N; of "score" the heads, of "mix" heads * width of a head.
        bits: of a stored synapse or cached code. weight_bits: of a weight before its shift.
        encoding: of the codes that arrive. outlier_share: how much of them may be outliers.
        fires: encoding of the codes it fires, None where its membranes are read out.
        fed_by: name of the segment whose spikes it gets on chip, None where the host encodes.
        state_words: states of a neuron, each read and written in every step.
        heads, kv_heads: of attention, else 0.
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
    state_words: int = 2
    heads: int = 0
    kv_heads: int = 0

    @property
    def codes(self) -> Encoding:
        """Encoding of the codes that arrive."""
        return encoding(self.encoding)

    def fan_in(self, context: int) -> int:
        """Inputs of a neuron."""
        return context if self.kind == "mix" else self.inputs

    def lines(self, context: int) -> int:
        """Input lines of the whole segment: every head has its own."""
        return self.fan_in(context) * max(self.heads, 1)

    def neurons(self, context: int) -> int:
        """Neurons; of "score" one per head and position."""
        return self.outputs * context if self.kind == "score" else self.outputs

    def synapses(self, context: int) -> int:
        """Weights or cached codes; query heads that share a key or value head hold copies, as plain dense synapses do."""
        return self.neurons(context) * self.fan_in(context)

    def cached(self) -> int:
        """Codes that a token adds to this segment's cache, 0 for a linear one."""
        if not self.heads:
            return 0
        return self.kv_heads * (self.inputs if self.kind == "score" else self.outputs // self.heads)


@dataclass(frozen=True)
class HostWork:
    """One host operation. operations: float operations per token, or per token and position where `per_position`."""

    block: str
    name: str
    kind: str
    width: int
    operations: int
    per_position: bool = False

    def at(self, context: int) -> int:
        """Float operations of a token that sees `context` positions."""
        return self.operations * (context if self.per_position else 1)


@dataclass(frozen=True)
class ModelShape:
    """A converted model. position_rows: learned positions, 0 where there are none."""

    model_type: str
    layers: int
    width: int
    vocabulary: int
    max_positions: int
    position_rows: int
    segments: tuple[Segment, ...]
    host: tuple[HostWork, ...]

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
        widths = value_widths(block, width)
        segments += (_segment(block, op, widths) for op in block.core_ops())
        host += _host_work(block, widths)
    return ModelShape(
        model_type=str(model.facts.get("model_type", "")),
        layers=len(model.blocks),
        width=width,
        vocabulary=vocabulary,
        max_positions=model.max_positions,
        position_rows=0 if model.embedding.positions is None else len(model.embedding.positions),
        segments=tuple(segments),
        host=tuple(host),
    )


def value_widths(block: Block, width: int) -> dict[str, int]:
    """Elements per token of every value; per token and position where a value has one per head and position."""
    widths = {"x": width}
    for op in block.ops:
        if isinstance(op, Slice):
            widths[op.output] = op.stop - op.start
        elif isinstance(op, Gate):
            widths[op.output] = widths[op.input] // 2
        elif isinstance(op, Linear):
            widths[op.output] = op.weight.shape[0]
        elif isinstance(op, Score):
            widths[op.output] = op.heads
        elif isinstance(op, Mix):
            widths[op.output] = op.heads * (widths[op.cache] // op.kv_heads)
        else:
            widths[op.output] = widths[op.input]
    return widths


def _segment(block: Block, op: CoreOp, widths: dict[str, int]) -> Segment:
    bits = stored_bits(op, block)
    source = block.producer(op.input)
    fed_by = source.name if isinstance(source, (Linear, Mix)) else None
    outputs = widths[op.output]
    phase = None if isinstance(op, Score) else op.fire
    fires = None if phase is None else phase.encoding.name
    if isinstance(op, Linear):
        kind, inputs, weight_bits = "fire" if fires else "read", op.weight.shape[1], op.bits
        heads = kv_heads = 0
    else:
        kind, heads, kv_heads = type(op).__name__.lower(), op.heads, op.kv_heads
        inputs, weight_bits = (widths[op.input] // heads if isinstance(op, Score) else 0), bits
    return Segment(
        block=block.name,
        name=op.name,
        kind=kind,
        inputs=inputs,
        outputs=outputs,
        bits=bits,
        weight_bits=weight_bits,
        encoding=op.encoding.name,
        outlier_share=_outlier_share(source, widths[op.input]),
        fires=fires,
        fed_by=fed_by,
        heads=heads,
        kv_heads=kv_heads,
    )


def _outlier_share(source: Op, width: int) -> float:
    """Largest share of outliers among the codes of a token; of probabilities, whose number grows, the ratio itself."""
    if not isinstance(source, Encode):
        return 0.0  # neurons fire spikes alone
    if not source.encoding.has_spikes:
        return 1.0
    if source.causal:
        return source.ratio
    if source.channels is not None:
        return int(source.channels.sum()) / width
    return outlier_budget(source.ratio, width // source.groups) * source.groups / width


def _host_work(block: Block, widths: dict[str, int]) -> Iterator[HostWork]:
    for op in block.ops:
        if isinstance(op, (Linear, Score, Mix)):
            continue
        per_position = isinstance(op, Softmax) or (isinstance(op, Encode) and op.causal)
        width = widths[op.output]
        yield HostWork(block.name, op.name, type(op).__name__, width, width * float_operations(op), per_position)
