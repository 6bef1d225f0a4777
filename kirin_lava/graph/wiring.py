"""Whether the operations of a block fit together: every value is written once, before it is read, in the kind and width needed.

A manifest comes from a file and may say anything. What passes here runs through every backend without an error of shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.ops import (
    Add,
    Block,
    Decode,
    Encode,
    Fire,
    Gate,
    Linear,
    Mix,
    Norm,
    Op,
    Rotary,
    Score,
    Slice,
    Softmax,
    Sum,
)
from kirin_lava.spikes.codes.coding import Encoding

__all__ = ["check_wiring"]

_MOST_HEADS = 1 << 16
_EXACT = 1 << 24  # products of attention are summed in float32


@dataclass(frozen=True)
class _Value:
    """What is known of a value.

    Attributes:
        kind: "real", "codes" or "sums".
        width: elements per token; for a row per head and position, the heads.
        groups: steps per token, of codes. by_position: one element per head and position.
        encoding: of codes. cached: whether the codes are kept for later tokens.
    """

    kind: str
    width: int
    groups: int = 1
    encoding: Encoding | None = None
    by_position: bool = False
    cached: bool = False


def check_wiring(block: Block, width: int, result: int, head_dim: int | None, where: str) -> None:
    """Follow the values of a block from the first to the last.

    Args:
        width: of the value `x`. result: width that the block's output must have.
        head_dim: width of the rotary tables, None where there are none.
        where: for errors.

    Raises:
        UsageError: names the operation and what does not fit.
    """
    values = {"x": _Value("real", width)}
    for index, op in enumerate(block.ops):
        checker = _Checker(values, head_dim, f"{where}: {block.name}, operation {index} ({op.name})")
        if op.output in values:
            raise checker.error(f"value {op.output!r} is written twice")
        values[op.output] = checker.result(op)
    read = {op.cache for op in block.ops if isinstance(op, (Score, Mix))}
    for op in block.ops:
        if isinstance(op, Encode) and op.cached and op.output not in read:
            raise UsageError(f"{where}: {block.name} ({op.name}): cached codes are read by no attention")
    last = values.get(block.output)
    if last is None or last.kind != "real" or last.width != result or last.by_position:
        raise UsageError(f"{where}: {block.name}: the output {block.output!r} is not a real value of width {result}")


class _Checker:
    """The rules of one operation."""

    def __init__(self, values: dict[str, _Value], head_dim: int | None, place: str):
        self._values, self._head_dim, self._place = values, head_dim, place

    def error(self, problem: str) -> UsageError:
        return UsageError(f"{self._place}: {problem}; the bundle is damaged, export again")

    def result(self, op: Op) -> _Value:
        """What the operation writes."""
        if isinstance(op, Linear):
            return self._linear(op)
        if isinstance(op, Encode):
            return self._encode(op)
        if isinstance(op, Decode):
            return self._decode(op)
        if isinstance(op, (Score, Softmax, Mix)):
            return self._attention(op)
        if isinstance(op, Sum):
            sums = self._read(op.input, "sums")
            self._same("other", self._read(op.other, "sums").width, sums.width)
            return sums
        if isinstance(op, Slice):
            return self._slice(op)
        x = self._read(op.input, "real")
        if isinstance(op, Add):
            self._same("other", self._read(op.other, "real").width, x.width)
            return x
        if isinstance(op, Gate):
            self._divides(2, x.width, "halves")
            return _Value("real", x.width // 2)
        if isinstance(op, Rotary):
            self._divides(op.heads, x.width, "heads")
            self._same("rotary tables", self._head_dim or 0, x.width // op.heads)
            return x
        self._norm(op, x.width)
        return x

    def _slice(self, op: Slice) -> _Value:
        known = self._values.get(op.input)
        x = self._read(op.input, "codes" if known is not None and known.kind == "codes" else "real")
        if not 0 <= op.start < op.stop <= x.width:
            raise self.error(f"{op.start}:{op.stop} is no part of a value of width {x.width}")
        self._same("steps", x.groups, 1)
        return replace(x, width=op.stop - op.start, cached=False)

    def _norm(self, op: Norm, width: int) -> None:
        self._divides(op.groups, width, "groups")
        self._positive("eps", op.eps)
        self._vector("weight", op.weight, width // op.groups)
        self._vector("bias", op.bias, width // op.groups)

    def _encode(self, op: Encode) -> _Value:
        x = self._read(op.input, "real", by_position=op.causal)
        self._divides(op.groups, x.width, "groups")
        if not 0 <= op.ratio <= 0.5:
            raise self.error(f"ratio {op.ratio} is not within 0 to 0.5")
        self._vector("channels", op.channels, x.width)
        if op.static_step is not None:
            self._positive("static_step", op.static_step)
            self._same("groups", op.groups, 1)
        if op.causal and (op.groups not in (1, x.width) or op.channels is not None or op.static_step is not None or op.cached):
            raise self.error("a row of probabilities has one step, or one for each head, and is not cached")
        return _Value("codes", x.width, op.groups, op.encoding, op.causal, op.cached)

    def _linear(self, op: Linear) -> _Value:
        codes = self._read(op.input, "codes")
        self._same("inputs", op.weight.shape[1], codes.width)
        self._same("groups", codes.groups, 1)
        self._encoding(op.encoding, codes)
        return self._fired(op.fire, op.weight.shape[0])

    def _fired(self, fire: Fire | None, width: int) -> _Value:
        if fire is None:
            return _Value("sums", width)
        self._positive("fire.step", fire.step)
        self._vector("fire.ramp", fire.ramp, width)
        self._vector("fire.offset", fire.offset, width)
        if fire.ramp.min() < 1:
            raise self.error(f"fire.ramp of neuron {int(fire.ramp.argmin())} is {int(fire.ramp.min())}, not 1 or more")
        if not 0 <= fire.shift < 24:
            raise self.error(f"fire.shift is {fire.shift}, not 0 to 23")
        return _Value("codes", width, 1, fire.encoding)

    def _decode(self, op: Decode) -> _Value:
        sums, codes = self._read(op.input, "sums"), self._read(op.codes, "codes", by_position=None)
        self._divides(codes.groups, sums.width, "groups")
        self._vector("scale", op.scale, sums.width)
        self._vector("bias", op.bias, sums.width)
        return _Value("real", sums.width)

    def _attention(self, op: Score | Softmax | Mix) -> _Value:
        heads, kv_heads = op.heads, op.kv_heads
        if not 0 < kv_heads <= heads <= _MOST_HEADS or heads % kv_heads:
            raise self.error(f"{heads} heads over {kv_heads} key/value heads")
        if isinstance(op, Softmax):
            self._same("heads", self._read(op.input, "sums", by_position=True).width, heads)
            self._same("steps of the query", self._read(op.query, "codes").groups, heads)
            for name in (op.key, op.value):
                self._same(f"steps of {name}", self._cached(name).groups, kv_heads)
            self._positive("factor", op.factor)
            return _Value("real", heads, by_position=True)
        cached = self._cached(op.cache)
        self._same(f"steps of {op.cache}", cached.groups, kv_heads)
        head_dim = cached.width // kv_heads
        if isinstance(op, Score):
            query = self._read(op.input, "codes")
            self._encoding(op.encoding, query)
            self._same("width of the query", query.width, heads * head_dim)
            if head_dim * _largest(query) * _largest(cached) >= _EXACT:
                raise self.error(f"heads of width {head_dim} do not fit sums of 24 bits")
            return _Value("sums", heads, by_position=True)
        weights = self._read(op.input, "codes", by_position=True)
        self._encoding(op.encoding, weights)
        self._same("heads", weights.width, heads)
        if op.fire is not None:
            self._same("steps of the input", weights.groups, 1)
        return self._fired(op.fire, heads * head_dim)

    def _read(self, name: str, kind: str, by_position: bool | None = False) -> _Value:
        value = self._values.get(name)
        if value is None:
            raise self.error(f"value {name!r} is read before it is written")
        if value.kind != kind or by_position not in (None, value.by_position):
            shape = " per head and position" if value.by_position else ""
            raise self.error(f"value {name!r} holds {value.kind}{shape}, which this operation does not read")
        return value

    def _cached(self, name: str) -> _Value:
        value = self._read(name, "codes")
        if not value.cached:
            raise self.error(f"value {name!r} is not cached")
        return value

    def _encoding(self, encoding: Encoding, codes: _Value) -> None:
        if encoding != codes.encoding:
            found = None if codes.encoding is None else codes.encoding.name
            raise self.error(f"it takes codes of the encoding {encoding.name}, its input has {found}")

    def _same(self, what: str, found: int, wanted: int) -> None:
        if found != wanted:
            raise self.error(f"{what}: {found} instead of {wanted}")

    def _divides(self, parts: int, width: int, what: str) -> None:
        if parts < 1 or width % parts:
            raise self.error(f"a value of width {width} has no {parts} {what}")

    def _positive(self, what: str, value: float) -> None:
        if not (math.isfinite(value) and value > 0):
            raise self.error(f"{what} is {value}, not a positive number")

    def _vector(self, what: str, array: npt.NDArray[Any] | None, length: int) -> None:
        if array is not None and array.shape != (length,):
            raise self.error(f"{what} has {array.size} values instead of {length}")
        if array is not None and array.dtype.kind == "f":
            finite = np.isfinite(array)
            if not finite.all():
                raise self.error(f"{what}[{int(finite.argmin())}] is {array[finite.argmin()]}")


def _largest(codes: _Value) -> int:
    return 0 if codes.encoding is None else max(-codes.encoding.code_min, codes.encoding.code_max)
