"""The softmax in integers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from kirin_lava.base.integers import bounded
from kirin_lava.graph.ops.integer.functions import TANH_BITS, Multiplier, capped_scores, exp2_weights, probabilities
from kirin_lava.graph.ops.integer.op import STORED_TABLE, IntegerOp, fixed_in, whole_step
from kirin_lava.graph.ops.softmax import within
from kirin_lava.graph.port import CODES, FIXED, SUMS, Inputs, Port
from kirin_lava.graph.values import HostContext, Value, Values, codes_in
from kirin_lava.spikes.steps import LEFT_OUT
from kirin_lava.spikes.tables import TABLE_OPERATIONS, Table

__all__ = ["IntegerCappedSoftmax", "IntegerSoftmax"]

_DOWN = 1  # a share of 1 times a step below 2^24 fits a message


@dataclass(frozen=True, eq=False)
class IntegerSoftmax(IntegerOp):
    """Softmax over scores, with the step of the value folded in.

        u[j] = v[j] * step_k[j]                                     below 2^47, exact
        w[j] = 2^((u[j] - max u) * step_q * factor)                 2^-32 units; a shift and a table of one octave
        P[j] = w[j] / sum w * step_v[j]                             the sum exact; a table of one octave

    for j up to the token's own position, 0 beyond, or for all j where the block is not causal. Sums of scores are below
    2^23 and steps below 2^24.

    Attributes:
        factor_mantissa, factor_shift: `factor * log2(e)` in the units of the steps of queries and keys.
        query_fraction, key_fraction, value_fraction: of the steps. exp2, reciprocal: the tables. window: as of `Softmax`.
    """

    stock: ClassVar[str] = "a largest score, a table, a sum over the row and a quotient are no operations of a stock neuron"
    steps: ClassVar[int] = 5
    products: ClassVar[int] = 5
    name: str
    input: str
    query: str
    key: str
    value: str
    output: str
    heads: int
    kv_heads: int
    factor_mantissa: int
    factor_shift: int
    query_fraction: int
    key_fraction: int
    value_fraction: int
    exp2: Table = field(metadata=STORED_TABLE)
    reciprocal: Table = field(metadata=STORED_TABLE)
    window: int | None = field(default=None, metadata=LEFT_OUT, kw_only=True)

    @property
    def fraction(self) -> int:
        """Of the result."""
        return self.value_fraction - _DOWN

    def port(self, inputs: Inputs) -> Port:
        """Fixed, by head and position."""
        inputs.heads(self.heads, self.kv_heads)
        inputs.same("heads", inputs.read(self.input, SUMS, by_position=True).width, self.heads)
        query = inputs.read(self.query, CODES)
        inputs.same("steps of the query", query.groups, self.heads)
        inputs.fraction(self.query, query, self.query_fraction)
        for name, fraction in ((self.key, self.key_fraction), (self.value, self.value_fraction)):
            cached = inputs.cached(name)
            inputs.same(f"steps of {name}", cached.groups, self.kv_heads)
            inputs.fraction(name, cached, fraction)
        if not 0 < self.factor_mantissa <= 1 << 24:
            raise inputs.error(f"its factor is {self.factor_mantissa}, not a positive number of 24 bits")
        inputs.table(self.exp2, "exp2")
        inputs.table(self.reciprocal, "reciprocal")
        inputs.window(self.input, self.window)
        return Port(FIXED, self.heads, by_position=True, fraction=self.fraction, window=self.window)

    def reads(self) -> dict[str, str]:
        """Scores, and steps of codes."""
        return {self.input: "all", **dict.fromkeys((self.query, self.key, self.value), "steps")}

    def compute(self, values: Values, context: HostContext) -> Value:
        """(B, H, L, J) sums -> (B, H, L, J) probabilities times the step of the value they will meet. Steps of keys and values
        must be remembered by the context."""
        v = fixed_in(values, self.input)
        batch, heads, length, columns = v.shape
        scores = v.view(batch, self.kv_heads, -1, length, columns)
        key, value = (
            whole_step(context.steps[name][..., :columns], fraction).view(batch, self.kv_heads, 1, 1, columns)
            for name, fraction in ((self.key, self.key_fraction), (self.value, self.value_fraction))
        )
        query = whole_step(codes_in(values, self.query).step, self.query_fraction)
        row = query.view(batch, length, self.kv_heads, -1, 1).permute(0, 2, 3, 1, 4)
        visible = None
        if length > 1 and context.causal:
            own = torch.arange(columns - length, columns, device=v.device)
            visible = torch.arange(columns, device=v.device) <= own[:, None]
        if self.window is not None and columns > self.window:
            visible = within(columns - length, length, columns, self.window, v.device).bool()
        factor = Multiplier(self.factor_mantissa, self.factor_shift)
        weights = self._weights(scores * key, row, factor, visible)
        p = probabilities(weights, value, self.reciprocal, _DOWN)
        return bounded(p.view(batch, heads, length, columns), self.name, self.fraction)

    def _weights(self, u: Tensor, row: Tensor, factor: Multiplier, visible: Tensor | None) -> Tensor:
        """Exponentials of scores, whose largest is 1."""
        return exp2_weights(u, row, factor, self.exp2, visible)

    def operations(self) -> int:
        """Step of the key, maximum, difference, comparison, product, three shifts, exponent, sum, two products and shifts; the
        table of the exponential. One table neuron a row is left out."""
        return TABLE_OPERATIONS + 14

    def tables(self) -> tuple[Table, ...]:
        """The exponential and the reciprocal."""
        return self.exp2, self.reciprocal


@dataclass(frozen=True, eq=False)
class IntegerCappedSoftmax(IntegerSoftmax):
    """`IntegerSoftmax` of capped scores, `cap * tanh(score / cap)`.

        t[j] = tanh(u[j] * step_q * factor)                         2^-22 units; a table
        w[j] = 2^((t[j] - max t) * cap)                             2^-32 units, as there

    Attributes:
        factor_mantissa, factor_shift: `factor / cap` in the units of the steps of queries and keys.
        cap_mantissa, cap_shift: `cap * log2(e)` as `mantissa * 2^-shift`. tanh: the table.
    """

    steps: ClassVar[int] = 6
    products: ClassVar[int] = 8
    cap_mantissa: int
    cap_shift: int
    tanh: Table = field(metadata=STORED_TABLE)

    def port(self, inputs: Inputs) -> Port:
        """Fixed, by head and position."""
        if not 0 < self.cap_mantissa <= 1 << 24:
            raise inputs.error(f"its cap is {self.cap_mantissa}, not a positive number of 24 bits")
        inputs.table(self.tanh, "tanh")
        return super().port(inputs)

    def _weights(self, u: Tensor, row: Tensor, factor: Multiplier, visible: Tensor | None) -> Tensor:
        t = capped_scores(u, row, factor, self.tanh)
        cap = Multiplier(self.cap_mantissa, self.cap_shift + TANH_BITS)
        return exp2_weights(t, torch.ones_like(row), cap, self.exp2, visible)

    def operations(self) -> int:
        """As of `IntegerSoftmax`, and magnitude, sign, minimum, product, two shifts, the table of the tanh."""
        return super().operations() + TABLE_OPERATIONS + 6

    def tables(self) -> tuple[Table, ...]:
        """The exponential, the reciprocal and the tanh."""
        return *super().tables(), self.tanh
