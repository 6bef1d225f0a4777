"""The two doors between host and cores: real values become codes, sums become real values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from kirin_lava.base.arrays import float32, light, like, tensor
from kirin_lava.graph.ops.op import STORED_FLOAT32, HostOp
from kirin_lava.graph.port import CODES, REAL, SUMS, Inputs, Port
from kirin_lava.graph.values import Float32, HostContext, Value, Values, codes_in, tensor_in
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.steps import TOKEN_STEP, StepRule

__all__ = ["Decode", "Encode"]


@dataclass(frozen=True, eq=False)
class Encode(HostOp):
    """real -> codes: `q = clip(round(x / step), code_min, code_max)`, round half to even, with the step that the rule finds.

    Attributes:
        groups: equal parts of a token with a step each (heads); 1 for a whole token.
        cached: the codes are kept for later tokens (keys and values).
    """

    kind: ClassVar[str] = REAL
    name: str
    input: str
    output: str
    code: SpikeCode
    rule: StepRule = TOKEN_STEP
    groups: int = 1
    cached: bool = False

    def port(self, inputs: Inputs) -> Port:
        """Codes as wide as its input."""
        x = inputs.read(self.input, self.kind, by_position=self.rule.by_row)
        inputs.divides(self.groups, x.width, "groups")
        problem = self.rule.unfit(self.code) or self.rule.problem(1 if self.rule.by_row else x.width // self.groups)
        if problem is not None:
            raise inputs.error(problem)
        if self.rule.by_row and (self.groups != x.width or self.cached):
            raise inputs.error("a row of probabilities has one step for each head, and is not cached")
        inputs.channels(self.code, x.width)
        zero_points = self.rule.zero_points
        if zero_points and (self.groups != 1 or self.rule.by_row or self.cached):
            raise inputs.error("zero points belong to codes that one sum reads: they have one group, and are not cached")
        if self.rule.reaching(x.window) != self.rule:
            raise inputs.error(f"its budget is not one for rows that reach back {x.window} positions")
        by_row = self.rule.by_row
        return Port(CODES, x.width, self.groups, self.code, by_row, self.cached, zero_points, window=x.window)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        x = tensor_in(values, self.input)
        return self.rule.encode(self.code, x, self.groups, context.first, self.name, context.check)

    def operations(self) -> int:
        """Magnitude, selection of the step, divide, round, clip."""
        return 5


@dataclass(frozen=True, eq=False)
class Decode(HostOp):
    """sums -> real: `y = v * step * scale + bias`, with the step of the codes the sums were made from.

    Attributes:
        codes: name of the codes value whose steps apply; its groups divide the width.
        scale: (width,) float32, or None for 1 (attention).
        bias: (width,) float32 or None.
    """

    name: str
    input: str
    codes: str
    output: str
    scale: Float32 | None = field(metadata=STORED_FLOAT32)
    bias: Float32 | None = field(metadata=STORED_FLOAT32)

    def port(self, inputs: Inputs) -> Port:
        """Real, as wide as the sums."""
        sums, codes = inputs.read(self.input, SUMS), inputs.read(self.codes, CODES, by_position=None)
        inputs.divides(codes.groups, sums.width, "groups")
        inputs.same("zero points that are still in the sums", sums.zero_points, 0)
        inputs.vector("scale", self.scale, sums.width)
        inputs.vector("bias", self.bias, sums.width)
        return Port(REAL, sums.width)

    def reads(self) -> dict[str, str]:
        """Sums, and steps of codes."""
        return {self.input: "all", self.codes: "steps"}

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        sums, step = tensor_in(values, self.input), codes_in(values, self.codes).step
        v = float32(light(sums))
        groups = step.shape[-1]
        if groups == 1:
            y = v * like(step, v)
        else:
            y = (v.reshape(*v.shape[:-1], groups, -1) * like(step.unsqueeze(-1), v)).reshape(v.shape)
        if self.scale is not None:
            y *= context.constant(self.scale, y)
        if self.bias is not None:
            y += context.constant(self.bias, y)
        return tensor(y)

    def operations(self) -> int:
        """Step, scale, bias."""
        return 1 + (self.scale is not None) + (self.bias is not None)
