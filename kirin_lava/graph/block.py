"""The hybrid graph: what a converted model computes, operation by operation.

A `Model` is an embedding and a tuple of `Block`s (one per layer and, last, the head). A block is a straight list of
operations over named values. Each value is written once, the first input is `x`, the last output is the block's result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.ops import CORE_OPS, CoreOp, Encode, Linear, Mix, Op, Score
from kirin_lava.graph.ops.zero_points import check_row_sums
from kirin_lava.graph.port import FIXED, REAL, Inputs, Port
from kirin_lava.graph.values import Array

__all__ = ["CLASSES", "MASKED_LM", "STATES", "Block", "Embedding", "Model", "require_same_units"]

STATES, MASKED_LM, CLASSES = "states", "masked language model", "classes"
"""Heads of encoders: the states of all tokens as they are; logits of every token; logits of the first token alone."""


@dataclass(frozen=True, eq=False)
class Block:
    """A straight list of operations from the value `x`, `width` numbers per token, to the value `output`.

    Attributes:
        fraction: x is a fixed-point value in units of 2^-fraction; None where it is a real one.
        causal: whether a token attends to the positions up to its own; else to all of the sequence, in both directions.
    """

    name: str
    ops: tuple[Op, ...]
    output: str
    width: int
    fraction: int | None = None
    causal: bool = True

    def linears(self) -> Iterator[Linear]:
        """The linear segments, in order."""
        return (op for op in self.ops if isinstance(op, Linear))

    def core_ops(self) -> Iterator[CoreOp]:
        """The operations that run as spikes and integers, in order."""
        return (op for op in self.ops if isinstance(op, (Linear, Score, Mix)))

    def producer(self, value: str) -> Op:
        """The operation that writes `value`."""
        return next(op for op in self.ops if op.output == value)

    @cached_property
    def ports(self) -> dict[str, Port]:
        """What every value is; see `check` for errors."""
        return self.check(self.name)

    def check(self, where: str, head_dim: int | None = None, result: int | None = None) -> dict[str, Port]:
        """Follow the values from the first to the last; returns their ports by name.

        Args:
            where: for errors.
            head_dim: width of the rotary tables. result: width that the output must have. None: not looked at.

        Raises:
            UsageError: names the operation and what does not fit.
        """
        ports = {"x": Port(REAL if self.fraction is None else FIXED, self.width, fraction=self.fraction)}
        for index, op in enumerate(self.ops):
            inputs = Inputs(ports, head_dim, f"{where}: {self.name}, operation {index} ({op.name})")
            if op.output in ports:
                raise inputs.error(f"value {op.output!r} is written twice")
            ports[op.output] = op.port(inputs)
        read = {op.cache for op in self.ops if isinstance(op, (Score, Mix))}
        for op in self.ops:
            if isinstance(op, Encode) and op.cached and op.output not in read:
                raise UsageError(f"{where}: {self.name} ({op.name}): cached codes are read by no attention")
        check_row_sums(self.ops, f"{where}: {self.name}")
        last = ports.get(self.output)
        kind = ports["x"].kind
        if last is None or last.kind != kind or last.by_position or result not in (None, last.width):
            of = "" if result is None else f" of width {result}"
            raise UsageError(f"{where}: {self.name}: the output {self.output!r} is not a {kind} value{of}")
        return ports


@dataclass(frozen=True, eq=False)
class Embedding:
    """The look-up `x = tokens[id] + positions[p + position_offset]?`: of float32 numbers on the host, or of integers.

    tokens: (vocabulary, width) float32 or int32. positions: (rows, width) of the same type, or None.
    fraction: integers count in units of 2^-fraction; None where they are real numbers.
    """

    tokens: Array
    positions: Array | None = None
    position_offset: int = 0
    fraction: int | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """A converted decoder or encoder.

    Attributes:
        blocks: layers in order; `head` turns the last one's result into logits.
        rotary: cos and sin, each (max_positions, head_dim) float32, or int32 in units of 2^-22, or None.
        max_positions: longest sequence.
        facts: plain JSON values about the source (model_type, widths, vocabulary, special tokens).
    """

    embedding: Embedding
    blocks: tuple[Block, ...]
    head: Block
    rotary: tuple[Array, Array] | None
    max_positions: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def causal(self) -> bool:
        """Whether no token sees a later one: a decoder."""
        return all(block.causal for block in self.blocks)

    @property
    def of_first(self) -> bool:
        """Whether the head is that of the first token alone, which stands for the whole text."""
        return bool(self.facts.get("head") == CLASSES)


def require_same_units(embedding: Embedding, blocks: Iterable[Block], where: str) -> None:
    """Raise `UsageError` where a block does not take its input in the units in which the one before it, or the embedding,
    wrote it."""
    last, name = embedding.fraction, "the embedding"
    for block in blocks:
        if block.fraction != last:
            raise UsageError(
                f"{where}: {block.name} takes units of 2^-({block.fraction}), {name} has 2^-({last}); the bundle is damaged, "
                "export again"
            )
        last, name = block.ports[block.output].fraction, block.name


assert (Linear, Score, Mix) == CORE_OPS  # `core_ops` lists them
