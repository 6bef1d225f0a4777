"""What every integer operation makes of one token, in Python's integers: see `numbers.py`.

The equations are those of the operations' own docstrings, and of `docs/integer-operations.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kirin_lava.graph.ops import StageOp, require_ops
from kirin_lava.graph.ops.integer import (
    INTEGER_OPS,
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
    functions,
)
from kirin_lava.graph.values import ROTARY_BITS, Codes, HostContext, Value, Values, codes_in, tensor_in
from kirin_lava.processes.integer_stage.codes import Row, row_codes
from kirin_lava.processes.integer_stage.numbers import cut, in_units, like, look_up, messages, numbers, rows_of, scaled
from kirin_lava.spikes.tables import ARGUMENT_BITS, BOUNDED_BITS, EXP2_BITS, OCTAVE_BITS, ROOT_BITS, VALUE_BITS, Table

__all__ = ["answer"]


def answer(op: StageOp, values: Values, context: HostContext) -> Value:
    """The result of an operation for one token, (1, 1, W) or (1, H, 1, J), as `StageOp.compute` gives it.

    Raises:
        FitError: a number beyond a message, a step, or a product.
    """
    return _ANSWERS[type(op)](op, values, context)


def _norm(op: IntegerNorm, values: Values, context: HostContext) -> Value:
    x, y = tensor_in(values, op.input), []
    for row in rows_of(numbers(values, op.input), op.groups):
        c = [len(row) * n - sum(row) for n in row] if op.center else row
        down = max(max(map(abs, c)).bit_length() - functions.BLOCK_BITS, -((functions.EPS_SHIFT + op.eps_shift) // 2))
        c = [scaled(n, down) for n in c]
        total = max(1, sum(n * n for n in c) + scaled(op.eps_mantissa, op.eps_shift + 2 * down))
        half = (total.bit_length() - 1) // 2
        inverse = look_up(op.root, cut(total, 2 * half - ROOT_BITS) - 2**ROOT_BITS)
        n = [scaled(each * inverse, half + VALUE_BITS - functions.NORM_BITS) for each in c]
        shift = functions.NORM_BITS + op.gain_fraction - op.fraction
        bias = [0] * len(row) if op.bias is None else op.bias.tolist()
        y += [scaled(each * gain, shift) + b for each, gain, b in zip(n, op.gain.tolist(), bias, strict=True)]
    return like(messages(y, op.name, op.fraction), x.shape)


def _rotary(op: IntegerRotary, values: Values, context: HostContext) -> Value:
    assert context.rotary is not None
    x, y = tensor_in(values, op.input), []
    width = x.shape[-1] // op.heads
    first = width * (op.table or 0)
    cos, sin = (table[context.start, first : first + width].tolist() for table in context.rotary)
    for head in rows_of(numbers(values, op.input), op.heads):
        half = len(head) // 2
        turned = [-n for n in head[half:]] + head[:half]
        products = [n * c + m * s for n, c, m, s in zip(head, cos, turned, sin, strict=True)]
        y += [scaled(n, ROTARY_BITS + op.input_fraction - op.fraction) for n in products]
    return like(messages(y, op.name, op.fraction), x.shape)


def _slice(op: IntegerSlice, values: Values, context: HostContext) -> Value:
    x = values[op.input]
    if isinstance(x, Codes):
        return Codes(x.q[:, :, op.start : op.stop], x.step, zero=x.zero)
    return x[:, :, op.start : op.stop]


def _gate(op: IntegerGate | IntegerGeluGate, values: Values, context: HostContext) -> Value:
    gates, ups = rows_of(numbers(values, op.input), 2)
    table = op.silu if isinstance(op, IntegerGate) else op.gelu
    finer = functions.gate_fraction(op.input_fraction)
    pairs = zip(gates, ups, strict=True)
    y = [scaled(_bent(table, n, op.input_fraction) * up, finer + op.input_fraction - op.fraction) for n, up in pairs]
    return like(messages(y, op.name, op.fraction), (1, 1, len(y)))


def _gelu(op: IntegerGelu, values: Values, context: HostContext) -> Value:
    finer = functions.gate_fraction(op.input_fraction)
    y = [scaled(_bent(op.gelu, n, op.input_fraction), finer - op.fraction) for n in numbers(values, op.input)]
    return like(messages(y, op.name, op.fraction), (1, 1, len(y)))


def _bent(table: Table, n: int, fraction: int) -> int:
    """SiLU or GELU of a number, in units of `gate_fraction`."""
    finer = functions.gate_fraction(fraction)
    less = look_up(table, scaled(abs(n), fraction - ARGUMENT_BITS))
    return scaled(max(n, 0), fraction - finer) - scaled(less, BOUNDED_BITS - finer)


def _soft_cap(op: IntegerSoftCap, values: Values, context: HostContext) -> Value:
    y = []
    for n in numbers(values, op.input):
        argument = min(scaled(abs(n) * op.inner_mantissa, op.inner_shift), functions.TANH_MOST)
        size = scaled(look_up(op.tanh, argument) * op.cap_mantissa, op.cap_shift)
        y.append(-size if n < 0 else size)
    return like(messages(y, op.name, op.fraction), (1, 1, len(y)))


def _relu(op: IntegerRelu, values: Values, context: HostContext) -> Value:
    return like([n if n > 0 else 0 for n in numbers(values, op.input)], tensor_in(values, op.input).shape)


def _add(op: IntegerAdd, values: Values, context: HostContext) -> Value:
    terms = zip(numbers(values, op.input), numbers(values, op.other), strict=True)
    y = [scaled(x, op.input_fraction - op.fraction) + scaled(z, op.other_fraction - op.fraction) for x, z in terms]
    return like(messages(y, op.name, op.fraction), (1, 1, len(y)))


def _sum(op: IntegerSum, values: Values, context: HostContext) -> Value:
    terms = zip(numbers(values, op.input), numbers(values, op.other), strict=True)
    return like([x + z for x, z in terms], tensor_in(values, op.input).shape)


def _encode(op: IntegerEncode, values: Values, context: HostContext) -> Value:
    x = tensor_in(values, op.input)
    count = x.shape[1] if op.rule.by_row else op.groups
    fine = [True] * x.numel() if op.rule.by_row else op.code.fine(x.numel()).tolist()
    rows = zip(rows_of(numbers(values, op.input), count), rows_of(fine, count), strict=True)
    found = [row_codes(op.rule, op.code, Row(row, op.fraction, channels, op.name)) for row, channels in rows]
    q = torch.tensor([n for row in found for n in row.q], dtype=torch.float32).view(x.shape)
    step = torch.tensor([float(row.step) for row in found], dtype=torch.float32).view(1, 1, -1)
    zero = [n for row in found for n in row.zero]
    return Codes(q, step, zero=torch.tensor(zero, dtype=torch.float32).view(1, 1, -1) if zero else None)


def _zero_points(op: IntegerZeroPoints, values: Values, context: HostContext) -> Value:
    zero = codes_in(values, op.codes).zero
    assert zero is not None
    v, points = numbers(values, op.input), [int(n) for n in zero.flatten().tolist()]
    sums = rows_of(op.rows.tolist(), len(points))
    y = [n - sum(z * row[i] for z, row in zip(points, sums, strict=True)) for i, n in enumerate(v)]
    return like(y, tensor_in(values, op.input).shape)


def _decode(op: IntegerDecode, values: Values, context: HostContext) -> Value:
    v, steps = numbers(values, op.input), in_units(codes_in(values, op.codes).step, op.step_fraction)
    products = [n * step for row, step in zip(rows_of(v, len(steps)), steps, strict=True) for n in row]
    largest = max(map(abs, products))
    if largest >= op.most:
        raise op.beyond(largest)
    if op.mantissa is None or op.shift is None:
        y = [scaled(n, op.step_fraction - op.fraction) for n in products]
    else:
        scales = zip(products, op.mantissa.tolist(), op.shift.tolist(), strict=True)
        y = [scaled(n * mantissa, shift) for n, mantissa, shift in scales]
    if op.bias is not None:
        y = [n + bias for n, bias in zip(y, op.bias.tolist(), strict=True)]
    return like(messages(y, op.name, op.fraction), tensor_in(values, op.input).shape)


def _softmax(op: IntegerSoftmax, values: Values, context: HostContext) -> Value:
    scores = tensor_in(values, op.input)
    heads = rows_of(numbers(values, op.input), op.heads)
    keys, value_steps = (
        rows_of(in_units(context.steps[name], fraction), op.kv_heads)
        for name, fraction in ((op.key, op.key_fraction), (op.value, op.value_fraction))
    )
    queries, y = in_units(codes_in(values, op.query).step, op.query_fraction), []
    for head, (v, query) in enumerate(zip(heads, queries, strict=True)):
        kept = head * op.kv_heads // op.heads
        u = [n * key for n, key in zip(v, keys[kept], strict=True)]
        if isinstance(op, IntegerCappedSoftmax):
            u, query = [_tanh(op, n, query) for n in u], 1
        weights = _weights(op, u, query)
        if op.window is not None:  # what it has left behind weighs nothing, and is not among those that are compared
            older = max(0, len(u) - op.window)
            weights = [0] * older + _weights(op, u[older:], query)
        total = sum(weights)
        octave = total.bit_length() - 1
        inverse = look_up(op.reciprocal, cut(total, octave - OCTAVE_BITS) - 2**OCTAVE_BITS)
        for weight, step in zip(weights, value_steps[kept], strict=True):
            share = scaled(weight * inverse, octave + VALUE_BITS - functions.SHARE_BITS)
            y.append(scaled(share * step, functions.SHARE_BITS + op.value_fraction - op.fraction))
    return like(messages(y, op.name, op.fraction), scores.shape)


def _tanh(op: IntegerCappedSoftmax, u: int, query: int) -> int:
    """tanh of a score divided by the cap, in units of 2^-22."""
    argument = _scores(abs(u), query * op.factor_mantissa, op.factor_shift, ARGUMENT_BITS)
    size = look_up(op.tanh, min(argument, functions.TANH_MOST))
    return -size if u < 0 else size


def _scores(size: int, product: int, shift: int, bits: int) -> int:
    """`size * product * 2^(bits - shift)`, where product keeps its 24 highest bits."""
    excess = product.bit_length() - functions.MANTISSA_BITS
    mantissa, right = scaled(product, excess), shift - excess - bits
    reach = min(max(right, 0), functions.MOST_RIGHT) + functions.SATURATED
    first = max(0, reach - functions.DISTANCE_BITS)
    return scaled(scaled(min(size, 2**reach), first) * mantissa, max(right, 0) - first)


def _weights(op: IntegerSoftmax, u: list[int], query: int) -> list[int]:
    """Exponentials of what u lies below the largest, in units of 2^-32."""
    mantissa, shift = op.factor_mantissa, op.factor_shift
    if isinstance(op, IntegerCappedSoftmax):
        mantissa, shift = op.cap_mantissa, op.cap_shift + functions.TANH_BITS
    weights = []
    for n in u:
        octaves, rest = divmod(_scores(max(u) - n, query * mantissa, shift, EXP2_BITS), 2**EXP2_BITS)
        weights.append(scaled(look_up(op.exp2, rest) << functions.WEIGHT_BITS - VALUE_BITS, octaves))
    return weights


_ANSWERS: dict[type[StageOp], Callable[[Any, Values, HostContext], Value]] = {
    IntegerNorm: _norm,
    IntegerRotary: _rotary,
    IntegerSlice: _slice,
    IntegerGate: _gate,
    IntegerGeluGate: _gate,
    IntegerGelu: _gelu,
    IntegerSoftCap: _soft_cap,
    IntegerRelu: _relu,
    IntegerAdd: _add,
    IntegerSum: _sum,
    IntegerEncode: _encode,
    IntegerZeroPoints: _zero_points,
    IntegerDecode: _decode,
    IntegerSoftmax: _softmax,
    IntegerCappedSoftmax: _softmax,
}
require_ops("the integer stage on Lava", _ANSWERS, INTEGER_OPS)
