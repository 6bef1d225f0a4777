"""Host operations that bend a value number by number: GELU, alone or as the gate of a GeGLU, and the soft cap of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kirin_lava.base.arrays import Numbers, clamp_, light, tensor
from kirin_lava.base.exact import exp2
from kirin_lava.graph.ops.op import EXP_OPERATIONS, FloatForm, HostOp
from kirin_lava.graph.port import REAL, Inputs, Port
from kirin_lava.graph.values import HostContext, Value, Values, tensor_in

__all__ = ["CAP_OPERATIONS", "Gelu", "GeluGate", "SoftCap", "capped"]


def _float32(x: float) -> float:
    return float(np.float32(x))


_LOG2E = 1 / math.log(2)
# x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)) is 0.5 x (1 + tanh(...)); the exponent of the sigmoid, to the base 2
_LINEAR = _float32(-2 * math.sqrt(2 / math.pi) * _LOG2E)
_CUBIC = _float32(-2 * math.sqrt(2 / math.pi) * _LOG2E * 0.044715)
# erfc(z) = (a1 t + ... + a5 t^5) exp(-z^2) with t = 1 / (1 + p z), within 1.5e-7: Abramowitz and Stegun 7.1.26. Here it is
# halved, and z = a / sqrt(2).
_ERF_P = _float32(0.3275911 / math.sqrt(2))
_ERF = tuple(_float32(0.5 * a) for a in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592))
_HALF_SQUARE = _float32(-0.5 * _LOG2E)
CAP_OPERATIONS = EXP_OPERATIONS + 5
"""A product, exp, a difference, a sum, divide, a product."""
_TANH_OPERATIONS, _ERF_OPERATIONS = EXP_OPERATIONS + 6, EXP_OPERATIONS + 19


def _gelu(x: Numbers, exact: bool) -> Numbers:
    """GELU in float32."""
    square = x * x
    if not exact:
        square *= _CUBIC
        square += _LINEAR
        square *= x
        below = exp2(square)
        below += 1.0
        return x / below
    size = abs(x)
    t = size * _ERF_P
    t += 1.0
    t = 1.0 / t
    tail = t * _ERF[0]
    for coefficient in _ERF[1:]:
        tail += coefficient
        tail *= t
    square *= _HALF_SQUARE
    tail *= exp2(square)
    tail *= size  # |x| Phi(-|x|)
    y = clamp_(x + 0.0, 0.0)
    y -= tail
    return y


@dataclass(frozen=True, eq=False)
class Gelu(HostOp):
    """`y = x Phi(x)`, Phi the normal distribution, or its approximation by a tanh.

    Attributes:
        exact: by the error function ("gelu"), else `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` ("gelu_new").
    """

    name: str
    input: str
    output: str
    exact: bool

    def port(self, inputs: Inputs) -> Port:
        """As its input."""
        return inputs.read(self.input, REAL)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        return tensor(_gelu(light(tensor_in(values, self.input)), self.exact))

    def operations(self) -> int:
        """tanh: square, two products, a sum, exp, add 1, divide. erf: a polynomial of five terms, a quotient, exp, and what
        joins them."""
        return _ERF_OPERATIONS if self.exact else _TANH_OPERATIONS

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        """See `HostOp`."""
        return F.gelu(values[self.input], approximate="none" if self.exact else "tanh")


@dataclass(frozen=True, eq=False)
class GeluGate(HostOp):
    """`y = gelu(x[..., :half]) * x[..., half:]`, the product in a GeGLU feed-forward; `exact` as of `Gelu`."""

    name: str
    input: str
    output: str
    exact: bool

    def port(self, inputs: Inputs) -> Port:
        """Half as wide as its input."""
        x = inputs.read(self.input, REAL)
        inputs.divides(2, x.width, "halves")
        return Port(REAL, x.width // 2)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        x = light(tensor_in(values, self.input))
        half = x.shape[-1] // 2
        y = _gelu(x[..., :half], self.exact)
        y *= x[..., half:]
        return tensor(y)

    def operations(self) -> int:
        """As of `Gelu`, and a product."""
        return 1 + (_ERF_OPERATIONS if self.exact else _TANH_OPERATIONS)

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        """See `HostOp`."""
        gate, up = values[self.input].chunk(2, dim=-1)
        return F.gelu(gate, approximate="none" if self.exact else "tanh") * up


def capped(x: Numbers, cap: float) -> Numbers:
    """`cap * tanh(x / cap)` in float32: `cap * (1 - t) / (1 + t)` with `t = e^(-2 x / cap)`."""
    t = exp2(x * _float32(-2 * _LOG2E / cap))
    y = 1.0 - t
    t += 1.0
    y /= t
    y *= _float32(cap)
    return y


@dataclass(frozen=True, eq=False)
class SoftCap(HostOp):
    """`y = cap * tanh(x / cap)`: logits that stay within -cap..cap."""

    name: str
    input: str
    output: str
    cap: float

    def port(self, inputs: Inputs) -> Port:
        """As its input."""
        inputs.positive("cap", self.cap)
        return inputs.read(self.input, REAL)

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        return tensor(capped(light(tensor_in(values, self.input)), self.cap))

    def operations(self) -> int:
        """Those of `capped`."""
        return CAP_OPERATIONS

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        """See `HostOp`."""
        return self.cap * torch.tanh(values[self.input] / self.cap)
