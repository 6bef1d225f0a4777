"""A network without a host in the loop: integer operations in place of the float operations of a lowered block.

It knows nothing of methods: every operation of the host has an integer form, whatever codes it makes or reads, and a step rule
says itself whether it can do without floats. Every value of the float block gets the finest unit `2^-fraction` in which four
times its largest magnitude on the calibration text still fits a message of 24 bits, see `kirin_lava.base.integers`.

    measure         largest magnitude of every value of the float block
    to_integers     the lowered block with integer operations
    whole_embedding, whole_rotary    what belongs to the whole model
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kirin_lava.base.errors import FitError, UnsupportedError
from kirin_lava.base.integers import MESSAGE_LIMIT, fraction_of, to_fixed
from kirin_lava.graph.block import Block, Embedding
from kirin_lava.graph.ops import (
    Add,
    Decode,
    Encode,
    Gate,
    Gelu,
    GeluGate,
    HostOp,
    Norm,
    Op,
    Relu,
    Rotary,
    Slice,
    SoftCap,
    Softmax,
    Sum,
    ZeroPoints,
)
from kirin_lava.graph.ops.integer import (
    IntegerAdd,
    IntegerCappedSoftmax,
    IntegerDecode,
    IntegerEncode,
    IntegerGate,
    IntegerGelu,
    IntegerGeluGate,
    IntegerNorm,
    IntegerRelu,
    IntegerRotary,
    IntegerSlice,
    IntegerSoftCap,
    IntegerSoftmax,
    IntegerSum,
    IntegerZeroPoints,
    Table,
    table,
)
from kirin_lava.graph.ops.integer.doors import MANTISSA_BITS, MOST_SHIFT
from kirin_lava.graph.ops.integer.functions import NORM_BITS, Multiplier, gate_fraction, multiplier_of
from kirin_lava.graph.ops.integer.norm import GAIN_LIMIT
from kirin_lava.graph.port import FIXED, Inputs, Port
from kirin_lava.graph.values import ROTARY_BITS, Array
from kirin_lava.models import float_model
from kirin_lava.models.layout import FloatBlock, FloatEmbedding, FloatOp

__all__ = ["Scales", "embedding_fraction", "measure", "norm_eps", "peak_of", "to_integers", "whole_embedding", "whole_rotary"]

Peaks = Mapping[str, float]
_HEAD_TOKENS = 2048
"""Of the calibration text that the head is run on for the largest logit: its product is the largest of all."""


@dataclass(frozen=True)
class Scales:
    """What a block's integer form needs to know: largest magnitudes of its values by name, and the units of its input."""

    peaks: Peaks
    fraction: int


def peak_of(rows: list[Tensor]) -> float:
    """Largest magnitude of some tensors."""
    return max(float(row.abs().max()) for row in rows)


