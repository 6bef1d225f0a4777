"""Host operations without parameters to speak of: parts, sums, the gate of a SwiGLU, ReLU, rotary positions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kirin_lava.base.arrays import light, like, tensor
from kirin_lava.base.exact import exp2
from kirin_lava.graph.ops.op import EXP_OPERATIONS, FloatForm, HostOp
from kirin_lava.graph.port import CODES, REAL, SUMS, Inputs, Port
from kirin_lava.graph.values import Codes, HostContext, Value, Values, tensor_in
from kirin_lava.spikes.steps import LEFT_OUT

__all__ = ["Add", "Gate", "Relu", "Rotary", "Slice", "Sum"]

_MINUS_LOG2E = torch.tensor(-1.44269504088896341, dtype=torch.float32).item()


@dataclass(frozen=True, eq=False)
class Rotary(HostOp):
    """Rotary position embedding of `heads` heads: `y = x * cos[p] + rotate_half(x) * sin[p]` at position p.

    cos, sin: (positions, head_dim) float32, shared by the model and stored once in `Model`, of which there may be several.

    Attributes:
        table: which of them; None for the first.
    """

    name: str
    input: str
    output: str
    heads: int
    table: int | None = field(default=None, metadata=LEFT_OUT)

    def port(self, inputs: Inputs) -> Port:
        """As its input."""
        x = inputs.read(self.input, REAL)
        inputs.divides(self.heads, x.width, "heads")
        inputs.turns(self.table)
        if inputs.head_dim is not None:
            inputs.same("rotary tables", inputs.head_dim, x.width // self.heads)
        return x

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        x = tensor_in(values, self.input)
        heads = light(x.view(*x.shape[:-1], self.heads, -1))
        cos, sin = (like(table, heads) for table in context.turn(heads.shape[-1], self.table or 0))
        half = heads.shape[-1] // 2
        y = heads * cos
        low, high = y[..., :half], y[..., half:]
        low += heads[..., half:] * sin[..., :half]
        high += heads[..., :half] * sin[..., half:]
        return tensor(y).view(x.shape)

    def operations(self) -> int:
        """Two products and a sum."""
        return 3

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        """See `HostOp`."""
        assert model.rotary is not None
        x = values[self.input]
        heads = x.unflatten(-1, (self.heads, -1))
        width, first = heads.shape[-1], heads.shape[-1] * (self.table or 0)
        cos, sin = (table[: x.shape[1], first : first + width].unsqueeze(1) for table in model.rotary)
        low, high = heads.chunk(2, dim=-1)
        return (heads * cos + torch.cat([-high, low], dim=-1) * sin).flatten(-2)


@dataclass(frozen=True, eq=False)
class Slice(HostOp):
    """`y = x[..., start:stop]` of a real value, or of codes, which keep their step."""

    kind: ClassVar[str] = REAL
    name: str
    input: str
    output: str
    start: int
    stop: int

    def port(self, inputs: Inputs) -> Port:
        """A part of its input."""
        known = inputs.values.get(self.input)
        x = inputs.read(self.input, CODES if known is not None and known.kind == CODES else self.kind)
        if not 0 <= self.start < self.stop <= x.width:
            raise inputs.error(f"{self.start}:{self.stop} is no part of a value of width {x.width}")
        inputs.same("steps", x.groups, 1)
        code = None if x.code is None else x.code.part(self.start, self.stop)
        return replace(x, width=self.stop - self.start, cached=False, code=code)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        x = values[self.input]
        if isinstance(x, Codes):
            return Codes(x.q[..., self.start : self.stop], x.step, zero=x.zero)
        return x[..., self.start : self.stop]

    def operations(self) -> int:
        """None."""
        return 0

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        """See `HostOp`."""
        return values[self.input][..., self.start : self.stop]


@dataclass(frozen=True, eq=False)
class Gate(HostOp):
    """`y = silu(x[..., :half]) * x[..., half:]`, the product in a SwiGLU feed-forward."""

    name: str
    input: str
    output: str

    def port(self, inputs: Inputs) -> Port:
        """Half as wide as its input."""
        x = inputs.read(self.input, REAL)
        inputs.divides(2, x.width, "halves")
        return Port(REAL, x.width // 2)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        x = tensor_in(values, self.input)
        half = x.shape[-1] // 2
        numbers = light(x)
        gate, up = numbers[..., :half], numbers[..., half:]
        below = exp2(gate * _MINUS_LOG2E)
        below += 1.0
        y = gate / below
        y *= up
        return tensor(y)

    def operations(self) -> int:
        """Negate, exp, add 1, divide, multiply."""
        return EXP_OPERATIONS + 4

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        """See `HostOp`."""
        gate, up = values[self.input].chunk(2, dim=-1)
        return F.silu(gate) * up


@dataclass(frozen=True, eq=False)
class Relu(HostOp):
    """`y = max(x, 0)`. A method whose neurons fire computes it on chip instead: they are silent below 0."""

    name: str
    input: str
    output: str

    def port(self, inputs: Inputs) -> Port:
        """As its input."""
        return inputs.read(self.input, REAL)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        return tensor_in(values, self.input).clamp_min(0.0)

    def operations(self) -> int:
        """A comparison."""
        return 1

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        """See `HostOp`."""
        return F.relu(values[self.input])


@dataclass(frozen=True, eq=False)
class _Pair(HostOp):
    name: str
    input: str
    other: str
    output: str

    def reads(self) -> dict[str, str]:
        """Both."""
        return {self.input: "all", self.other: "all"}

    def operations(self) -> int:
        """One addition."""
        return 1

    def _port(self, inputs: Inputs, kind: str) -> Port:
        x, other = inputs.read(self.input, kind), inputs.read(self.other, kind)
        inputs.same("other", other.width, x.width)
        inputs.same("zero points of other", other.zero_points, x.zero_points)
        return x


@dataclass(frozen=True, eq=False)
class Add(_Pair):
    """`y = x + other`, the residual sum, in float32."""

    def port(self, inputs: Inputs) -> Port:
        """As its inputs."""
        return self._port(inputs, REAL)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        return tensor_in(values, self.input) + tensor_in(values, self.other)

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        """See `HostOp`."""
        return values[self.input] + values[self.other]


@dataclass(frozen=True, eq=False)
class Sum(_Pair):
    """sums: `v = x + other`, exact integers; the membranes of two segments that share a wide fan-in."""

    def port(self, inputs: Inputs) -> Port:
        """As its inputs."""
        return self._port(inputs, SUMS)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`; in float64."""
        return tensor_in(values, self.input).double() + tensor_in(values, self.other).double()
