"""Zero points of asymmetric codes, taken off the sums of their products in exact integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.ops.core import Linear
from kirin_lava.graph.ops.op import HostOp, Op
from kirin_lava.graph.ops.plain import Sum
from kirin_lava.graph.port import CODES, SUMS, Inputs, Port
from kirin_lava.graph.values import HostContext, Value, Values, codes_in, tensor_in
from kirin_lava.spikes.codes import SpikeCode

__all__ = ["ZeroPoints", "check_row_sums", "row_sums"]

Int32 = npt.NDArray[np.int32]


def row_sums(weight: npt.NDArray[np.int8], code: SpikeCode) -> Int32:
    """(2, N) sums of the weights (N, K) of the ordinary and of the fine channels of a code: what a zero point of 1 adds to a
    neuron."""
    fine = code.fine(weight.shape[1])
    if not weight.strides[0]:  # of a plan all rows are one and the same
        one = row_sums(weight[:1].copy(), code)
        return np.broadcast_to(one, (len(one), len(weight)))
    return np.stack([weight[:, ~fine].sum(1, dtype=np.int32), weight[:, fine].sum(1, dtype=np.int32)])


@dataclass(frozen=True, eq=False)
class ZeroPoints(HostOp):
    """sums -> sums: `v - sum_z zero[z] * R[z]`, exact integers in float64, with the zero points that a token's codes came with.

    Attributes:
        codes: name of the codes that the sums were made from.
        rows: (Z * N,) int32, R one zero point after the other, see `row_sums`.
    """

    name: str
    input: str
    codes: str
    output: str
    rows: Int32 = field(metadata={"dtype": "int32"})

    def port(self, inputs: Inputs) -> Port:
        """Sums without zero points."""
        sums, codes = inputs.read(self.input, SUMS), inputs.read(self.codes, CODES)
        inputs.same("zero points", sums.zero_points, codes.zero_points)
        if not sums.zero_points:
            raise inputs.error("there is no zero point to take off")
        inputs.vector("rows", self.rows, sums.width * sums.zero_points)
        return replace(sums, zero_points=0)

    def reads(self) -> dict[str, str]:
        """Sums, and zero points of codes."""
        return {self.input: "all", self.codes: "steps"}

    def compute(self, values: Values, context: HostContext) -> Value:
        """See `HostOp`."""
        v, zero = tensor_in(values, self.input), codes_in(values, self.codes).zero
        assert zero is not None
        rows: Tensor = context.constant(self.rows, v).double().view(zero.shape[-1], -1)
        result = v.double()
        for index in range(zero.shape[-1]):
            result = result - zero[..., index : index + 1].double() * rows[index]
        return result

    def operations(self) -> int:
        """A product and a difference for each of two zero points."""
        return 4


def check_row_sums(ops: tuple[Op, ...], where: str) -> None:
    """Raise `UsageError` where the sums of a `ZeroPoints` are not those of the weights whose products it reads."""
    makers = {op.output: op for op in ops}
    for op in ops:
        if isinstance(op, ZeroPoints):
            found = _sums_below(op.input, makers)
            if found is None or not np.array_equal(op.rows, found.ravel()):
                neuron = "" if found is None or found.size != op.rows.size else f", first in entry {_first(op.rows, found)}"
                raise UsageError(f"{where} ({op.name}): its row sums are not those of the weights{neuron}; export again")


def _first(rows: Int32, found: Int32) -> int:
    return int(np.flatnonzero(rows != found.ravel())[0])


def _sums_below(value: str, makers: Mapping[str, Op]) -> Int32 | None:
    """Row sums of the segment that makes a value, or of several that are added; None where others make it."""
    op = makers.get(value)
    if isinstance(op, Linear):
        return row_sums(op.weight, op.code)
    if isinstance(op, Sum):
        parts = [_sums_below(name, makers) for name in op.reads()]
        return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]
    return None
