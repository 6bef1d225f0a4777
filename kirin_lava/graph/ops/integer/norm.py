"""RMSNorm and LayerNorm in integers, per token or per head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from kirin_lava.base.integers import bounded, shifted
from kirin_lava.graph.ops.integer.functions import NORM_BITS, Multiplier, normalized
from kirin_lava.graph.ops.integer.op import STORED_INT32, STORED_TABLE, Int32, IntegerOp, constant, fixed_in
from kirin_lava.graph.port import FIXED, Inputs, Port
from kirin_lava.graph.values import HostContext, Value, Values
from kirin_lava.spikes.tables import Table

__all__ = ["GAIN_LIMIT", "MOST_NUMBERS", "IntegerNorm"]

GAIN_LIMIT = 1 << 24
MOST_NUMBERS = 1 << 17
"""In a row: the sum of its squares stays below 2^62."""


@dataclass(frozen=True, eq=False)
class IntegerNorm(IntegerOp):
    """`y = round(n * gain / 2^shift) + bias?`, n the row divided by the root of the sum of its squares, see
    `functions.normalized`.

    Attributes:
        input_fraction: of x. fraction: of y.
        gain: (width / groups,) int32 below 2^24 in units of 2^-gain_fraction; the root of the number of numbers, which makes a
            mean of their sum, is part of it. bias: (width / groups,) int32 in units of y, or None.
        eps_mantissa, eps_shift: what is added to the sum of squares, in units of x squared (times its width squared where
            centred), is `mantissa * 2^-shift`.
        center: LayerNorm, else RMSNorm. root: the table.
    """

    stock: ClassVar[str] = "a square, a sum over the row and a root that follows it are no operations of a stock neuron"
    steps: ClassVar[int] = 4
    products: ClassVar[int] = 3
    name: str
    input: str
    output: str
    input_fraction: int
    fraction: int
    gain: Int32 = field(metadata=STORED_INT32)
    gain_fraction: int
    bias: Int32 | None = field(metadata=STORED_INT32)
    eps_mantissa: int
    eps_shift: int
    center: bool
    groups: int
    root: Table = field(metadata=STORED_TABLE)

    def port(self, inputs: Inputs) -> Port:
        """As its input, in other units."""
        x = inputs.fixed(self.input, self.input_fraction)
        inputs.divides(self.groups, x.width, "groups")
        width = x.width // self.groups
        if width > MOST_NUMBERS:
            raise inputs.error(f"rows of {width} numbers are more than {MOST_NUMBERS}")
        inputs.vector("gain", self.gain, width)
        inputs.vector("bias", self.bias, width)
        if int(abs(self.gain).max()) >= GAIN_LIMIT or not 0 < self.eps_mantissa <= GAIN_LIMIT:
            raise inputs.error("a gain or eps has more than 24 bits")
        inputs.table(self.root, "root")
        inputs.shift("a product", NORM_BITS + self.gain_fraction - self.fraction)
        return Port(FIXED, x.width, fraction=self.fraction)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`."""
        x = fixed_in(values, self.input)
        rows = x if self.groups == 1 else x.view(*x.shape[:-1], self.groups, -1)
        n = normalized(rows, Multiplier(self.eps_mantissa, self.eps_shift), self.root, self.center)
        y = shifted(n * constant(self.gain, context, n), NORM_BITS + self.gain_fraction - self.fraction)
        if self.bias is not None:
            y = y + constant(self.bias, context, n)
        return bounded(y.view(x.shape), self.name, self.fraction)

    def operations(self) -> int:
        """Magnitude, maximum, shift, square, sum, two products, two shifts; centred a sum, a product and a difference; a bias.
        One table neuron a row is left out."""
        return 9 + 3 * self.center + (self.bias is not None)

    def constant_bytes(self) -> int:
        """Gain and bias."""
        return 3 + 3 * (self.bias is not None)

    def tables(self) -> tuple[Table, ...]:
        """The inverse root."""
        return (self.root,)
