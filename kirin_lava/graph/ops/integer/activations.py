"""Integer operations that bend a value number by number: gates, GELU, ReLU, the soft cap of logits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from kirin_lava.base.integers import bounded, rescaled, shifted
from kirin_lava.graph.ops.integer.functions import TANH_BITS, Multiplier, gate_fraction, gated, tanh_of
from kirin_lava.graph.ops.integer.op import STORED_TABLE, IntegerOp, fixed_in
from kirin_lava.graph.port import FIXED, Inputs, Port
from kirin_lava.graph.values import HostContext, Value, Values
from kirin_lava.spikes.tables import ARGUMENT_BITS, TABLE_OPERATIONS, Table

__all__ = ["IntegerGate", "IntegerGelu", "IntegerGeluGate", "IntegerRelu", "IntegerSoftCap"]


@dataclass(frozen=True, eq=False)
class _Gated(IntegerOp):
    """`y = f(x[..., :half]) * x[..., half:]` in integers, `f(x) = max(x, 0) - table(|x|)`.

    Attributes:
        input_fraction: of x. fraction: of y.
    """

    stock: ClassVar[str] = "a stock neuron has no table, and no product of two messages"
    products: ClassVar[int] = 2
    name: str
    input: str
    output: str
    input_fraction: int
    fraction: int

    def port(self, inputs: Inputs) -> Port:
        """Half as wide as its input."""
        x = inputs.fixed(self.input, self.input_fraction)
        inputs.divides(2, x.width, "halves")
        inputs.shift("a product", self._finer - self.fraction)
        return Port(FIXED, x.width // 2, fraction=self.fraction)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`."""
        gate, up = fixed_in(values, self.input).chunk(2, -1)
        (table,) = self.tables()
        product = gated(gate, self.input_fraction, table) * up
        return bounded(rescaled(product, self._finer, self.fraction), self.name, self.fraction)

    @property
    def _finer(self) -> int:
        """Of a product, before it is shifted."""
        return gate_fraction(self.input_fraction) + self.input_fraction

    def operations(self) -> int:
        """A table neuron (`TABLE_OPERATIONS`), magnitude, maximum, difference, product, shift."""
        return TABLE_OPERATIONS + 5


@dataclass(frozen=True, eq=False)
class IntegerGate(_Gated):
    """`y = silu(x[..., :half]) * x[..., half:]` in integers: `silu(x) = max(x, 0) - table(|x|)`.

    Attributes:
        input_fraction: of x. fraction: of y. silu: the table.
    """

    silu: Table = field(metadata=STORED_TABLE)

    def port(self, inputs: Inputs) -> Port:
        """Half as wide as its input."""
        inputs.table(self.silu, "silu")
        return super().port(inputs)

    def tables(self) -> tuple[Table, ...]:
        """SiLU."""
        return (self.silu,)


@dataclass(frozen=True, eq=False)
class IntegerGeluGate(_Gated):
    """`y = gelu(x[..., :half]) * x[..., half:]` in integers, as `IntegerGate`.

    Attributes:
        input_fraction: of x. fraction: of y. gelu: the table, `gelu` or `gelu_tanh`.
    """

    gelu: Table = field(metadata=STORED_TABLE)

    def port(self, inputs: Inputs) -> Port:
        """Half as wide as its input."""
        inputs.table(self.gelu, "gelu", "gelu_tanh")
        return super().port(inputs)

    def tables(self) -> tuple[Table, ...]:
        """GELU."""
        return (self.gelu,)


