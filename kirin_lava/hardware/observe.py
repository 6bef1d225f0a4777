"""What the states of every neuron reach on real text: an observer of the integer executor.

Membranes at a window's end come with every run. u and v *inside* a window are followed step by step only where the worst case
does not fit the state already, because that takes T products instead of one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import cast

import numpy as np
import torch
from torch import Tensor

from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.base.matmul import ExactMatmul
from kirin_lava.graph.block import Block
from kirin_lava.graph.executor import cached_name
from kirin_lava.graph.ops import CoreOp, Linear, Mix, Op, Score, synapses_of
from kirin_lava.graph.parts import sums_by_part
from kirin_lava.graph.values import Codes, Value
from kirin_lava.hardware.bounds import Span, arrivals, cache_extremes, payload_extremes
from kirin_lava.spikes.codes import SpikeCode

__all__ = ["RangeObserver", "shift_of"]

Product = Callable[[Tensor], Tensor]


class RangeObserver:
    """Gathers the span of every neuron, per block and segment.

    Attributes:
        spans: quantity -> span. "membrane" is the sum at a window's end, without shift and offset; "payload" that of messages;
            "u" and "v" are states inside the window, only of segments whose worst case does not fit. Of a "score" one per head.
            Of sums that no membrane holds, plane by plane or half by half, "payload" alone.
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
        code = op.code
        halves = not isinstance(op, Linear) and len(synapses_of(block.ports[op.cache].code)) > 1
        if op.neuron.every_step or halves:
            found = self._by_step(block, op, q, values)
        elif isinstance(op, Score):
            sums = cast(Tensor, result)
            self.positions[block.name] = max(self.positions.get(block.name, 0), sums.shape[-1])
            found = {"membrane": _span(sums.transpose(1, 3))}
        else:
            product = self._product(block, op, values)
            apart = isinstance(result, Codes) or (isinstance(op, Mix) and op.parts(q.shape[-1]) > 1)
            sums = product(q) if apart else cast(Tensor, result)
            found = {"membrane": _span(sums)}
            if not self._proved(block, op, q.shape[-1]):
                found |= {name: span.scaled(2 ** shift_of(op)) for name, span in _trajectory(q, code, product).items()}
        messages = torch.where(code.is_message(q), q + code.zero, torch.zeros_like(q))
        found["payload"] = _span(messages.reshape(-1, 1))
        seen = self.spans.setdefault((block.name, op.name), {})
        for name, span in found.items():
            seen[name] = seen[name].join(span) if name in seen else span

    def _by_step(self, block: Block, op: CoreOp, q: Tensor, values: dict[str, Value]) -> dict[str, Span]:
        """The sums of every step, where they are not proved to fit."""
        if isinstance(op, Score):
            self.positions[block.name] = max(self.positions.get(block.name, 0), cast(Tensor, values[op.output]).shape[-1])
        if not isinstance(op, Linear) or self._proved(block, op, q.shape[-1]):
            return {}
        product, payloads = self._product(block, op, values), op.code.payloads(q.cpu().to(torch.int64).numpy())
        sums = [_span(product(payload)) for payload in torch.from_numpy(payloads).to(q).unbind(-1)]
        reached = reduce(Span.join, sums)
        return {"u": reached, "v": reached, "membrane": reached}

    def _product(self, block: Block, op: Linear | Mix, values: dict[str, Value]) -> Product:
        """Integers per input -> exact sums per neuron (..., N)."""
        if isinstance(op, Linear):
            key = (block.name, op.name)
            if key not in self._matmuls:
                device = cast(Codes, values[op.input]).q.device
                self._matmuls[key] = ExactMatmul(op.weight, op.code.max_message, device)
            return self._matmuls[key]
        cached, mix = cast(Tensor, values[cached_name(op.cache)]), op
        return lambda weights: sums_by_part(mix, weights, cached)

    def _proved(self, block: Block, op: Linear | Mix, columns: int) -> bool:
        """Whether u and v fit in the worst case."""
        key = (block.name, op.name, 0 if isinstance(op, Linear) else columns)
        if key not in self._fits:
            weight = op.weight if isinstance(op, Linear) else cache_extremes(block, op, min(columns, op.part or columns))
            seen = arrivals(block, op.input, op.code, weight.shape[1], columns)
            low, high = payload_extremes(weight, seen, op.neuron).outer()
            self._fits[key] = max(-low, high) * 2 ** shift_of(op) <= STATE_MAX
        return self._fits[key]


def shift_of(op: CoreOp) -> int:
    """f, where the synapses of a segment hold 2^f times its weights."""
    return op.neuron.shift if isinstance(op, Linear) else 0


def _span(values: Tensor) -> Span:
    """Of (..., N) values."""
    flat = values.reshape(-1, values.shape[-1])
    low, high = flat.amin(0), flat.amax(0)
    return Span(low.cpu().numpy().astype(np.int64), high.cpu().numpy().astype(np.int64))


def _trajectory(q: Tensor, code: SpikeCode, product: Product) -> dict[str, Span]:
    """u and v in every step of a window of codes q, 0 included."""
    payloads = torch.from_numpy(code.payloads(q.cpu().to(torch.int64).numpy())).to(q)
    spans: dict[str, Span] = {}
    u = v = torch.zeros(())
    for step, gain in enumerate(code.gains()):
        u = product(payloads[..., step]) + u
        v = v + gain * u
        for name, state in (("u", u), ("v", v)):
            span = _span(state)
            spans[name] = spans[name].join(span) if name in spans else span
    return spans
