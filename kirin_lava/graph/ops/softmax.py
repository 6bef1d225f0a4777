"""The softmax between the two products of attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, lru_cache

import torch
from torch import Tensor

from kirin_lava.base.arrays import Numbers, amax, float32, int_bits, light, like, tensor, total
from kirin_lava.base.exact import EXP2_COARSE, exp2
from kirin_lava.graph.ops.activations import CAP_OPERATIONS, capped
from kirin_lava.graph.ops.op import EXP_OPERATIONS, HostOp
from kirin_lava.graph.port import CODES, REAL, SUMS, Inputs, Port
from kirin_lava.graph.values import HostContext, Value, Values, codes_in, tensor_in
from kirin_lava.spikes.steps import LEFT_OUT

__all__ = ["Softmax", "visible", "within"]

_LOG2E = 1.44269504088896341
# Softmax weights lie below 1. They are summed as integers, in units of 2^-20, which adding 12 leaves in the low bits.
_UNIT = 2.0**-20
_UNITS, _UNITS_BITS = 1.5 * 2.0**3, 0x41400000
_MOST_INT32 = 2048  # positions whose units surely fit 32 bits


@dataclass(frozen=True, eq=False)
class Softmax(HostOp):
    """Softmax over scores, with the value scale folded in.

    `P[h, j] = softmax_j(v[h, j] * step_q[h] * step_k[j, h'] * factor) * step_v[j, h']` for j up to the token's own
    position, 0 beyond, or for all j where the block is not causal; h' = h * kv_heads // heads. The result is a real value with
    an element per head and position.

    Attributes:
        window: the last positions that a token sees, its own included; what is older has a probability of 0.
        cap: the argument of the softmax is `cap * tanh(score / cap)`; None for the score itself.
    """

    name: str
    input: str
    query: str
    key: str
    value: str
    output: str
    heads: int
    kv_heads: int
    factor: float
    cap: float | None = field(default=None, metadata=LEFT_OUT)
    window: int | None = field(default=None, metadata=LEFT_OUT)

    def port(self, inputs: Inputs) -> Port:
        """Real, by head and position."""
        inputs.heads(self.heads, self.kv_heads)
        inputs.same("heads", inputs.read(self.input, SUMS, by_position=True).width, self.heads)
        inputs.same("steps of the query", inputs.read(self.query, CODES).groups, self.heads)
        for name in (self.key, self.value):
            inputs.same(f"steps of {name}", inputs.cached(name).groups, self.kv_heads)
        inputs.positive("factor", self.factor)
        if self.cap is not None:
            inputs.positive("cap", self.cap)
        inputs.window(self.input, self.window)
        return Port(REAL, self.heads, by_position=True, window=self.window)

    def reads(self) -> dict[str, str]:
        """Scores, and steps of codes."""
        return {self.input: "all", **dict.fromkeys((self.query, self.key, self.value), "steps")}

    def compute(self, values: Values, context: HostContext) -> Value:
        """(B, H, L, J) sums -> (B, H, L, J) probabilities times the step of the value they will meet. Steps of keys and values
        must be remembered by the context."""
        v, query_step = tensor_in(values, self.input), codes_in(values, self.query).step
        batch, heads, length, columns = v.shape
        by_head = (batch, self.kv_heads, -1, length, columns)
        scores = float32(light(v)).reshape(by_head)
        key, value = (
            like(context.steps[name][..., :columns].view(batch, self.kv_heads, 1, 1, columns), scores)
            for name in (self.key, self.value)
        )
        x = scores * (key * _float32(self.factor * (_LOG2E if self.cap is None else 1.0)))
        x *= like(query_step.view(batch, length, self.kv_heads, -1, 1).permute(0, 2, 3, 1, 4), x)
        if self.cap is not None:
            x = capped(x, self.cap)
            x *= _float32(_LOG2E)
        later = x[..., context.start :]  # the columns of these tokens, and whatever follows
        masked = context.causal and later.shape[-1] > 1
        if masked:
            later += like(_hidden(length, later.shape[-1], v.device), x)
        seen_of_window = None
        if self.window is not None and context.start + length > self.window:
            seen_of_window = within(context.start, length, columns, self.window, v.device)
            x += like(_older(context.start, length, columns, self.window, v.device), x)
        x -= amax(x)
        weights = exp2(x, EXP2_COARSE)
        if seen_of_window is not None:
            weights *= like(seen_of_window, x)
        if masked:
            seen = weights[..., context.start :]
            seen *= like(visible(length, later.shape[-1], v.device), x)
        units = _sum_of_units(weights)
        units *= _UNIT
        weights *= 1.0 / units
        weights *= value
        return tensor(weights).view(batch, heads, length, columns)

    def operations(self) -> int:
        """Two steps, maximum, subtract, exp, sum, divide, step of the value; a cap."""
        return EXP_OPERATIONS + 7 + (0 if self.cap is None else CAP_OPERATIONS + 1)


def _sum_of_units(weights: Numbers) -> Numbers:
    """Sums (..., 1) over the last axis of float32 weights in [0, 1), each rounded to a multiple of 2^-20, in that unit."""
    columns = weights.shape[-1]
    units = int_bits(weights + _UNITS)
    if columns > _MOST_INT32:
        return float32(total(units) - columns * _UNITS_BITS)
    # 32-bit sums wrap around, and so does what the constant adds to them
    constant = (columns * _UNITS_BITS + 2**31) % 2**32 - 2**31
    return float32(total(units, integers=True) - constant)


@cache
def _float32(x: float) -> float:
    """The nearest float32 number."""
    return torch.tensor(x, dtype=torch.float32).item()


@lru_cache(maxsize=16)
def visible(length: int, columns: int, device: torch.device) -> Tensor:
    """(L, columns) float32, 1 where token i sees column j <= i, else 0."""
    return torch.ones(length, columns, device=device).tril_()


@lru_cache(maxsize=16)
def within(start: int, length: int, columns: int, window: int, device: torch.device) -> Tensor:
    """(L, columns) float32, 1 where the token at position start + i sees column j of its window, else 0."""
    own = torch.arange(start, start + length, device=device).unsqueeze(1)
    column = torch.arange(columns, device=device)
    return ((column <= own) & (column > own - window)).float()


@lru_cache(maxsize=16)
def _older(start: int, length: int, columns: int, window: int, device: torch.device) -> Tensor:
    """(L, columns) float32, -inf where the window of the token at position start + i has left column j behind, else 0."""
    own = torch.arange(start, start + length, device=device).unsqueeze(1)
    left = torch.arange(columns, device=device) <= own - window
    return torch.zeros(length, columns, device=device).masked_fill_(left, -torch.inf)


@lru_cache(maxsize=16)
def _hidden(length: int, columns: int, device: torch.device) -> Tensor:
    """(L, columns) float32, -inf where token i does not see column j > i, else 0."""
    return torch.full((length, columns), -torch.inf, device=device).triu_(1)
