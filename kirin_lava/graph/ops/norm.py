"""RMSNorm and LayerNorm, per token or per head."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

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
        y = (x if self.groups == 1 else x.view(*x.shape[:-1], self.groups, -1)).double()
        average = 1.0 / y.shape[-1]
        eps: float | Tensor = self.eps
        squares = exact_sum(y.square())
        if float(squares.max()) >= EXACT_SUM_LIMIT:  # rows that are too large are divided by a power of two
            exponent = torch.frexp(y.abs().amax(-1, keepdim=True)).exponent.to(torch.int64)
            down = torch.where(squares < EXACT_SUM_LIMIT, 1.0, ((1023 - exponent) << 52).view(torch.float64))
            y, eps = y.mul_(down), down.square().mul_(self.eps)
            squares = exact_sum(y.square())
        variance = squares.mul_(average)
        if self.center:
            mean = exact_sum(y).mul_(average)
            variance.sub_(mean.square())
            y.sub_(mean)
        y = y.mul_(variance.add_(eps).sqrt_().reciprocal_()).float().mul_(context.constant(self.weight, x.device))
        if self.bias is not None:
            y.add_(context.constant(self.bias, x.device))
        return y.view(x.shape)

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
