"""Host operations: float32 arithmetic whose bits depend on nothing but the token they are computed for.

The spiking network is exact only if what happens between the spikes is repeatable. Library kernels are not: their sums change
with the batch, `exp` changes with the position of an element in a vector register, a GPU has its own of both. Here every
function is built from the arithmetic of `kirin_lava.exact`: operations that IEEE 754 rounds correctly, in a fixed order, and
sums that have no error and therefore no order.

So a batch, a single token, one thread or eight, the CPU, a GPU and a process inside Lava compute the same bits.
Shapes: B rows, L tokens of each, W width, H heads, J cached positions. All operations take the tokens row by row: a caller may
split them as it likes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.coding import Encoding
from kirin_lava.errors import FitError
from kirin_lava.exact import EXP2_COARSE, exact_sum, exp2, rank_bound
from kirin_lava.graph import Add, Decode, Encode, Gate, HostOp, Norm, Rotary, Slice, Softmax, Sum

__all__ = ["Codes", "Constants", "HostContext", "Value", "apply", "encode", "outlier_budget", "rotary_tables", "visible"]

Array = npt.NDArray[Any]
Constants = dict[int, tuple[Array, Tensor]]

_LOG2E = 1.44269504088896341
_SMALLEST_STEP = 2.0**-120
_DIGITS, _DIGITS_CAUSAL = 6, 3
"""Binary digits, behind the first, of the largest magnitude that must be a spike: it is rounded up to them."""


@dataclass
class Codes:
    """Integer codes with their steps.

    Attributes:
        q: (B, L, W) codes in float32, or (B, H, L, J) for attention probabilities.
        step: (B, L, groups) float32.
        clipped: how many codes a static step had to clip.
    """

    q: Tensor
    step: Tensor
    clipped: int = 0


Value = Tensor | Codes


@dataclass
class HostContext:
    """What host operations know beside their inputs.

    Attributes:
        positions: (L,) int64 absolute positions of the tokens, consecutive.
        rotary: cos and sin, each (max_positions, head_dim) float32, or None.
        steps: steps of cached codes by value name, (B, groups, J) float32, the tokens at hand included.
        constants: arrays of operations as tensors, by identity; a caller that keeps it saves their conversion.
    """

    positions: Tensor
    rotary: tuple[Tensor, Tensor] | None = None
    steps: dict[str, Tensor] = field(default_factory=dict)
    constants: Constants = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start = int(self.positions[0])
        self.stop = self.start + len(self.positions)

    def constant(self, array: Array, device: torch.device) -> Tensor:
        """An array of an operation as a tensor."""
        if id(array) not in self.constants:
            self.constants[id(array)] = array, torch.from_numpy(array).to(device)
        return self.constants[id(array)][1]

    @cached_property
    def turn(self) -> tuple[Tensor, Tensor, Tensor]:
        """cos (L, 1, head_dim) and both halves of sin (L, 1, head_dim / 2) at the tokens' positions."""
        if self.rotary is None:
            raise TypeError("a rotary embedding without rotary tables")
        cos, sin = (table[self.start : self.stop].unsqueeze(1) for table in self.rotary)
        half = cos.shape[-1] // 2
        return cos, sin[..., :half], sin[..., half:]

    def remember(self, name: str, step: Tensor) -> None:
        """Append the steps (B, L, groups) of newly cached codes."""
        new = step.transpose(1, 2)
        old = self.steps.get(name)
        self.steps[name] = new if old is None else torch.cat([old, new], dim=2)


def apply(op: HostOp, values: dict[str, Value], context: HostContext) -> Value:
    """Compute one host operation from named values. Where its input codes are cached, their steps must be remembered."""
    x = values[op.input]
    if isinstance(op, Slice):
        if isinstance(x, Codes):
            return Codes(x.q[..., op.start : op.stop], x.step)
        return x[..., op.start : op.stop]
    if isinstance(x, Codes):
        raise TypeError(f"{op.input} holds codes where {op.name} needs a real value or sums")
    if isinstance(op, Encode):
        return encode(op, x, context.positions)
    if isinstance(op, Decode):
        return _decode(op, x, _codes(values, op.codes).step, context)
    if isinstance(op, Softmax):
        return _softmax(op, x, _codes(values, op.query).step, context)
    if isinstance(op, Norm):
        return _norm(op, x, context)
    if isinstance(op, Rotary):
        return _rotate(op, x, context)
    if isinstance(op, Gate):
        return _gate(x)
    if isinstance(op, Add):
        return x + _real(values, op.other)
    if isinstance(op, Sum):
        return x.double() + _real(values, op.other).double()
    raise TypeError(f"{type(op).__name__} is not a host operation")


def outlier_budget(ratio: float, width: int) -> int:
    """How many elements of a row may be outliers: `max(1, floor(ratio * width))`, 0 for ratio 0."""
    return max(1, math.floor(ratio * width)) if ratio > 0 else 0


