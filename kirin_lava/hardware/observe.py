"""What the states of every neuron reach on real text: an observer of the integer executor.

Membranes at a window's end come with every run. u and v *inside* a window are followed step by step only where the worst case
does not fit the state already, because that takes T products instead of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.executor import ExactMatmul, cached_name
from kirin_lava.graph.host import Codes, Value
from kirin_lava.graph.ops import Block, CoreOp, Encode, Linear, Mix, Op, Score
from kirin_lava.hardware.bounds import Int64, Span, arrivals, payload_extremes
from kirin_lava.spikes.codes.coding import Encoding

__all__ = ["RangeObserver", "cache_extremes", "shift_of"]

Product = Callable[[Tensor], Tensor]


class RangeObserver:
    """Gathers the span of every neuron, per block and segment.

    Attributes:
        spans: quantity -> span. "membrane" is the sum at a window's end, without shift and offset; "payload" that of messages;
            "u" and "v" are states inside the window, only of segments whose worst case does not fit. Of a "score" one per head.
        positions: most positions that were seen, per block.
    """

    def __init__(self) -> None:
        self.spans: dict[tuple[str, str], dict[str, Span]] = {}
        self.positions: dict[str, int] = {}
        self._matmuls: dict[tuple[str, str], ExactMatmul] = {}
        self._fits: dict[tuple[str, str, int], bool] = {}

    @torch.inference_mode()
    def __call__(self, block: Block, op: Op, values: dict[str, Value]) -> None:
        """Take in one operation that was just computed."""
        if not isinstance(op, (Linear, Score, Mix)):
            return
        q, result = cast(Codes, values[op.input]).q, values[op.output]
        enc = op.encoding
        if isinstance(op, Score):
            sums = cast(Tensor, result)
            self.positions[block.name] = max(self.positions.get(block.name, 0), sums.shape[-1])
            found = {"membrane": _span(sums.transpose(1, 3))}
        else:
            product = self._product(block, op, values)
            sums = product(q) if isinstance(result, Codes) else result
            found = {"membrane": _span(sums)}
            if not self._proved(block, op, q.shape[-1]):
                found |= {name: span.scaled(2 ** shift_of(op)) for name, span in _trajectory(q, enc, product).items()}
        messages = torch.where((q < enc.spike_min) | (q > enc.spike_max), q + enc.zero, torch.zeros_like(q))
        found["payload"] = _span(messages.reshape(-1, 1))
        seen = self.spans.setdefault((block.name, op.name), {})
        for name, span in found.items():
            seen[name] = seen[name].join(span) if name in seen else span

    def _product(self, block: Block, op: Linear | Mix, values: dict[str, Value]) -> Product:
        """Integers per input -> exact sums per neuron (..., N)."""
        if isinstance(op, Linear):
            key = (block.name, op.name)
            if key not in self._matmuls:
                device = cast(Codes, values[op.input]).q.device
                self._matmuls[key] = ExactMatmul(op.weight, op.encoding.max_message, device)
            return self._matmuls[key]
        cached = cast(Tensor, values[cached_name(op.cache)]).double()
        repeat = op.heads // op.kv_heads

        def mix(weights: Tensor) -> Tensor:
            batch, heads, tokens, columns = weights.shape
            flat = weights.double().reshape(batch, op.kv_heads, repeat * tokens, columns)
            return (flat @ cached).view(batch, heads, tokens, -1).transpose(1, 2).flatten(2)

        return mix

    def _proved(self, block: Block, op: Linear | Mix, columns: int) -> bool:
        """Whether u and v fit in the worst case."""
        key = (block.name, op.name, 0 if isinstance(op, Linear) else columns)
        if key not in self._fits:
            weight = op.weight if isinstance(op, Linear) else cache_extremes(block, op, columns)
            seen = arrivals(block, op.input, op.encoding, weight.shape[1], columns)
            low, high = payload_extremes(weight, seen).outer()
            self._fits[key] = max(-low, high) * 2 ** shift_of(op) <= STATE_MAX
        return self._fits[key]


def shift_of(op: CoreOp) -> int:
    """f, where the synapses of a segment hold 2^f times its weights."""
    return 0 if isinstance(op, Score) or op.fire is None else op.fire.shift


def cache_extremes(block: Block, op: Score | Mix, inputs: int) -> Int64:
    """Cached codes as far from zero as they come: (2, inputs), one row per sign."""
    source = block.producer(op.cache)
    largest = source.encoding.code_max if isinstance(source, Encode) else 127
    return np.repeat([[largest], [-largest]], inputs, axis=1).astype(np.int64)


def _span(values: Tensor) -> Span:
    """Of (..., N) values."""
    flat = values.reshape(-1, values.shape[-1])
    low, high = flat.amin(0), flat.amax(0)
    return Span(low.cpu().numpy().astype(np.int64), high.cpu().numpy().astype(np.int64))


def _trajectory(q: Tensor, enc: Encoding, product: Product) -> dict[str, Span]:
    """u and v in every step of a window of codes q, 0 included."""
    sent = q + enc.zero
    outlier = (q < enc.spike_min) | (q > enc.spike_max)
    size, sign = sent.abs(), sent.sign()
    spans: dict[str, Span] = {}
    for step in range(enc.window):
        left = enc.window - 1 - step
        payload, counted = sign * (size > left), sign * (size - left).clamp(min=0)
        last = sent if left == 0 else torch.zeros_like(sent)
        for name, arrived in (("u", payload), ("v", counted)):
            span = _span(product(torch.where(outlier, last, arrived)))
            spans[name] = spans[name].join(span) if name in spans else span
    return spans
