"""Host operations: float32 arithmetic whose bits depend on nothing but the token they are computed for.

The spiking network is exact only if what happens between the spikes is repeatable. Library kernels are not: their sums change
with the batch, `exp` changes with the position of an element in a vector register, a GPU has its own of both. Here every
function is built from operations that IEEE 754 rounds correctly (+, -, *, /, sqrt, round), in a fixed order, and from sums that
are exact and therefore free of order:

    `exact_sum`   terms are rounded to multiples of 2^-36 first, so that a float64 sum of up to 2^16 of them has no error
    `exp32`       range reduction and a fixed polynomial instead of a library's exp

So a batch, a single token, one thread or eight, the CPU, a GPU and a process inside Lava compute the same bits.
Shapes: B rows, L tokens of each, W width, H heads, J cached positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.coding import Encoding
from kirin_lava.errors import FitError
from kirin_lava.graph import Add, Decode, Encode, Gate, HostOp, Norm, Rotary, Slice, Softmax, Sum

__all__ = ["Codes", "HostContext", "Value", "apply", "encode", "exact_sum", "exp32", "outlier_budget", "rotary_tables"]

QUANTUM = 2.0**-36
_ROUND = 1.5 * 2.0**52 * QUANTUM  # adding and subtracting it rounds a float64 to a multiple of QUANTUM
_LOG2E = 1.44269504088896341
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # the high part times an integer below 2^15 has no rounding error
_EXP_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_SMALLEST_STEP = 2.0**-120


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
        positions: (L,) int64 absolute positions of the tokens.
        rotary: cos and sin, each (max_positions, head_dim) float32, or None.
        steps: steps of cached codes by value name, (B, groups, J) float32, the tokens at hand included.
    """

    positions: Tensor
    rotary: tuple[Tensor, Tensor] | None = None
    steps: dict[str, Tensor] = field(default_factory=dict)

    def remember(self, name: str, step: Tensor) -> None:
        """Append the steps (B, L, groups) of newly cached codes."""
        new = step.transpose(1, 2)
        old = self.steps.get(name)
        self.steps[name] = new if old is None else torch.cat([old, new], dim=2)


def apply(op: HostOp, values: dict[str, Value], context: HostContext) -> Value:
    """Compute one host operation from named values. Where its input codes are cached, their steps must be remembered."""
    if isinstance(op, Decode):
        return _decode(op, _real(values, op.input), _codes(values, op.codes))
    if isinstance(op, Softmax):
        return _softmax(op, _real(values, op.input), _codes(values, op.query), context)
    if isinstance(op, Slice):
        sliced = values[op.input]
        if isinstance(sliced, Codes):
            return Codes(sliced.q[..., op.start : op.stop], sliced.step)
        return sliced[..., op.start : op.stop]
    x = _real(values, op.input)
    if isinstance(op, Sum):
        return x.double() + _real(values, op.other).double()
    if isinstance(op, Encode):
        return encode(op, x, context.positions)
    if isinstance(op, Norm):
        return _norm(op, x)
    if isinstance(op, Rotary):
        return _rotate(op, x, context)
    if isinstance(op, Add):
        return x + _real(values, op.other)
    if isinstance(op, Gate):
        half = x.shape[-1] // 2
        gate, up = x[..., :half], x[..., half:]
        return gate / (exp32(-gate).add_(1.0)) * up
    raise TypeError(f"{type(op).__name__} is not a host operation")


def exact_sum(x: Tensor) -> Tensor:
    """Sum over the last axis of float64 terms in [-1, 1], rounded to multiples of 2^-36; exact for up to 2^16 terms."""
    return ((x + _ROUND) - _ROUND).sum(-1, keepdim=True)


def exp32(x: Tensor) -> Tensor:
    """`exp(x)` in float32 within 2 units in the last place, x clamped to [-87, 88]; the same bits on every device."""
    x = x.clamp(-87.0, 88.0)
    n = (x * _LOG2E).round_()
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    p = r * _EXP_POLYNOMIAL[0]
    for coefficient in _EXP_POLYNOMIAL[1:]:
        p = p.add_(coefficient).mul_(r)
    p = p.mul_(r).add_(r).add_(1.0)
    # 2^n by its bit pattern; n = 128 cannot come up below 88, n = -126 is the smallest normal exponent
    return p.mul_(((n.to(torch.int32) + 127) << 23).view(torch.float32))


