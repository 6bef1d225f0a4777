"""Integer doors: fixed-point values become codes, sums become fixed-point values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from kirin_lava.base.errors import FitError
from kirin_lava.base.integers import bounded, rescaled, shifted, whole
from kirin_lava.graph.ops.doors import Encode
from kirin_lava.graph.ops.integer.op import STORED_INT32, Int32, IntegerOp, constant, fixed_in, whole_step
from kirin_lava.graph.ops.op import CUSTOM_NEURON
from kirin_lava.graph.ops.plain import Sum
from kirin_lava.graph.ops.zero_points import ZeroPoints
from kirin_lava.graph.port import CODES, FIXED, SUMS, Inputs, Port
from kirin_lava.graph.values import Float32, HostContext, Value, Values, codes_in, tensor_in

__all__ = ["MANTISSA_BITS", "MOST_SHIFT", "IntegerDecode", "IntegerEncode", "IntegerSum", "IntegerZeroPoints"]

MANTISSA_BITS = 15
MOST_SHIFT = 38
"""By so many bits a message may be shifted up, and doubled, within 62 bits."""
_WORD = 62


@dataclass(frozen=True, eq=False)
class IntegerEncode(Encode, IntegerOp):
    """fixed -> codes: `q = round(x * 2^k / s)`, an exact quotient rounded half up, with an integer step s in units of
    `2^-(fraction + k)` that the rule finds from the integers of the token, see `StepRule.integers`.

    Attributes:
        fraction: of its input.
    """

    place: ClassVar[str] = CUSTOM_NEURON
    kind: ClassVar[str] = FIXED
    stock: ClassVar[str] = "the step of a token is the largest of its numbers, and a neuron sees its own alone"
    steps: ClassVar[int] = 2
    products: ClassVar[int] = 2
    fraction: int = 0

    def port(self, inputs: Inputs) -> Port:
        """Codes as wide as its input; their steps have units."""
        port = super().port(inputs)
        inputs.fixed(self.input, self.fraction, by_position=None)
        problem = self.rule.no_integers(self.code)
        if problem is not None:
            raise inputs.error(problem)
        bits = self.rule.step_bits(self.code, self.fraction)
        inputs.shift(self.input, bits, -MOST_SHIFT, MOST_SHIFT)
        return Port(**{**vars(port), "fraction": self.fraction + bits})

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`."""
        return self.rule.integers(self.code, fixed_in(values, self.input), self.fraction, self.groups, context.first, self.name)

    def operations(self) -> int:
        """Magnitude, comparison with the largest and with a bound, a shift, a quotient (a product with a reciprocal that one
        comparison corrects), a clip."""
        return 8


