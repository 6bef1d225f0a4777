"""Host operations: float32 arithmetic whose bits depend on nothing but the token they are computed for.

The spiking network is exact only if what happens between the spikes is repeatable. Library kernels are not: their sums change
with the batch, `exp` changes with the position of an element in a vector register, a GPU has its own of both. Here every
function is built from the arithmetic of `kirin_lava.base.exact`: operations that IEEE 754 rounds correctly, in a fixed
order, and
sums that have no error and therefore no order.

So a batch, a single token, one thread or eight, the CPU, a GPU and a process inside Lava compute the same bits.
Shapes: B rows, L tokens of each, W width, H heads, J cached positions. All operations take the tokens row by row: a caller may
split them as it likes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.exact import EXACT_SUM_LIMIT, EXP2_COARSE, exact_sum, exp2
from kirin_lava.graph.encode import Codes, encode_at, outlier_budget
from kirin_lava.graph.ops import Add, Decode, Encode, Gate, HostOp, Norm, Rotary, Slice, Softmax, Sum

__all__ = ["Codes", "Constants", "HostContext", "Value", "apply", "encode", "outlier_budget", "rotary_tables", "visible"]

Array = npt.NDArray[Any]
Constants = dict[int, tuple[Array, Tensor]]

_LOG2E = 1.44269504088896341


Value = Tensor | Codes


@dataclass
class HostContext:
    """What host operations know beside their inputs.

    Attributes:
        positions: (L,) int64 absolute positions of the tokens, consecutive.
        rotary: cos and sin, each (max_positions, head_dim) float32, or None.
        steps: steps of cached codes by value name, (B, groups, J) float32, the tokens at hand included.
        constants: arrays of operations as tensors, by identity; a caller that keeps it saves their conversion.
        check: whether to look for NaN and infinity in whatever is encoded. They turn into steps that are not finite, and reach
            the end of a block: a caller that looks there can do without.
    """

    positions: Tensor
    rotary: tuple[Tensor, Tensor] | None = None
    steps: dict[str, Tensor] = field(default_factory=dict)
    constants: Constants = field(default_factory=dict)
    check: bool = True

    def __post_init__(self) -> None:
        self.start = int(self.positions[0])
        self.stop = self.start + len(self.positions)

    def constant(self, array: Array, device: torch.device) -> Tensor:
        """An array of an operation as a tensor."""
        if id(array) not in self.constants:
            self.constants[id(array)] = array, torch.from_numpy(array).to(device)
        return self.constants[id(array)][1]

    @cached_property
    def turn(self) -> tuple[Tensor, Tensor]:
        """cos and sin at the tokens' positions, (L, 1, head_dim); the first half of sin is negative."""
        if self.rotary is None:
            raise TypeError("a rotary embedding without rotary tables")
        cos, sin = (table[self.start : self.stop].unsqueeze(1) for table in self.rotary)
        low, high = sin.chunk(2, -1)
        return cos, torch.cat([-low, high], -1)

    def remember(self, name: str, step: Tensor) -> None:
        """Append the steps (B, L, groups) of newly cached codes."""
        new = step.transpose(1, 2)
        old = self.steps.get(name)
        self.steps[name] = new if old is None else torch.cat([old, new], dim=2)


def apply(op: HostOp, values: dict[str, Value], context: HostContext) -> Value:
    """Compute one host operation from named values. Where its input codes are cached, their steps must be remembered."""
    x = values[op.input]
    if isinstance(x, Codes):
        if isinstance(op, Slice):
            return Codes(x.q[..., op.start : op.stop], x.step)
        raise TypeError(f"{op.input} holds codes where {op.name} needs a real value or sums")
    if isinstance(op, Encode):
        return encode_at(op, x, context.start, context.check)
    if isinstance(op, Decode):
        return _decode(op, x, _codes(values, op.codes).step, context)
    if isinstance(op, Slice):
        return x[..., op.start : op.stop]
    if isinstance(op, Rotary):
        return _rotate(op, x, context)
    if isinstance(op, Norm):
        return _norm(op, x, context)
    if isinstance(op, Add):
        return x + _real(values, op.other)
    if isinstance(op, Softmax):
        return _softmax(op, x, _codes(values, op.query).step, context)
    if isinstance(op, Gate):
        return _gate(x)
    if isinstance(op, Sum):
        return x.double() + _real(values, op.other).double()
    raise TypeError(f"{type(op).__name__} is not a host operation")


def rotary_tables(frequencies: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """cos and sin of position times frequency, (positions, 2 * len(frequencies)) float32, computed in float64 on the CPU."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies.double().cpu())
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().float(), angles.sin().float()


def encode(op: Encode, x: Tensor, positions: Tensor) -> Codes:
    """real -> codes, see `graph.Encode`. x: (B, L, W), or (B, H, L, J) where `op.causal`, at consecutive positions (L,)."""
    return encode_at(op, x, int(positions[0]), check=True)


def _decode(op: Decode, v: Tensor, step: Tensor, context: HostContext) -> Tensor:
    v = v.to(torch.float32)
    groups = step.shape[-1]
    y = v * step if groups == 1 else (v.view(*v.shape[:-1], groups, -1) * step.unsqueeze(-1)).view(v.shape)
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
    by_head = (batch, op.kv_heads, -1, length, columns)
    key, value = (context.steps[name][..., :columns].view(batch, op.kv_heads, 1, 1, columns) for name in (op.key, op.value))
    x = v.to(torch.float32).reshape(by_head) * (key * (op.factor * _LOG2E))
    x.mul_(query_step.view(batch, length, op.kv_heads, -1, 1).permute(0, 2, 3, 1, 4))
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


def _norm(op: Norm, x: Tensor, context: HostContext) -> Tensor:
    y = (x if op.groups == 1 else x.view(*x.shape[:-1], op.groups, -1)).double()
    average = 1.0 / y.shape[-1]
    eps: float | Tensor = op.eps
    squares = exact_sum(y.square())
    if float(squares.max()) >= EXACT_SUM_LIMIT:  # rows that are too large are divided by a power of two
        exponent = torch.frexp(y.abs().amax(-1, keepdim=True)).exponent.to(torch.int64)
        down = torch.where(squares < EXACT_SUM_LIMIT, 1.0, ((1023 - exponent) << 52).view(torch.float64))
        y, eps = y.mul_(down), down.square().mul_(op.eps)
        squares = exact_sum(y.square())
    variance = squares.mul_(average)
    if op.center:
        mean = exact_sum(y).mul_(average)
        variance.sub_(mean.square())
        y.sub_(mean)
    y = y.mul_(variance.add_(eps).sqrt_().reciprocal_()).float().mul_(context.constant(op.weight, x.device))
    if op.bias is not None:
        y.add_(context.constant(op.bias, x.device))
    return y.view(x.shape)


def _rotate(op: Rotary, x: Tensor, context: HostContext) -> Tensor:
    cos, sin = context.turn
    heads = x.view(*x.shape[:-1], op.heads, -1)
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return (heads * cos).add_(swapped.mul_(sin)).view(x.shape)


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