@dataclass(frozen=True, eq=False)
class IntegerGelu(IntegerOp):
    """`y = gelu(x)` in integers: `max(x, 0) - table(|x|)`.

    Attributes:
        input_fraction: of x. fraction: of y. gelu: the table, `gelu` or `gelu_tanh`.
    """

    stock: ClassVar[str] = "a stock neuron has no table"
    products: ClassVar[int] = 1
    name: str
    input: str
    output: str
    input_fraction: int
    fraction: int
    gelu: Table = field(metadata=STORED_TABLE)

    def port(self, inputs: Inputs) -> Port:
        """As its input, in other units."""
        x = inputs.fixed(self.input, self.input_fraction)
        inputs.table(self.gelu, "gelu", "gelu_tanh")
        inputs.shift("a result", gate_fraction(self.input_fraction) - self.fraction)
        return Port(FIXED, x.width, fraction=self.fraction)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`."""
        y = gated(fixed_in(values, self.input), self.input_fraction, self.gelu)
        return bounded(rescaled(y, gate_fraction(self.input_fraction), self.fraction), self.name, self.fraction)

    def operations(self) -> int:
        """A table neuron (`TABLE_OPERATIONS`), magnitude, maximum, difference, shift."""
        return TABLE_OPERATIONS + 4

    def tables(self) -> tuple[Table, ...]:
        """GELU."""
        return (self.gelu,)


@dataclass(frozen=True, eq=False)
class IntegerRelu(IntegerOp):
    """`y = max(x, 0)`."""

    stock: ClassVar[str] = "a stock neuron that sends its membrane has no threshold to send it from"
    name: str
    input: str
    output: str
    fraction: int

    def port(self, inputs: Inputs) -> Port:
        """As its input."""
        return inputs.fixed(self.input, self.fraction)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`."""
        return fixed_in(values, self.input).clamp_min(0)

    def operations(self) -> int:
        """A comparison."""
        return 1


@dataclass(frozen=True, eq=False)
class IntegerSoftCap(IntegerOp):
    """`y = cap * tanh(x / cap)` in integers: a product, the table tanh, a product.

    Attributes:
        input_fraction: of x. fraction: of y.
        inner_mantissa, inner_shift: `1 / cap` as `mantissa * 2^-shift`, in units of the table's argument for a unit of x.
        cap_mantissa, cap_shift: cap in units of y for a unit of the table's result. tanh: the table.
    """

    stock: ClassVar[str] = "a stock neuron has no table"
    products: ClassVar[int] = 3
    name: str
    input: str
    output: str
    input_fraction: int
    fraction: int
    inner_mantissa: int
    inner_shift: int
    cap_mantissa: int
    cap_shift: int
    tanh: Table = field(metadata=STORED_TABLE)

    def port(self, inputs: Inputs) -> Port:
        """As its input, in other units."""
        x = inputs.fixed(self.input, self.input_fraction)
        inputs.table(self.tanh, "tanh")
        for mantissa in (self.inner_mantissa, self.cap_mantissa):
            if not 0 < mantissa <= 1 << 24:
                raise inputs.error(f"a factor is {mantissa}, not a positive number of 24 bits")
        for bits in (self.inner_shift, self.cap_shift):
            inputs.shift("a product", bits, most=1 << 20)
        return Port(FIXED, x.width, fraction=self.fraction)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`."""
        x = fixed_in(values, self.input)
        argument = shifted(x.abs() * self.inner_mantissa, self.inner_shift)
        y = shifted(tanh_of(argument, self.tanh) * self.cap_mantissa, self.cap_shift)
        return bounded(y * x.sign(), self.name, self.fraction)

    @staticmethod
    def factors(cap: Multiplier, inverse: Multiplier, input_fraction: int, fraction: int) -> tuple[int, int, int, int]:
        """Mantissas and shifts of the two products, from cap and 1 / cap as real numbers."""
        inner = inverse.shift + input_fraction - ARGUMENT_BITS
        return inverse.mantissa, inner, cap.mantissa, cap.shift + TANH_BITS - fraction

    def operations(self) -> int:
        """A table neuron (`TABLE_OPERATIONS`), magnitude, sign, minimum, two products and shifts."""
        return TABLE_OPERATIONS + 7

    def tables(self) -> tuple[Table, ...]:
        """The tanh."""
        return (self.tanh,)