def rotary_tables(frequencies: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """cos and sin of position times frequency, (positions, 2 * len(frequencies)) float32, computed in float64 on the CPU."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies.double().cpu())
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().float(), angles.sin().float()


def outlier_budget(ratio: float, width: int) -> int:
    """How many elements of a row may be outliers: `max(1, floor(ratio * width))`, 0 for ratio 0."""
    return max(1, math.floor(ratio * width)) if ratio > 0 else 0


def encode(op: Encode, x: Tensor, positions: Tensor) -> Codes:
    """real -> codes, see `graph.Encode`. x: (B, L, W), or (B, H, L, J) where `op.causal`."""
    if op.causal:
        return _encode_causal(op, x, positions)
    if op.static_step is not None:
        step = torch.full((*x.shape[:-1], 1), op.static_step, dtype=torch.float32, device=x.device)
        q = (x / step).round_()
        _check_finite(op, q)
        inside = q.clamp(op.encoding.code_min, op.encoding.code_max)
        return Codes(inside, step, int((inside != q).sum()))
    grouped = x.unflatten(-1, (op.groups, -1)) if op.groups > 1 else x.unsqueeze(-2)
    magnitude = grouped.abs()
    largest = magnitude.amax(-1)
    _check_finite(op, largest)
    width = grouped.shape[-1]
    spike_limit = None
    if op.encoding.has_spikes:
        if op.channels is not None:
            normal = torch.from_numpy(~op.channels).to(x.device).view(op.groups, width)
            spike_limit = (magnitude * normal).amax(-1)
        else:
            budget = outlier_budget(op.ratio, width)
            if budget < width:  # else nothing has to be a spike
                spike_limit = magnitude.kthvalue(width - budget, -1).values if budget else largest
    step = _step(op.encoding, spike_limit, largest)
    q = (grouped / step.unsqueeze(-1)).round_().clamp_(op.encoding.code_min, op.encoding.code_max)
    return Codes(q.flatten(-2), step)


def _encode_causal(op: Encode, x: Tensor, positions: Tensor) -> Codes:
    """Rows of attention probabilities (B, H, L, J), zero beyond the token's own position; the budget grows with the row."""
    columns = x.shape[-1]
    budgets = torch.tensor([outlier_budget(op.ratio, int(p) + 1) for p in positions], device=x.device)
    most = int(budgets.max())
    top = x.topk(min(most + 1, columns), dim=-1).values
    if top.shape[-1] <= most:  # fewer positions than the budget: nothing has to be a spike
        top = torch.nn.functional.pad(top, (0, most + 1 - top.shape[-1]))
    spike_limit = top.gather(-1, budgets.view(-1, 1).expand(*top.shape[:-1], 1)).squeeze(-1)
    largest = top[..., 0]
    _check_finite(op, largest)
    if op.groups == 1:  # one step for all heads, so that it can ride to the output
        spike_limit, largest = spike_limit.amax(1, keepdim=True), largest.amax(1, keepdim=True)
    step = _step(op.encoding, spike_limit, largest)
    q = (x / step.unsqueeze(-1)).round_().clamp_(op.encoding.code_min, op.encoding.code_max)
    return Codes(q, step.transpose(1, 2))


def _step(enc: Encoding, spike_limit: Tensor | None, largest: Tensor) -> Tensor:
    """Smallest step that keeps `spike_limit` a spike and `largest` inside the codes; multiplied, because a GPU divides by
    a constant in another way than a CPU."""
    step = largest * (1.0 / (enc.code_max + 0.49))
    if spike_limit is not None:
        step = torch.maximum(step, spike_limit * (1.0 / (enc.spike_max + 0.499)))
    return torch.where(largest > 0, step.clamp_min(_SMALLEST_STEP), 1.0)


def _decode(op: Decode, v: Tensor, codes: Codes) -> Tensor:
    v = v.to(torch.float32)
    groups = codes.step.shape[-1]
    if groups > 1:
        y = (v.unflatten(-1, (groups, -1)) * codes.step.unsqueeze(-1)).flatten(-2)
    else:
        y = v * codes.step
    if op.scale is not None:
        y *= _constant(op.scale, v.device)
    if op.bias is not None:
        y += _constant(op.bias, v.device)
    return y


def _softmax(op: Softmax, v: Tensor, query: Codes, context: HostContext) -> Tensor:
    """v: (B, H, L, J) sums -> (B, H, L, J) probabilities times the step of the value they will meet."""
    columns = v.shape[-1]
    repeat = op.heads // op.kv_heads
    key = (context.steps[op.key][..., :columns] * op.factor).repeat_interleave(repeat, 1).unsqueeze(2)
    value = context.steps[op.value][..., :columns].repeat_interleave(repeat, 1).unsqueeze(2)
    visible = torch.arange(columns, device=v.device) <= context.positions.view(-1, 1)
    scores = (v.to(torch.float32) * query.step.transpose(1, 2).unsqueeze(-1)).mul_(key)
    scores.masked_fill_(~visible, -torch.inf)
    weights = exp32(scores - scores.amax(-1, keepdim=True)).mul_(visible)
    total = exact_sum(weights.double()).float()
    return weights.div_(total).mul_(value)


def _norm(op: Norm, x: Tensor) -> Tensor:
    grouped = x.unflatten(-1, (op.groups, -1)) if op.groups > 1 else x
    largest = grouped.abs().amax(-1, keepdim=True)
    exponent = torch.frexp(largest).exponent.to(torch.int64)
    down, up = _power_of_two(-exponent), _power_of_two(exponent)
    y = grouped.double() * down  # in [-1, 1], exactly
    width = y.shape[-1]
    if op.center:
        y = y - exact_sum(y) / width
        deviation = ((exact_sum((y * y) * 0.25) / width) * 4.0).mul_(up * up).add_(op.eps).sqrt_()
        normed = (y * (up / deviation)).float()
    else:
        deviation = (exact_sum(y * y) / width).mul_(up * up).add_(op.eps).sqrt_()
        normed = grouped * (1.0 / deviation).float()
    normed = normed * _constant(op.weight, x.device)
    if op.bias is not None:
        normed += _constant(op.bias, x.device)
    return normed.flatten(-2) if op.groups > 1 else normed


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent + 1023) << 52).view(torch.float64)


def _rotate(op: Rotary, x: Tensor, context: HostContext) -> Tensor:
    if context.rotary is None:
        raise TypeError(f"{op.name}: no rotary tables")
    cos, sin = (table[context.positions].unsqueeze(1) for table in context.rotary)
    heads = x.unflatten(-1, (op.heads, -1))
    half = heads.shape[-1] // 2
    low, high = heads[..., :half], heads[..., half:]
    turned = torch.cat([low * cos[..., :half] - high * sin[..., :half], high * cos[..., half:] + low * sin[..., half:]], dim=-1)
    return turned.flatten(-2)


def _constant(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)


def _check_finite(op: Encode, largest: Tensor) -> None:
    if not bool(torch.isfinite(largest).all()):
        raise FitError(f"{op.name}: an activation is NaN or infinite; the checkpoint or the input is broken")


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