@torch.no_grad()
def measure(block: FloatBlock, rows: list[Tensor], rotary: tuple[Tensor, Tensor] | None) -> Peaks:
    """Largest magnitude of every value of a float block over its inputs, each (1, L, width)."""
    peaks: dict[str, float] = {}

    def see(values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            peaks[name] = max(peaks.get(name, 0.0), float(value.abs().max()))

    def watch(op: FloatOp, values: dict[str, Tensor]) -> None:
        seen.update(values)

    tokens = 0
    for row in rows:
        seen: dict[str, Tensor] = {}
        seen[block.output] = float_model.run_block(block, row, rotary, watch)
        see(seen)
        tokens += row.shape[1]
        if block.name == "head" and tokens >= _HEAD_TOKENS:
            break
    return peaks


def embedding_fraction(embedding: FloatEmbedding | Embedding) -> int:
    """Units of the embedding's integers: all its rows are known, so that no headroom is needed."""
    tables = [part for part in (embedding.tokens, embedding.positions) if part is not None]
    return fraction_of(sum(float(torch.as_tensor(part).abs().max()) for part in tables), headroom=0)


def whole_embedding(embedding: Embedding) -> Embedding:
    """The embedding in integers."""
    fraction = embedding_fraction(embedding)

    def integers(array: Array) -> Array:
        return to_fixed(torch.from_numpy(array), fraction).to(torch.int32).numpy()

    positions = None if embedding.positions is None else integers(embedding.positions)
    return replace(embedding, tokens=integers(embedding.tokens), positions=positions, fraction=fraction)


def whole_rotary(rotary: tuple[Array, Array] | None) -> tuple[Array, Array] | None:
    """Cosines and sines in units of 2^-22."""
    if rotary is None:
        return None
    cos, sin = (to_fixed(torch.from_numpy(part), ROTARY_BITS).to(torch.int32).numpy() for part in rotary)
    return cos, sin


def to_integers(block: Block, scales: Scales) -> Block:
    """The block with integer operations.

    Args:
        block: lowered, with float operations. scales: of the float block, see `measure`.

    Raises:
        UnsupportedError: an operation or a step rule that has no integer form.
        FitError: a value that no unit holds.
    """
    builder = _Builder(block, scales)
    for op in block.ops:
        builder.add(op)
    return replace(block, ops=tuple(builder.ops), fraction=scales.fraction)


def norm_eps(op: Norm, fraction: int) -> Multiplier:
    """What a norm adds to the sum of squares of a row in units of 2^-fraction, see `functions.normalized`."""
    width = len(op.weight)
    return multiplier_of(op.eps * width * 4.0**fraction * (width**2 if op.center else 1))


class _Builder:
    """Follows a block from its first operation to its last; ports tell the units."""

    def __init__(self, block: Block, scales: Scales) -> None:
        self._block, self._peaks = block, scales.peaks
        self._ports = {"x": Port(FIXED, block.width, fraction=scales.fraction)}
        self.ops: list[Op] = []
        self._forms: dict[type[Op], Callable[[Any], Op]] = {
            Norm: self._norm,
            Rotary: self._rotary,
            Slice: lambda op: IntegerSlice(**_fields(op)),
            Gate: self._gate,
            GeluGate: self._gelu_gate,
            Gelu: self._gelu,
            SoftCap: self._soft_cap,
            Relu: lambda op: IntegerRelu(op.name, op.input, op.output, self._unit(op.input)),
            Add: self._add,
            Sum: lambda op: IntegerSum(**_fields(op)),
            Encode: self._encode,
            ZeroPoints: lambda op: IntegerZeroPoints(**_fields(op)),
            Decode: self._decode,
            Softmax: self._softmax,
        }

    def add(self, op: Op) -> None:
        """Put an operation, or its integer form, behind the others."""
        made = op
        if isinstance(op, HostOp):
            form = self._forms.get(type(op))
            if form is None:
                raise UnsupportedError(
                    f"{self._block.name} ({op.name}): {type(op).__name__} has no integer form; export with `host: float`"
                )
            made = form(op)
        self._ports[made.output] = made.port(Inputs(self._ports, None, f"{self._block.name} ({op.name})"))
        self.ops.append(made)

    def _unit(self, name: str) -> int:
        """Fraction of a value, or of the steps of codes."""
        fraction = self._ports[name].fraction
        assert fraction is not None
        return fraction

    def _wanted(self, name: str, finest: int) -> int:
        """Fraction that a value is to have; where it is always small, not finer than what it is made from."""
        try:
            return min(fraction_of(self._peaks[name]), finest)
        except FitError as error:
            raise FitError(f"{self._block.name} ({name}): {error}") from None

    def _norm(self, op: Norm) -> Op:
        gain, gain_fraction = _whole_gain(op.weight)
        unit, wanted = self._unit(op.input), self._wanted(op.output, NORM_BITS + gain_fraction)
        eps = norm_eps(op, unit)
        bias = None if op.bias is None else self._bias(op.bias, wanted, op.name)
        return IntegerNorm(
            op.name,
            op.input,
            op.output,
            unit,
            wanted,
            gain,
            gain_fraction,
            bias,
            eps.mantissa,
            eps.shift,
            op.center,
            op.groups,
            table("root"),
        )

    def _rotary(self, op: Rotary) -> Op:
        unit = self._unit(op.input)
        wanted = self._wanted(op.output, unit + ROTARY_BITS)
        return IntegerRotary(op.name, op.input, op.output, op.heads, unit, wanted, op.table)

    def _gate(self, op: Gate) -> Op:
        unit = self._unit(op.input)
        wanted = self._wanted(op.output, gate_fraction(unit) + unit)
        return IntegerGate(op.name, op.input, op.output, unit, wanted, table("silu"))

    def _gelu_gate(self, op: GeluGate) -> Op:
        unit = self._unit(op.input)
        wanted = self._wanted(op.output, gate_fraction(unit) + unit)
        return IntegerGeluGate(op.name, op.input, op.output, unit, wanted, _gelu_table(op.exact))

    def _gelu(self, op: Gelu) -> Op:
        unit = self._unit(op.input)
        wanted = self._wanted(op.output, gate_fraction(unit))
        return IntegerGelu(op.name, op.input, op.output, unit, wanted, _gelu_table(op.exact))

    def _soft_cap(self, op: SoftCap) -> Op:
        unit = self._unit(op.input)
        wanted = min(self._wanted(op.output, unit), fraction_of(op.cap, headroom=0))
        factors = IntegerSoftCap.factors(multiplier_of(op.cap), multiplier_of(1 / op.cap), unit, wanted)
        return IntegerSoftCap(op.name, op.input, op.output, unit, wanted, *factors, table("tanh"))

    def _add(self, op: Add) -> Op:
        units = self._unit(op.input), self._unit(op.other)
        return IntegerAdd(op.name, op.input, op.other, op.output, *units, self._wanted(op.output, min(units) + MOST_SHIFT))

    def _encode(self, op: Encode) -> Op:
        problem = op.rule.no_integers(op.code)
        if problem is not None:
            raise UnsupportedError(f"{self._block.name} ({op.name}): {problem}")
        return IntegerEncode(**_fields(op), fraction=self._unit(op.input))

    def _decode(self, op: Decode) -> Op:
        step = self._unit(op.codes)
        finest = step if op.scale is None else step + MANTISSA_BITS - math.frexp(float(op.scale.max()))[1]
        wanted = self._wanted(op.output, finest)
        mantissa = shift = None
        if op.scale is not None:
            mantissa, shift = _whole_scale(op.scale, wanted - step)
        bias = None if op.bias is None else self._bias(op.bias, wanted, op.name)
        return IntegerDecode(op.name, op.input, op.codes, op.output, step, wanted, mantissa, shift, bias)

    def _softmax(self, op: Softmax) -> Op:
        query, key, value = (self._unit(name) for name in (op.query, op.key, op.value))
        factor = multiplier_of(op.factor / math.log(2) if op.cap is None else op.factor / op.cap)
        plain = IntegerSoftmax(
            op.name,
            op.input,
            op.query,
            op.key,
            op.value,
            op.output,
            op.heads,
            op.kv_heads,
            factor.mantissa,
            factor.shift + query + key,
            query,
            key,
            value,
            table("exp2"),
            table("reciprocal"),
            window=op.window,
        )
        if op.cap is None:
            return plain
        cap = multiplier_of(op.cap / math.log(2))
        return IntegerCappedSoftmax(**_fields(plain), cap_mantissa=cap.mantissa, cap_shift=cap.shift, tanh=table("tanh"))

    def _bias(self, bias: Array, fraction: int, name: str) -> Array:
        whole = to_fixed(torch.from_numpy(bias), fraction)
        if int(whole.abs().max()) >= MESSAGE_LIMIT:
            raise FitError(
                f"{self._block.name} ({name}): a bias of {float(abs(bias).max()):.4g} does not fit 24 bits in units of "
                f"2^{-fraction}, which four times the largest result on the calibration text leaves; calibrate on more text"
            )
        return whole.to(torch.int32).numpy()


def _gelu_table(exact: bool) -> Table:
    return table("gelu" if exact else "gelu_tanh")


def _fields(op: Op) -> dict[str, Any]:
    """Arguments of an operation."""
    return {item.name: getattr(op, item.name) for item in fields(op)}  # type: ignore[arg-type]


def _whole_gain(weight: Array) -> tuple[Array, int]:
    """Gains times the root of their number, in the finest units in which the largest has 24 bits."""
    gain = weight.astype(np.float64) * math.sqrt(len(weight))
    exponent = math.frexp(float(abs(gain).max()) or 1.0)[1]
    fraction = GAIN_LIMIT.bit_length() - 2 - exponent
    return np.rint(np.ldexp(gain, fraction)).astype(np.int32), fraction


def _whole_scale(scale: Array, bits: int) -> tuple[Array, Array]:
    """Mantissas and shifts of `scale * 2^bits`."""
    part, exponent = np.frexp(scale.astype(np.float64))
    mantissa = np.rint(np.ldexp(part, MANTISSA_BITS)).astype(np.int64)
    full = mantissa == 1 << MANTISSA_BITS
    mantissa, exponent = np.where(full, mantissa >> 1, mantissa), exponent + full
    return mantissa.astype(np.int32), (MANTISSA_BITS - exponent - bits).astype(np.int32)
