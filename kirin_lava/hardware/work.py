"""Work per token, the common ground of traffic, timing and energy: measured on text, or assumed where there are no weights.

Measured numbers come from `kirin_lava.graph.counter` and are averages over all tokens of a run. Assumed ones take every
synapse as
existing and these distributions, cut into codes as an encoder would cut them:

    activations, queries   normal
    outputs of ReLU        normal, the negative half silent; the largest code at the 99.9 % quantile
    probabilities          log-normal, the scores having a standard deviation of 3
    bit planes             half of the bits below the highest one that a value has on average; ranges end at 1.5 times the
                           largest value
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.counts import CoreCounts, Stats
from kirin_lava.hardware.shapes import ModelShape, Segment
from kirin_lava.spikes.codes import SpikeCode

__all__ = ["Density", "ModelWork", "SegmentWork", "assumed_density", "assumed_work", "measured_work"]

_NORMAL = NormalDist()
_SCORE_DEVIATION = 3.0
_CODING = ("Encode", "ZeroPoints", "Decode")  # what a network without codes does not do
_INTEGER = {
    "integer_operations": "integer_operations",
    "integer_products": "integer_products",
    "integer_messages": "elements",
}
_LARGEST_FIRED = _NORMAL.inv_cdf(0.999)


@dataclass(frozen=True)
class SegmentWork:
    """One segment, per token. See `kirin_lava.graph.counts.CoreCounts` for the rules.

    Attributes:
        weight_bits: of a weight before its shift, which is what a dense integer network would store. bits: as stored here.
        written: codes that the token adds to the segment's cache.
        fed_on_chip: whether the codes come from neurons of another segment.
        states_touched: states of a neuron, each read and written in every step.
        parts: neurons that share the fan-in of an output, on average, because one could overflow.
    """

    block: str
    name: str
    kind: str
    encoding: str
    window: int
    weight_bits: int
    bits: int
    fed_on_chip: bool
    states_touched: int
    written: float
    elements: float
    spikes: float
    outliers: float
    neurons: float
    dense_macs: float
    synaptic_adds: float
    macs: float
    neuron_updates: float
    comparisons: float
    ramp_adds: float
    readouts: float
    rate_spikes: float
    rate_adds: float
    parts: float = 1.0


@dataclass(frozen=True)
class ModelWork:
    """A model, per token.

    Attributes:
        source: "measured" or "assumed", and on what.
        context: positions that a token sees, on average where measured.
        host_operations: float operations of the host. of which code_operations turn values into codes and back.
        integer_operations: of neurons between the segments, where there is no host, with the products of 24 bits among them and
            the messages that their results are.
        link_in, link_out: numbers that enter and leave such a network: a row of the embedding, logits.
        between_steps: time steps that it adds to a token's way.
    """

    source: str
    context: float
    segments: tuple[SegmentWork, ...]
    host_operations: float
    code_operations: float
    integer_operations: float = 0.0
    integer_products: float = 0.0
    integer_messages: float = 0.0
    link_in: float = 0.0
    link_out: float = 0.0
    between_steps: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Density:
    """Spikes and outliers per code (the rest is silent, where a code sends one at most), and spikes per code of an 8-bit rate
    code."""

    spikes: float
    outliers: float
    rate: float


def measured_work(stats: Stats, shape: ModelShape, text: str = "text") -> ModelWork:
    """Averages over a run.

    Args:
        stats: of a run of the model that `shape` describes.
        text: what it was run on, for people.

    Raises:
        UsageError: nothing was counted, or another model.
    """
    if [(r.block, r.op) for r in stats.core] != [(s.block, s.name) for s in shape.segments]:
        raise UsageError("the counts belong to another model: their segments differ from those of its shape")
    if not stats.tokens or not all(row.tokens for row in stats.core):
        raise UsageError("nothing was counted: run the model on at least one token")
    segments = tuple(_measured(row, segment) for row, segment in zip(stats.core, shape.segments, strict=True))
    context = [row.neurons / row.tokens / segment.outputs for row, segment in _pairs(stats, shape) if segment.kind == "score"]
    per_token = [(row.kind, row.float_operations / max(row.tokens, 1)) for row in stats.host]
    return ModelWork(
        source=f"measured on {stats.tokens} tokens of {text}",
        context=sum(context) / len(context) if context else 0.0,
        segments=segments,
        host_operations=sum(operations for _, operations in per_token),
        code_operations=sum(operations for kind, operations in per_token if kind in _CODING),
        **{
            name: sum(getattr(row, field) / max(row.tokens, 1) for row in stats.host if row.integer_operations)
            for name, field in _INTEGER.items()
        },
        **_link(shape),
    )


def assumed_work(shape: ModelShape, context: int) -> ModelWork:
    """What a token that sees `context` positions costs if its values are distributed as the module assumes."""
    host = [(work.kind, work.at(context)) for work in shape.host if not work.on_chip]
    on_chip = [work for work in shape.host if work.on_chip and work.operations]
    return ModelWork(
        source="assumed distributions, every synapse existing",
        context=context,
        segments=tuple(_assumed(segment, context) for segment in shape.segments),
        host_operations=sum(operations for _, operations in host),
        code_operations=sum(operations for kind, operations in host if kind in _CODING),
        integer_operations=sum(work.at(context) for work in on_chip),
        integer_products=sum(work.products * (work.positions(context) if work.per_position else 1) for work in on_chip),
        integer_messages=sum(work.neurons(context) for work in on_chip),
        **_link(shape),
    )


def _link(shape: ModelShape) -> dict[str, Any]:
    """What enters and leaves a network without a host, and the steps that it adds."""
    if any(segment.hosted for segment in shape.segments):
        return {}
    return {"link_in": float(shape.width), "link_out": float(shape.vocabulary), "between_steps": shape.between_steps}


def assumed_density(
    code: SpikeCode, outlier_share: float, width: int, fired: bool = False, probabilities: bool = False
) -> Density:
    """Densities of `width` codes with a common step.

    Args:
        outlier_share: how many may be outliers.
        fired: outputs of ReLU neurons, which have no outliers. probabilities: of signed codes, that values are such.
    """
    width = max(width, 2)
    if fired:
        mean = math.sqrt(0.5 / math.pi)
        if code.repeats:
            step = _LARGEST_FIRED / code.code_max
            counted = sum(1 - _NORMAL.cdf((k + 0.5) * step) for k in range(code.code_max))
            return Density(spikes=counted, outliers=0.0, rate=255 * mean / _extreme(width))
        step = _LARGEST_FIRED / (code.window - 1)
        return Density(spikes=1 - _NORMAL.cdf(step / 2), outliers=0.0, rate=255 * mean / _extreme(width))
    low, high = code.code_span(messages=False)
    if code.by_plane:
        return _planes(code, width, probabilities)
    if code.graded:
        return _asymmetric(code, width)
    if not code.signed:
        return _probabilities(code, outlier_share, width)
    largest = _extreme(width)
    rate = 127 * math.sqrt(2 / math.pi) / largest
    if not code.has_spikes:
        zero = 2 * _NORMAL.cdf(0.5 * largest / code.code_max) - 1
        return Density(spikes=0.0, outliers=1 - zero, rate=rate)
    limit = _NORMAL.inv_cdf(1 - outlier_share / 2) if outlier_share * width >= 1 else largest
    reach = (high - low + 1) / 2  # of both signs on average
    step = max(limit / reach, largest / (code.code_max + 0.5))
    silent = _between(step, -code.zero - 0.5, -code.zero + 0.5)
    spiking = _between(step, low - 0.5, high + 0.5)
    return Density(spikes=spiking - silent, outliers=1 - spiking, rate=rate)


def _between(step: float, low: float, high: float) -> float:
    return _NORMAL.cdf(high * step) - _NORMAL.cdf(low * step)


def _extreme(width: int) -> float:
    """About the largest of `width` normal values."""
    return max(_NORMAL.inv_cdf(1 - 0.5 / width), 0.5)


def _asymmetric(code: SpikeCode, width: int) -> Density:
    """Unsigned codes of normal values from their lowest to their highest; of ordinary channels, which most are."""
    largest = _extreme(width)
    step = 2 * largest / (2**code.spike_bits - 1)
    return Density(spikes=1 - _NORMAL.cdf(-largest + step / 2), outliers=0.0, rate=255 / 2)


def _planes(code: SpikeCode, width: int, probabilities: bool) -> Density:
    largest = _extreme(width)
    unused = _SCORE_DEVIATION * largest / math.log(2) if probabilities else math.log2(1.5 * largest)
    rate = 127 * math.sqrt(2 / math.pi) / largest
    return Density(spikes=max(code.window - unused, 0.0) / 2, outliers=0.0, rate=rate)


def _probabilities(code: SpikeCode, outlier_share: float, width: int) -> Density:
    deviation, top = _SCORE_DEVIATION, code.code_span(messages=False)[1]
    largest = math.exp(deviation * _extreme(width))
    limit = math.exp(deviation * _NORMAL.inv_cdf(1 - outlier_share)) if 1 <= outlier_share * width < width else largest
    step = max(min(limit, largest) / (top + 0.5), largest / (code.code_max + 0.5))
    silent = _NORMAL.cdf(math.log(step / 2) / deviation)
    spiking = _NORMAL.cdf(math.log(step * (top + 0.5)) / deviation)
    mean = math.exp(deviation**2 / 2) * _NORMAL.cdf(_extreme(width) - deviation)  # of values up to the largest
    return Density(spikes=max(spiking - silent, 0.0), outliers=1 - max(spiking, silent), rate=255 * mean / largest)


def _measured(row: CoreCounts, segment: Segment) -> SegmentWork:
    n = row.tokens
    return SegmentWork(
        **_names(segment),
        bits=row.weight_bits,
        elements=row.elements / n,
        spikes=row.spikes / n,
        outliers=row.outliers / n,
        neurons=row.neurons / n,
        dense_macs=row.dense_macs / n,
        synaptic_adds=row.synaptic_adds / n,
        macs=row.macs / n,
        neuron_updates=row.neuron_updates / n,
        comparisons=row.comparisons / n,
        ramp_adds=row.ramp_adds / n,
        readouts=row.readouts / n,
        rate_spikes=row.rate_spikes / n,
        rate_adds=row.rate_adds / n,
        parts=row.neurons / n / segment.outputs if segment.part else 1.0,
    )


def _assumed(segment: Segment, context: int) -> SegmentWork:
    code = segment.codes
    elements = segment.lines(context)
    fired = segment.fed_by is not None and not code.signed
    density = assumed_density(code, segment.outlier_share, segment.row(context), fired, segment.kind == "mix")
    products, neurons = segment.synapses(context), segment.neurons(context)
    return SegmentWork(
        **_names(segment),
        bits=segment.bits,
        elements=elements,
        spikes=density.spikes * elements,
        outliers=density.outliers * elements,
        neurons=neurons,
        dense_macs=products,
        synaptic_adds=0.0 if code.graded else density.spikes * products,
        macs=(density.outliers + (density.spikes if code.graded else 0.0)) * products,
        neuron_updates=segment.halves * neurons * code.window,
        comparisons=float(neurons * segment.comparisons),
        ramp_adds=float(neurons * segment.ramp_adds),
        readouts=0 if segment.fires or not segment.hosted else segment.readouts * neurons,
        rate_spikes=density.rate * elements,
        rate_adds=density.rate * products,
        parts=float(len(segment.fan_ins(context))),
    )


def _names(segment: Segment) -> dict[str, Any]:
    return {
        "block": segment.block,
        "name": segment.name,
        "kind": segment.kind,
        "encoding": segment.encoding,
        "window": segment.codes.window,
        "weight_bits": segment.weight_bits,
        "fed_on_chip": segment.fed_by is not None or not segment.hosted,
        "states_touched": segment.states_touched,
        "written": segment.cached(),
    }


def _pairs(stats: Stats, shape: ModelShape) -> Sequence[tuple[CoreCounts, Segment]]:
    return list(zip(stats.core, shape.segments, strict=True))