def rotary_tables(frequencies: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """cos and sin of position times frequency, (positions, 2 * len(frequencies)) float32, computed in float64 on the CPU."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies.double().cpu())
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().float(), angles.sin().float()


def encode(op: Encode, x: Tensor, positions: Tensor) -> Codes:
    """real -> codes, see `graph.Encode`. x: (B, L, W), or (B, H, L, J) where `op.causal`, at consecutive positions (L,)."""
    if op.causal:
        return _encode_causal(op, x, int(positions[0]))
    if op.static_step is not None:
        return _encode_static(op, x, op.static_step)
    grouped = x.unflatten(-1, (op.groups, -1)) if op.groups > 1 else x
    magnitude = grouped.abs()
    largest = magnitude.amax(-1, keepdim=True)
    _check_finite(op, largest)
    limit = None
    if op.encoding.has_spikes:
        width = grouped.shape[-1]
        budget = outlier_budget(op.ratio, width)
        if op.channels is not None:
            normal = torch.from_numpy(~op.channels).to(x.device).view(op.groups, width)
            limit = (magnitude * (normal if op.groups > 1 else normal[0])).amax(-1, keepdim=True)
        elif budget == 0:
            limit = largest
        elif budget < width:  # else nothing has to be a spike
            limit = rank_bound(magnitude, largest, budget, _steps_of(op.encoding).depth, _DIGITS)
    step = _step(op.encoding, limit, largest)
    q = (grouped / step).round_()
    return Codes(q.flatten(-2), step.squeeze(-1)) if op.groups > 1 else Codes(q, step)


def _encode_static(op: Encode, x: Tensor, static_step: float) -> Codes:
    step = torch.full((*x.shape[:-1], 1), static_step, dtype=torch.float32, device=x.device)
    q = (x / step).round_()
    _check_finite(op, q.abs())
    inside = q.clamp(op.encoding.code_min, op.encoding.code_max)
    return Codes(inside, step, int((inside != q).sum()))


def _encode_causal(op: Encode, x: Tensor, start: int) -> Codes:
    """Rows of attention probabilities (B, H, L, J), zero beyond the token's own position; the budget grows with the row."""
    length = x.shape[2]
    largest = x.amax(-1, keepdim=True)
    _check_finite(op, largest)
    if op.ratio == 0:
        limit = largest
    else:
        single = length == 1
        budget = outlier_budget(op.ratio, start + 1) if single else _budgets(op.ratio, start, start + length, x.device)
        limit = rank_bound(x, largest, budget, _steps_of(op.encoding).depth, _DIGITS_CAUSAL)
    if op.groups == 1:  # one step for all heads, so that it can ride to the output
        limit, largest = limit.amax(1, keepdim=True), largest.amax(1, keepdim=True)
    step = _step(op.encoding, limit, largest)
    return Codes((x / step).round_(), step.squeeze(-1).transpose(1, 2))


def _budgets(ratio: float, start: int, stop: int, device: torch.device) -> Tensor:
    """Budgets (L, 1) of rows at the positions from start to stop."""
    return _budget_table(ratio, 1 << stop.bit_length(), device)[start:stop]


@lru_cache(maxsize=32)
def _budget_table(ratio: float, positions: int, device: torch.device) -> Tensor:
    return torch.tensor([[outlier_budget(ratio, p + 1)] for p in range(positions)], dtype=torch.float32, device=device)


class _Steps(NamedTuple):
    """What turns magnitudes into steps: factors of the largest and of the largest that must be a spike, and their ratio."""

    of_largest: Tensor
    of_limit: Tensor
    depth: float


@cache
def _steps_of(enc: Encoding) -> _Steps:
    code, spike = enc.code_max + 0.49, enc.spike_max + 0.499
    return _Steps(torch.tensor(1.0 / code), torch.tensor(1.0 / spike), spike / code)


def _step(enc: Encoding, limit: Tensor | None, largest: Tensor) -> Tensor:
    """Smallest step that keeps `limit` a spike and `largest` inside the codes; multiplied, because a GPU divides by a
    constant in another way than a CPU."""
    factors = _steps_of(enc)
    step = largest * factors.of_largest
    if limit is not None:
        step = torch.maximum(step, limit * factors.of_limit)
    return step.clamp_min_(_SMALLEST_STEP)


def _check_finite(op: Encode, magnitude: Tensor) -> None:
    if not math.isfinite(float(magnitude.max())):
        raise FitError(f"{op.name}: an activation is NaN or infinite; the checkpoint or the input is broken")


def _decode(op: Decode, v: Tensor, step: Tensor, context: HostContext) -> Tensor:
    v = v.to(torch.float32)
    groups = step.shape[-1]
    y = v * step if groups == 1 else (v.unflatten(-1, (groups, -1)) * step.unsqueeze(-1)).flatten(-2)
    if op.scale is not None:
        y.mul_(context.constant(op.scale, v.device))
    if op.bias is not None:
        y.add_(context.constant(op.bias, v.device))
    return y


# Softmax weights lie below 1. They are summed as integers, in units of 2^-20, which adding 12 leaves in the low bits.
_UNIT = torch.tensor(2.0**-20)
_UNITS, _UNITS_BITS = torch.tensor(1.5 * 2.0**3), 0x41400000
_MOST_INT32 = 2048  # positions whose units surely fit 32 bits


def _softmax(op: Softmax, v: Tensor, query_step: Tensor, context: HostContext) -> Tensor:
    """v: (B, H, L, J) sums -> (B, H, L, J) probabilities times the step of the value they will meet."""
    batch, heads, length, columns = v.shape
    key = (context.steps[op.key][..., :columns] * (op.factor * _LOG2E)).view(batch, op.kv_heads, 1, 1, columns)
    value = context.steps[op.value][..., :columns].unflatten(2, (1, 1, columns))
    x = v.to(torch.float32).reshape(batch, op.kv_heads, -1, length, columns) * key
    x.mul_(query_step.transpose(1, 2).reshape(batch, op.kv_heads, -1, length, 1))
    later = x[..., context.start :]  # the columns of these tokens, and whatever follows
    masked = length > 1 or later.shape[-1] > 1
    if masked:
        later.add_(_hidden(length, later.shape[-1], v.device))
    weights = exp2(x.sub_(x.amax(-1, keepdim=True)), EXP2_COARSE)
    if masked:
        weights[..., context.start :].mul_(visible(length, later.shape[-1], v.device))
    weights.mul_(_sum_of_units(weights).mul_(_UNIT).reciprocal_()).mul_(value)
    return weights.view(batch, heads, length, columns)


def _sum_of_units(weights: Tensor) -> Tensor:
    """Sums (..., 1) over the last axis of float32 weights in [0, 1), each rounded to a multiple of 2^-20, in that unit."""
    columns = weights.shape[-1]
    units = (weights + _UNITS).view(torch.int32)
    if columns > _MOST_INT32:
        return (units.sum(-1, keepdim=True) - columns * _UNITS_BITS).to(torch.float32)
    # 32-bit sums wrap around, and so does what the constant adds to them
    constant = (columns * _UNITS_BITS + 2**31) % 2**32 - 2**31
    return (units.sum(-1, keepdim=True, dtype=torch.int32) - constant).to(torch.float32)


@lru_cache(maxsize=16)
def visible(length: int, columns: int, device: torch.device) -> Tensor:
    """(L, columns) float32, 1 where token i sees column j <= i, else 0."""
    return torch.ones(length, columns, device=device).tril_()


@lru_cache(maxsize=16)
def _hidden(length: int, columns: int, device: torch.device) -> Tensor:
    """(L, columns) float32, -inf where token i does not see column j > i, else 0."""
    return torch.full((length, columns), -torch.inf, device=device).triu_(1)


_EXPONENT = torch.tensor(0x7F800000, dtype=torch.int32)


def _norm(op: Norm, x: Tensor, context: HostContext) -> Tensor:
    grouped = x.unflatten(-1, (op.groups, -1)) if op.groups > 1 else x
    # divided by the power of two below the largest, the elements lie in [-2, 2] and lose nothing
    largest = grouped.abs().amax(-1, keepdim=True)
    unit = largest.view(torch.int32).bitwise_and(_EXPONENT).view(torch.float32).clamp_min_(2.0**-100).reciprocal_()
    y = (grouped * unit).double()
    average = 1.0 / y.shape[-1]
    if op.center:
        y.sub_(exact_sum(y).mul_(average))
    deviation = unit.double().square_().mul_(op.eps).add_(exact_sum(y.square()).mul_(average)).sqrt_()
    normed = y.mul_(deviation.reciprocal_()).float().mul_(context.constant(op.weight, x.device))
    if op.bias is not None:
        normed.add_(context.constant(op.bias, x.device))
    return normed.flatten(-2) if op.groups > 1 else normed


def _rotate(op: Rotary, x: Tensor, context: HostContext) -> Tensor:
    cos, sin_low, sin_high = context.turn
    heads = x.unflatten(-1, (op.heads, -1))
    half = heads.shape[-1] // 2
    low, high = heads[..., :half], heads[..., half:]
    turned = heads * cos
    turned[..., :half].sub_(high * sin_low)
    turned[..., half:].add_(low * sin_high)
    return turned.flatten(-2)


_MINUS_LOG2E, _ONE = torch.tensor(-_LOG2E), torch.tensor(1.0)


def _gate(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    gate, up = x[..., :half], x[..., half:]
    return torch.div(gate, exp2(gate * _MINUS_LOG2E).add_(_ONE)).mul_(up)


def _real(values: dict[str, Value], name: str) -> Tensor:
    value = values[name]
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} holds codes where a real value or sums are needed")
    return value


def _codes(values: dict[str, Value], name: str) -> Codes:
    value = values[name]
    if not isinstance(value, Codes):
        raise TypeError(f"{name} holds no codes")
    return value
