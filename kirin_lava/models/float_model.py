"""The float model: a decoder layer in float32, differentiable, run from the same operations that are lowered to spikes.

It is what conversion starts from: calibration watches its activations, recovery trains against it, and agreement with
transformers on the same text shows that the front end reads a checkpoint right. There is one float attention, `attend`; whoever
wants to see what quantisation does puts it in at a site, see `Arithmetic.sent`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kirin_lava.graph.ops import HostOp, Norm
from kirin_lava.models.layout import Attention, Dense, FloatBlock, FloatEmbedding, FloatOp

__all__ = ["FLOAT", "Arithmetic", "embed", "run_block"]

Observer = Callable[[FloatOp, dict[str, Tensor]], None]


def embed(embedding: FloatEmbedding, tokens: Tensor) -> Tensor:
    """(B, L) ids -> (B, L, width)."""
    x = embedding.tokens[tokens]
    if embedding.positions is not None:
        offset = embedding.position_offset
        x = x + embedding.positions[offset : offset + tokens.shape[1]]
    return x


@dataclass(frozen=True)
class FloatRun:
    """What float forms of host operations may ask for: cos and sin, each (positions, head_dim), and weights of norms."""

    rotary: tuple[Tensor, Tensor] | None
    arithmetic: Arithmetic

    def gain(self, op: Norm) -> Tensor:
        """(width / groups,) weight of a norm."""
        return self.arithmetic.gain(op)


class Arithmetic:
    """How a float model computes; a subclass puts quantisers and trained tensors in.

    Attributes:
        watches_attention: whether `sent` does anything at the sites of attention; without it the library's kernel is used.
    """

    watches_attention: ClassVar[bool] = False

    def sent(self, op: Dense | Attention, side: str, x: Tensor) -> Tensor:
        """A real value as the integer network would send it.

        Args:
            side: "input" of a dense layer (..., K); "q" (B, H, L, d), "k" or "v" (B, kv_heads, L, d), or "p" (B, H, L, L) of an
                attention, the last in units of `value_steps`.
        """
        return x

    def value_steps(self, op: Attention, v: Tensor) -> Tensor | None:
        """(B, kv_heads, L) steps of the values that a row of probabilities meets, None where they are not quantised."""
        return None

    def weight(self, op: Dense) -> Tensor:
        """(N, K) weight of a dense layer."""
        return op.weight

    def bias(self, op: Dense) -> Tensor | None:
        """(N,) bias of a dense layer."""
        return op.bias

    def gain(self, op: Norm) -> Tensor:
        """(width / groups,) weight of a norm."""
        return torch.from_numpy(op.weight)

    def host(self, op: HostOp, values: dict[str, Tensor], run: FloatRun) -> Tensor:
        """A host operation in its float form."""
        return op.float_form(values, run)

    def attend(self, op: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, L, d), twice (B, kv_heads, L, d) -> (B, H, L, d)."""
        repeat = op.heads // op.kv_heads
        slides = op.window is not None and q.shape[2] > op.window
        if not self.watches_attention and op.cap is None and not slides:
            k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
            return F.scaled_dot_product_attention(q, k, v, is_causal=op.causal, scale=op.scale)
        steps = self.value_steps(op, v)
        q, k, v = self.sent(op, "q", q), self.sent(op, "k", k), self.sent(op, "v", v)
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        scores = q @ k.transpose(-1, -2) * op.scale
        if op.cap is not None:
            scores = op.cap * torch.tanh(scores / op.cap)
        if op.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        if op.window is not None and slides:
            older = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(-op.window)
            scores = scores.masked_fill(older, -torch.inf)
        p = scores.softmax(-1)
        if steps is None:
            return self.sent(op, "p", p) @ v
        # a probability is sent in units of the step of the value that it meets, see `graph.ops.Softmax`
        unit = steps.repeat_interleave(repeat, 1).unsqueeze(2)
        return (self.sent(op, "p", p * unit) / unit) @ v


FLOAT = Arithmetic()


def run_block(
    block: FloatBlock,
    x: Tensor,
    rotary: tuple[Tensor, Tensor] | None = None,
    observer: Observer | None = None,
    arithmetic: Arithmetic = FLOAT,
) -> Tensor:
    """One layer on whole sequences (B, L, width), positions 0..L-1. The observer is called before every operation."""
    run = FloatRun(rotary, arithmetic)
    values = {"x": x}
    for op in block.ops:
        if observer is not None:
            observer(op, values)
        values[op.output] = _apply(op, values, run)
    return values[block.output]


def _apply(op: FloatOp, values: dict[str, Tensor], run: FloatRun) -> Tensor:
    arithmetic = run.arithmetic
    if isinstance(op, Attention):
        heads = [values[name].unflatten(-1, (-1, op.head_dim)).transpose(1, 2) for name in (op.query, op.key, op.value)]
        return arithmetic.attend(op, *heads).transpose(1, 2).flatten(2)
    if isinstance(op, Dense):
        x = arithmetic.sent(op, "input", values[op.input])
        return F.linear(x, arithmetic.weight(op), arithmetic.bias(op))
    return arithmetic.host(op, values, run)
