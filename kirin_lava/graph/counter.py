"""Counting what a converted model does while it runs, per block and operation, over all tokens seen.

A `Counter` is an observer of the integer executor: `Executor(model, observer=counter)`. See `kirin_lava.graph.counts` for
the rules.
Every number is exact (sums stay in float64 on the device, below 2^53), except `rate_*`, which are expectations.
Shapes: B rows, L tokens of each, K channels, H heads, J positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from kirin_lava.graph.block import Block
from kirin_lava.graph.counts import CodeCounts, CoreCounts, HostCounts, Stats
from kirin_lava.graph.executor import Observer, cached_name
from kirin_lava.graph.ops import CoreOp, Encode, Linear, Mix, Op, Score, StageOp, require_ops, synapses_of
from kirin_lava.graph.ops.integer import IntegerOp
from kirin_lava.graph.ops.op import HOST
from kirin_lava.graph.values import Codes, Value
from kirin_lava.spikes.codes import SpikeCode

__all__ = ["Counter", "halves_of", "readouts_of", "stored_bits", "together"]


_MOST_BITS = 32  # of a wide code


def together(*observers: Observer) -> Observer:
    """One observer that calls several."""
    return _Together(observers)


class _Together:
    def __init__(self, observers: tuple[Observer, ...]) -> None:
        self._observers = observers
        self.in_pieces = all(getattr(observer, "in_pieces", False) for observer in observers)

    def __call__(self, block: Block, op: Op, values: dict[str, Value]) -> None:
        for observer in self._observers:
            observer(block, op, values)


def stored_bits(op: CoreOp, block: Block) -> int:
    """Bits of a stored synapse: 4 if every weight (times 2^shift of a fire phase) or cached code fits them, else 8; 16 of a
    cached code in two synapses."""
    if isinstance(op, Linear):
        shift = op.neuron.shift
        weight = op.weight[: None if op.weight.strides[0] else 1]  # of a plan all rows are one and the same
        low, high = int(weight.min(initial=0)) << shift, int(weight.max(initial=0)) << shift
        return 4 if low >= -8 and high <= 7 else 8
    synapses = synapses_of(block.ports[op.cache].code)
    return 4 if max(synapses) <= 7 else 8 * len(synapses)


def halves_of(op: CoreOp, block: Block) -> int:
    """Neurons for each sum of a segment: one for each synapse that a cached code takes."""
    return 1 if isinstance(op, Linear) else len(synapses_of(block.ports[op.cache].code))


def readouts_of(op: CoreOp, block: Block) -> int:
    """What is read out for each sum of a window: one membrane, or one in every step, of every half of a cached code."""
    return halves_of(op, block) * (op.code.window if op.neuron.every_step else 1)


@dataclass
class _Tally:
    """Sums so far: plain integers that shapes tell, and float64 tensors that stay on the device; and the largest |q|."""

    plain: dict[str, int] = field(default_factory=dict)
    summed: dict[str, Tensor] = field(default_factory=dict)
    largest: int = 0

    def add(self, **numbers: int | Tensor) -> None:
        for name, number in numbers.items():
            if isinstance(number, Tensor):
                number = number.to(torch.float64)
                self.summed[name] = self.summed[name] + number if name in self.summed else number
            else:
                self.plain[name] = self.plain.get(name, 0) + number

    def integer(self, name: str) -> int:
        return self.plain.get(name, 0) if name not in self.summed else round(float(self.summed[name]))


class Counter:
    """Counts all blocks that it observes. One counter may see many runs; their counts add up."""

    in_pieces = True

    def __init__(self) -> None:
        self._ops: dict[tuple[str, str], tuple[Block, Op, _Tally]] = {}
        self._codes: dict[tuple[str, str], tuple[str, SpikeCode, _Tally]] = {}
        self._synapses: dict[tuple[str, str], Tensor] = {}

    @torch.inference_mode()
    def __call__(self, block: Block, op: Op, values: dict[str, Value]) -> None:
        """Count one operation that was just computed."""
        tally = self._ops.setdefault((block.name, op.name), (block, op, _Tally()))[2]
        if isinstance(op, Linear):
            self._linear(block, op, _codes(values, op.input).q.flatten(0, -2), tally)
        elif isinstance(op, Score):
            _score(op, _codes(values, op.input).q, cast(Tensor, values[cached_name(op.cache)]), block.causal, tally)
        elif isinstance(op, Mix):
            _mix(op, _codes(values, op.input), cast(Tensor, values[cached_name(op.cache)]), block.causal, tally)
        else:
            result = values[op.output]
            shown = result.q if isinstance(result, Codes) else result
            port = block.ports[op.output]
            by_head = port.by_position  # (B, H, L, J)
            elements = shown.shape[1] * _visible(shown, block.causal, port.window) if by_head else shown.numel()
            tally.add(tokens=len(shown) * shown.shape[2 if by_head else 1], elements=elements)
            if isinstance(op, Encode):
                self._see(block, op.name, op.output, op.code, _codes(values, op.output), shown.numel() - elements)
        if isinstance(op, Linear) and op.fires is not None:
            self._see(block, op.name, op.output, op.fires, _codes(values, op.output), 0)

    def result(self) -> Stats:
        """Everything so far."""
        codes = {
            (block, value): _code_row(block, value, producer, code, tally)
            for (block, value), (producer, code, tally) in self._codes.items()
        }
        core: list[CoreCounts] = []
        host: list[HostCounts] = []
        for (name, _), (at, op, tally) in self._ops.items():
            if isinstance(op, (Linear, Score, Mix)):
                core.append(_core_row(at, op, tally, codes.get((name, op.output))))
                if isinstance(op, Mix) and op.part is not None:
                    host.append(_sum_of_parts(core[-1], at))
            else:
                elements, tokens = tally.integer("elements"), tally.integer("tokens")
                done, kind = elements * cast(StageOp, op).operations(), type(op).__name__
                floats, integers = (done, 0) if op.place == HOST else (0, done)
                products = elements * op.products if isinstance(op, IntegerOp) else 0
                host.append(HostCounts(name, op.name, kind, tokens, elements, floats, integers, products))
        return Stats(max((row.tokens for row in core), default=0), tuple(core), tuple(codes.values()), tuple(host))

    def to_dict(self) -> dict[str, Any]:
        """Plain values of `result()`."""
        return self.result().to_dict()

    def _see(self, block: Block, producer: str, value: str, code: SpikeCode, codes: Codes, invisible: int) -> None:
        """Histogram of codes. `invisible` ones (code 0, beyond a token's own position) are taken off."""
        tally = self._codes.setdefault((block.name, value), (producer, code, _Tally()))[2]
        tally.add(tokens=codes.step.shape[0] * codes.step.shape[1], clipped=codes.clipped)
        if code.wide:
            size = codes.q.abs()
            bits = torch.frexp(size).exponent * codes.q.sign().to(torch.int32)
            histogram = torch.bincount((bits + _MOST_BITS).flatten(), minlength=2 * _MOST_BITS + 1).to(torch.float64)
            histogram[_MOST_BITS] -= invisible
            tally.add(histogram=histogram, at_limit=_total(size == code.largest))
            tally.largest = max(tally.largest, int(size.max()))
        else:
            shifted = (codes.q.flatten() - code.code_min).to(torch.int32 if code.message_bits > 8 else torch.uint8)
            histogram = torch.bincount(shifted, minlength=code.code_max - code.code_min + 1).to(torch.float64)
            histogram[-code.code_min] -= invisible
            tally.add(histogram=histogram)
        if code.channels is not None or code.wide:  # a code in the histogram does not tell how many spikes it sent
            tally.add(spikes=_total(code.spike_count(codes.q)))

    def _linear(self, block: Block, op: Linear, q: Tensor, tally: _Tally) -> None:
        """q: (tokens, K). What a channel sent, times its existing synapses."""
        key = (block.name, op.name)
        if key not in self._synapses:
            existing = np.count_nonzero(op.weight, axis=0).astype(np.float64)
            self._synapses[key] = torch.from_numpy(existing).to(q.device)
        synapses, tokens = self._synapses[key], len(q)
        spiking, outlier = op.code.split(q)
        spike = op.code.spike_count(q)
        spikes, outliers = spike.sum(0).to(torch.float64), outlier.sum(0).to(torch.float64)
        size = q.abs()
        rates = (_rate_factor(size.amax(1), op.code) @ size).to(torch.float64)
        tally.add(tokens=tokens, elements=q.numel(), spikes=spikes.sum(), outliers=outliers.sum(), spiking=_total(spiking))
        tally.add(neurons=tokens * op.weight.shape[0], dense_macs=tokens * op.weight.size)
        graded = op.code.graded_count(q).sum(0).to(torch.float64) if op.code.graded else torch.zeros_like(spikes)
        tally.add(synaptic_adds=(spikes - graded) @ synapses, macs=(graded + outliers) @ synapses)
        tally.add(rate_spikes=rates.sum(), rate_adds=rates @ synapses)


def _score(op: Score, query: Tensor, keys: Tensor, causal: bool, tally: _Tally) -> None:
    """query: (B, L, H * d), keys: (B, kv_heads, J, d). A code of a query meets its channel in all keys that it sees."""
    batch, tokens = query.shape[:2]
    positions, width = keys.shape[2:]
    q = query.view(batch, tokens, op.kv_heads, op.heads // op.kv_heads, width)
    nonzero = (keys != 0).to(torch.float64)
    seen = nonzero.cumsum(2)[:, :, positions - tokens :] if causal else nonzero.sum(2, keepdim=True)
    if op.window is not None and positions > op.window:
        older = torch.nn.functional.pad(nonzero.cumsum(2), (0, 0, op.window, 0))[:, :, positions - tokens : positions]
        seen = seen - older
    existing = seen.transpose(1, 2).unsqueeze(3)
    spiking, outlier = op.code.split(q)
    spike = op.code.spike_count(q)
    size = q.abs()
    rates = size * _rate_factor(size.amax(-1, keepdim=True), op.code)
    pairs = op.heads * _seen_positions(batch, tokens, positions, causal, op.window)
    tally.add(tokens=batch * tokens, elements=q.numel(), spikes=spike.sum(), outliers=outlier.sum(), spiking=spiking.sum())
    tally.add(neurons=pairs, dense_macs=pairs * width)
    tally.add(synaptic_adds=(spike * existing).sum(), macs=(outlier * existing).sum())
    tally.add(rate_spikes=rates.sum(dtype=torch.float64), rate_adds=(rates * existing).sum())


def _mix(op: Mix, weights: Codes, cached: Tensor, causal: bool, tally: _Tally) -> None:
    """weights: (B, H, L, J) unsigned, cached: (B, kv_heads, J, d). A probability meets all channels of its position's value."""
    q = weights.q
    batch, heads, tokens, _ = q.shape
    width = cached.shape[3]
    existing = (cached != 0).sum(-1).to(torch.float64).repeat_interleave(heads // op.kv_heads, 1)  # (B, H, J)
    # sums of float32 ones are exact, and on a CPU much faster than sums of booleans
    outliers = op.code.is_message(q).float().sum(2)
    spikes = op.code.spike_count(q).float().sum(2)
    largest = q.amax(-1, keepdim=True)
    rates = (q * _rate_factor(largest, op.code)).sum(2).double()
    pairs = heads * _visible(q, causal, op.window)
    tally.add(tokens=batch * tokens, elements=pairs, spikes=_total(spikes), outliers=_total(outliers))
    tally.add(spiking=_total(op.code.split(q)[0]))
    positions = q.shape[3]
    seen = range(positions - tokens + 1, positions + 1) if causal else [positions] * tokens
    parts = sum(op.parts(some) for some in seen)
    tally.add(neurons=batch * parts * heads * width, dense_macs=pairs * width)
    tally.add(synaptic_adds=(spikes * existing).sum(), macs=(outliers * existing).sum())
    tally.add(rate_spikes=rates.sum(), rate_adds=(rates * existing).sum())


def _total(counts: Tensor) -> Tensor:
    return counts.sum(dtype=torch.float64)


def _rate_factor(largest: Tensor, code: SpikeCode) -> Tensor:
    """Spikes per unit of code in an 8-bit rate code (sign and 7 bits, or 8 bits) whose largest value has this code."""
    return torch.where(largest > 0, (127 if code.signed else 255) / largest, 0.0)


def _visible(by_head: Tensor, causal: bool, window: int | None) -> int:
    """Positions that the tokens of a (B, H, L, J) value see, summed."""
    return _seen_positions(by_head.shape[0], by_head.shape[2], by_head.shape[3], causal, window)


def _seen_positions(batch: int, tokens: int, positions: int, causal: bool, window: int | None) -> int:
    """The i-th of the last L tokens of J sees J - L + i + 1 positions, those of its window at most, or all of them."""
    if not causal:
        return batch * tokens * positions
    if window is not None:
        return batch * sum(min(window, positions - tokens + i + 1) for i in range(tokens))
    return batch * (tokens * (positions - tokens) + tokens * (tokens + 1) // 2)


def _code_row(block: str, value: str, producer: str, code: SpikeCode, tally: _Tally) -> CodeCounts:
    histogram = tally.summed["histogram"].cpu().numpy().round().astype(np.int64)
    if code.wide:
        highest = 1 << np.arange(_MOST_BITS)
        q = np.concatenate([-highest[::-1], [0], highest])
    else:
        q = np.arange(code.code_min, code.code_max + 1)
    outliers, silent = int(histogram[code.is_message(q)].sum()), int(histogram[code.is_silent(q)].sum())
    elements = int(histogram.sum())
    sizes, came = np.abs(q), histogram > 0
    return CodeCounts(
        block=block,
        value=value,
        producer=producer,
        encoding=code.name,
        tokens=tally.integer("tokens"),
        elements=elements,
        spikes=tally.integer("spikes") if "spikes" in tally.summed else int((code.spike_count(q) * histogram).sum()),
        silent=silent,
        outliers=outliers,
        clipped=tally.integer("clipped"),
        largest=tally.largest if code.wide else int(sizes[came].max(initial=0)),
        at_limit=tally.integer("at_limit") if code.wide else int(histogram[sizes == sizes.max()].sum()),
        histogram={int(code): int(count) for code, count in zip(q[came], histogram[came], strict=True)},
    )


def _core_row(block: Block, op: CoreOp, tally: _Tally, fired: CodeCounts | None) -> CoreCounts:
    names = ("tokens", "elements", "spikes", "outliers", "neurons", "dense_macs", "synaptic_adds", "macs")
    n = {name: tally.integer(name) for name in names}
    fires = isinstance(op, Linear) and op.fires is not None
    comparisons = ramp_adds = 0
    if isinstance(op, Linear) and op.fires is not None and fired is not None:
        histogram = np.zeros(op.fires.code_max - op.fires.code_min + 1, np.int64)
        histogram[np.array(list(fired.histogram), np.int64) - op.fires.code_min] = list(fired.histogram.values())
        comparisons, ramp_adds = op.neuron.work(histogram)
    return CoreCounts(
        block=block.name,
        op=op.name,
        kind=op.kind,
        encoding=op.code.name,
        window=op.code.window,
        weight_bits=stored_bits(op, block),
        windows=n["tokens"],
        steps=n["tokens"] * op.code.window,
        silent=n["elements"] - tally.integer("spiking") - n["outliers"],
        neuron_updates=halves_of(op, block) * n["neurons"] * op.code.window,
        comparisons=comparisons,
        ramp_adds=ramp_adds,
        readouts=0 if fires or block.fraction is not None else readouts_of(op, block) * n["neurons"],
        rate_spikes=float(tally.summed["rate_spikes"]),
        rate_adds=float(tally.summed["rate_adds"]),
        **n,
    )


def _sum_of_parts(mix: CoreCounts, block: Block) -> HostCounts:
    """Additions of the membranes of its parts."""
    elements = mix.tokens * next(block.ports[op.output].width for op in block.ops if op.name == mix.op)
    done = mix.neurons - elements
    floats, integers = (done, 0) if block.fraction is None else (0, done)
    return HostCounts(mix.block, f"{mix.op}.sum", "Sum", mix.tokens, elements, floats, integers)


def _codes(values: dict[str, Value], name: str) -> Codes:
    return cast(Codes, values[name])


require_ops("the counter", (Linear, Score, Mix))