@dataclass(frozen=True, eq=False)
class IntegerDecode(IntegerOp):
    """sums -> fixed: `y = round(v * s * mantissa / 2^shift) + bias`, with the step s of the codes the sums were made from.

    Attributes:
        codes: name of the codes value whose steps apply; its groups divide the width.
        step_fraction: of these steps. fraction: of the result.
        mantissa, shift: (width,) int32, or None for `2^(fraction - step_fraction)` alone (attention); a mantissa has 15 bits.
        bias: (width,) int32 in units of the result, or None.
    """

    stock: ClassVar[str] = "its factor is the step that came with the token, and synapses have fixed weights"
    products: ClassVar[int] = 2
    name: str
    input: str
    codes: str
    output: str
    step_fraction: int
    fraction: int
    mantissa: Int32 | None = field(metadata=STORED_INT32)
    shift: Int32 | None = field(metadata=STORED_INT32)
    bias: Int32 | None = field(metadata=STORED_INT32)

    def port(self, inputs: Inputs) -> Port:
        """Fixed, as wide as the sums."""
        sums, codes = inputs.read(self.input, SUMS), inputs.read(self.codes, CODES, by_position=None)
        inputs.divides(codes.groups, sums.width, "groups")
        inputs.same("zero points that are still in the sums", sums.zero_points, 0)
        inputs.fraction(self.codes, codes, self.step_fraction)
        for what in ("mantissa", "shift", "bias"):
            inputs.vector(what, getattr(self, what), sums.width)
        if (self.mantissa is None) != (self.shift is None):
            raise inputs.error("mantissas and shifts belong together")
        if self.mantissa is not None and int(abs(self.mantissa).max()) >= 1 << MANTISSA_BITS:
            raise inputs.error(f"a mantissa has more than {MANTISSA_BITS} bits")
        if self.shift is None:
            inputs.shift("a sum", self.step_fraction - self.fraction)
        else:
            for bits in (self.shift.min(), self.shift.max()):
                inputs.shift("a sum", int(bits), most=1 << 20)  # beyond 62 nothing is left
        return Port(FIXED, sums.width, fraction=self.fraction)

    def reads(self) -> dict[str, str]:
        """Sums, and steps of codes."""
        return {self.input: "all", self.codes: "steps"}

    @property
    def scale(self) -> Float32 | None:
        """(width,) float32, what a sum is multiplied with beside the step; for people and files."""
        if self.mantissa is None or self.shift is None:
            return None
        exponent = torch.from_numpy(self.fraction - self.step_fraction + self.shift)
        result: Float32 = torch.ldexp(torch.from_numpy(self.mantissa).double(), -exponent).float().numpy()
        return result

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`.

        Raises:
            FitError: a sum times its step leaves 47 bits, or 62 where no mantissa follows, or the result 24.
        """
        v, step = fixed_in(values, self.input), whole_step(codes_in(values, self.codes).step, self.step_fraction)
        groups = step.shape[-1]
        rows = v.view(*v.shape[:-1], groups, -1)
        largest = _largest_product(rows, step, self.most)
        if largest >= self.most:
            raise self.beyond(largest)
        y = (rows * step.unsqueeze(-1)).view(v.shape)
        if self.mantissa is None or self.shift is None:
            y = rescaled(y, self.step_fraction, self.fraction)
        else:
            y = shifted(y * constant(self.mantissa, context, y), constant(self.shift, context, y))
        if self.bias is not None:
            y = y + constant(self.bias, context, y)
        return bounded(y, self.name, self.fraction)

    @property
    def most(self) -> int:
        """A sum times its step stays below it: a mantissa follows where there is one."""
        return 1 << _WORD - (0 if self.mantissa is None else MANTISSA_BITS)

    def beyond(self, product: int) -> FitError:
        """The error of a sum times its step that is too large."""
        return FitError(
            f"{self.name}: a sum times its step is {product}, beyond {self.most}, which a word of {_WORD} bits holds with what "
            "follows; use a recipe with narrower messages, or `host: float`"
        )

    def constant_bytes(self) -> int:
        """Mantissa, shift, bias."""
        return 3 * (self.mantissa is not None) + 3 * (self.bias is not None)

    def operations(self) -> int:
        """Two products, a shift, the bias."""
        return 1 + 2 * (self.mantissa is not None) + (self.bias is not None)


@dataclass(frozen=True, eq=False)
class IntegerSum(Sum, IntegerOp):
    """`Sum` by neurons: int64."""

    place: ClassVar[str] = CUSTOM_NEURON
    stock: ClassVar[str] = "its result may leave the 24 bits of a state, and is kept in two words"

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`."""
        return fixed_in(values, self.input) + fixed_in(values, self.other)


@dataclass(frozen=True, eq=False)
class IntegerZeroPoints(ZeroPoints, IntegerOp):
    """`ZeroPoints` by neurons: int64."""

    place: ClassVar[str] = CUSTOM_NEURON
    stock: ClassVar[str] = "a zero point comes with the token, and synapses have fixed weights"
    products: ClassVar[int] = 2

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `StageOp`."""
        v, zero = whole(tensor_in(values, self.input)), codes_in(values, self.codes).zero
        assert zero is not None
        rows: Tensor = constant(self.rows, context, v).view(zero.shape[-1], -1)
        for index in range(zero.shape[-1]):
            v = v - whole(zero[..., index : index + 1]) * rows[index]
        return v


def _largest_product(rows: Tensor, step: Tensor, most: int) -> int:
    """The largest magnitude in rows (..., G, W) times their steps (..., G), exactly where it matters, from `most` on."""
    if not rows.numel():
        return 0
    sizes = rows.abs().amax(-1)
    product = int(sizes.max()) * int(step.max())
    if product < most:
        return product
    return max(
        size * each for size, each in zip(sizes.flatten().tolist(), step.expand(sizes.shape).flatten().tolist(), strict=True)
    )
