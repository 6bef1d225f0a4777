"""The float twin: a decoder layer in float32, differentiable, run from the same operations that are lowered to spikes.

It is what conversion starts from: calibration watches its activations, recovery trains against it, and agreement with
transformers on the same text shows that the front end reads a checkpoint right.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kirin_lava.graph.ops import Add, Gate, Norm, Rotary, Slice
from kirin_lava.models.layout import Attention, Dense, FloatBlock, FloatEmbedding, FloatOp, Relu

__all__ = ["FLOAT", "Arithmetic", "embed", "run_block"]

Observer = Callable[[FloatOp, dict[str, Tensor]], None]


def embed(embedding: FloatEmbedding, tokens: Tensor) -> Tensor:
    """(B, L) ids -> (B, L, width)."""
    x = embedding.tokens[tokens]
    if embedding.positions is not None:
        offset = embedding.position_offset
        x = x + embedding.positions[offset : offset + tokens.shape[1]]
    return x


class Arithmetic:
    """How the operations that become spikes are computed; a subclass puts quantisers and trained weights in their place."""

    def dense(self, op: Dense, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        return F.linear(x, op.weight, op.bias)

    def relu(self, op: Relu, x: Tensor) -> Tensor:
        """(..., N) -> (..., N)."""
        return F.relu(x)

    def attention(self, op: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, L, d), twice (B, kv_heads, L, d) -> (B, H, L, d)."""
        repeat = op.heads // op.kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def gain(self, op: Norm) -> Tensor:
        """(width / groups,) weight of a norm."""
        return torch.from_numpy(op.weight)


FLOAT = Arithmetic()


def run_block(
    block: FloatBlock,
    x: Tensor,
    rotary: tuple[Tensor, Tensor] | None = None,
    observer: Observer | None = None,
    arithmetic: Arithmetic = FLOAT,
) -> Tensor:
    """One layer on whole sequences (B, L, width), positions 0..L-1. The observer is called before every operation."""
    values = {"x": x}
    for op in block.ops:
        if observer is not None:
            observer(op, values)
        values[op.output] = _apply(op, values, rotary, arithmetic)
    return values[block.output]


def _apply(op: FloatOp, values: dict[str, Tensor], rotary: tuple[Tensor, Tensor] | None, arithmetic: Arithmetic) -> Tensor:
    if isinstance(op, Attention):
        heads = [values[name].unflatten(-1, (-1, op.head_dim)).transpose(1, 2) for name in (op.query, op.key, op.value)]
        return arithmetic.attention(op, *heads).transpose(1, 2).flatten(2)
    x = values[op.input]
    if isinstance(op, Dense):
        return arithmetic.dense(op, x)
    if isinstance(op, Relu):
        return arithmetic.relu(op, x)
    if isinstance(op, Slice):
        return x[..., op.start : op.stop]
    if isinstance(op, Add):
        return x + values[op.other]
    if isinstance(op, Gate):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up
    if isinstance(op, Rotary):
        assert rotary is not None
        heads = x.unflatten(-1, (op.heads, -1))
        cos, sin = (table[: x.shape[1]].unsqueeze(1) for table in rotary)
        low, high = heads.chunk(2, dim=-1)
        return (heads * cos + torch.cat([-high, low], dim=-1) * sin).flatten(-2)
    if isinstance(op, Norm):
        grouped = x.unflatten(-1, (op.groups, -1))
        if op.center:
            grouped = grouped - grouped.mean(-1, keepdim=True)
        y = grouped * torch.rsqrt(grouped.pow(2).mean(-1, keepdim=True) + op.eps) * arithmetic.gain(op).to(x)
        if op.bias is not None:
            y = y + torch.from_numpy(op.bias).to(x)
        return y.flatten(-2)
    raise TypeError(f"{type(op).__name__} has no float form")
