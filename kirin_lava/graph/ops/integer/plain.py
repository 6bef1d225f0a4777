"""Integer operations that need no table: parts, sums, rotary positions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from kirin_lava.base.integers import bounded, rescaled, shifted
from kirin_lava.graph.ops.integer.doors import MOST_SHIFT
from kirin_lava.graph.ops.integer.op import IntegerOp, fixed_in
from kirin_lava.graph.ops.op import NEUROCORE
from kirin_lava.graph.ops.plain import Slice
from kirin_lava.graph.port import FIXED, Inputs, Port
from kirin_lava.graph.values import ROTARY_BITS, HostContext, Value, Values
from kirin_lava.spikes.steps import LEFT_OUT

__all__ = ["IntegerAdd", "IntegerRotary", "IntegerSlice"]


@dataclass(frozen=True, eq=False)
class IntegerSlice(Slice, IntegerOp):
    """`Slice` by wiring: axons lead to other cores."""

    place: ClassVar[str] = NEUROCORE
    kind: ClassVar[str] = FIXED
    stock: ClassVar[str] = "a stock network is a straight line and has no branches"
    steps: ClassVar[int] = 0


@dataclass(frozen=True, eq=False)
class IntegerRotary(IntegerOp):
    """Rotary position embedding: `y = round((x * C[p] + rotate_half(x) * S[p]) / 2^shift)`.

    C and S are `round(2^22 cos)` and `round(2^22 sin)` of float32 numbers, stored once in `Model`: each is off by 1/2 + 2^-3 at
    most. The result is rounded once more, so that with m the largest magnitude of a token, in units of the result,

        |y - exact| <= 1/2 + m (2^-22 + 2^-24),    3 units for the largest value that a message holds

    Attributes:
        input_fraction: of x. fraction: of y. table: which cosines and sines; None for the first.
    """

    stock: ClassVar[str] = "cosine and sine follow the position, and synapses have fixed weights"
    products: ClassVar[int] = 2
    name: str
    input: str
    output: str
    heads: int
    input_fraction: int
    fraction: int
    table: int | None = field(default=None, metadata=LEFT_OUT)

    def port(self, inputs: Inputs) -> Port:
        """As its input, in other units."""
        x = inputs.fixed(self.input, self.input_fraction)
        inputs.divides(self.heads, x.width, "heads")
        inputs.turns(self.table)
        if inputs.head_dim is not None:
            inputs.same("rotary tables", inputs.head_dim, x.width // self.heads)
        inputs.shift("a product", ROTARY_BITS + self.input_fraction - self.fraction)
        return Port(FIXED, x.width, fraction=self.fraction)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`."""
        x = fixed_in(values, self.input)
        heads = x.view(*x.shape[:-1], self.heads, -1)
        cos, sin = context.turn(heads.shape[-1], self.table or 0)
        half = heads.shape[-1] // 2
        y = heads * cos + heads.roll(half, -1) * sin  # the first half of sin is negative
        return bounded(shifted(y, ROTARY_BITS + self.input_fraction - self.fraction).view(x.shape), self.name, self.fraction)

    def operations(self) -> int:
        """Two products, a sum, a shift."""
        return 4


@dataclass(frozen=True, eq=False)
class IntegerAdd(IntegerOp):
    """`y = x + other`, the residual sum; each is shifted to the units of the result.

    Attributes:
        input_fraction, other_fraction: of the two. fraction: of y.
    """

    stock: ClassVar[str] = "two branches meet in it, and a stock network is a straight line"
    name: str
    input: str
    other: str
    output: str
    input_fraction: int
    other_fraction: int
    fraction: int

    def port(self, inputs: Inputs) -> Port:
        """As its inputs, in other units."""
        x, other = inputs.fixed(self.input, self.input_fraction), inputs.fixed(self.other, self.other_fraction)
        inputs.same("other", other.width, x.width)
        for fraction in (self.input_fraction, self.other_fraction):
            inputs.shift("a term", fraction - self.fraction, -MOST_SHIFT)
        return Port(FIXED, x.width, fraction=self.fraction)

    def reads(self) -> dict[str, str]:
        """Both."""
        return {self.input: "all", self.other: "all"}

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`."""
        x = rescaled(fixed_in(values, self.input), self.input_fraction, self.fraction)
        other = rescaled(fixed_in(values, self.other), self.other_fraction, self.fraction)
        return bounded(x + other, self.name, self.fraction)

    def operations(self) -> int:
        """Two shifts and a sum."""
        return 3
