"""RMSNorm and LayerNorm, per token or per head."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kirin_lava.base.arrays import Numbers, amax, float32, float64, light, like, sqrt_, tensor
from kirin_lava.base.exact import EXACT_SUM_LIMIT, exact_sum
from kirin_lava.graph.ops.op import STORED_FLOAT32, FloatForm, HostOp
from kirin_lava.graph.port import REAL, Inputs, Port
from kirin_lava.graph.values import Float32, HostContext, Value, Values, tensor_in

__all__ = ["Norm"]


@dataclass(frozen=True, eq=False)
class Norm(HostOp):
    """`y = (x - mean?) / sqrt(mean((x - mean?)^2) + eps) * weight + bias?` over each of `groups` equal parts of a token.

    `center` False is RMSNorm, True is LayerNorm. weight, bias: (width / groups,) float32.
    """

    name: str
    input: str
    output: str
    weight: Float32 = field(metadata=STORED_FLOAT32)
    bias: Float32 | None = field(metadata=STORED_FLOAT32)
    eps: float
    center: bool
    groups: int = 1

    def port(self, inputs: Inputs) -> Port:
        """As its input."""
        x = inputs.read(self.input, REAL)
        inputs.divides(self.groups, x.width, "groups")
        inputs.positive("eps", self.eps)
        inputs.vector("weight", self.weight, x.width // self.groups)
        inputs.vector("bias", self.bias, x.width // self.groups)
        return x

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`; sums in float64, without error."""
        x = tensor_in(values, self.input)
        y = float64(light(x if self.groups == 1 else x.view(*x.shape[:-1], self.groups, -1)))
        average = 1.0 / y.shape[-1]
        eps: Numbers = self.eps
        squares = exact_sum(y * y)
        if float(squares.max()) >= EXACT_SUM_LIMIT:  # rows that are too large are divided by a power of two
            exponent = torch.frexp(tensor(amax(abs(y)))).exponent.to(torch.int64)
            down = torch.where(tensor(squares) < EXACT_SUM_LIMIT, 1.0, ((1023 - exponent) << 52).view(torch.float64))
            eps = like(down.square().mul_(self.eps), y)
            y *= like(down, y)
            squares = exact_sum(y * y)
        variance = squares
        variance *= average
        if self.center:
            mean = exact_sum(y)
            mean *= average
            variance -= mean * mean
            y -= mean
        variance += eps
        y *= 1.0 / sqrt_(variance)
        y = float32(y)
        y *= context.constant(self.weight, y)
        if self.bias is not None:
            y += context.constant(self.bias, y)
        return tensor(y).view(x.shape)

    def operations(self) -> int:
        """RMSNorm: square, sum, scale, weight. LayerNorm: sum, subtract, square, sum, scale, weight."""
        return (6 if self.center else 4) + (self.bias is not None)

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        """See `HostOp`."""
        x = values[self.input]
        grouped = x.unflatten(-1, (self.groups, -1))
        if self.center:
            grouped = grouped - grouped.mean(-1, keepdim=True)
        y = grouped * torch.rsqrt(grouped.pow(2).mean(-1, keepdim=True) + self.eps) * model.gain(self).to(x)
        if self.bias is not None:
            y = y + torch.from_numpy(self.bias).to(x)
        return y.flatten(-2)
