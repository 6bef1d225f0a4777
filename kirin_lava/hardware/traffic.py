"""Traffic per token: events and bits between host, chips and cores, for a placement and the work of a token.

A spike is one packet; a graded one and a message (outlier, membrane, cached code) take two. The host sends what it encodes to
every chip that holds the segment; spikes that neurons fire go to every other chip that holds the next one. On a chip an event
goes to all cores that hold neurons of its line.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from kirin_lava.base.errors import UsageError
from kirin_lava.base.loihi2 import PACKET_BITS
from kirin_lava.hardware.placement import Placed, Placement
from kirin_lava.hardware.work import ModelWork, SegmentWork
from kirin_lava.spikes.codes import code_named

__all__ = ["ModelTraffic", "SegmentTraffic", "traffic"]


@dataclass(frozen=True)
class SegmentTraffic:
    """One segment, per token.

    Attributes:
        from_host_events, from_host_bits: codes and cached codes that enter chips; without a host a row of the embedding, at the
            first segment.
        between_chips_events, between_chips_bits: fired spikes that leave a chip for another.
        on_chip_events, on_chip_bits: deliveries to cores.
        to_host_bits: membranes read out; without a host logits, at the last segment.
    """

    block: str
    name: str
    from_host_events: float
    from_host_bits: float
    between_chips_events: float
    between_chips_bits: float
    on_chip_events: float
    on_chip_bits: float
    to_host_bits: float


@dataclass(frozen=True)
class ModelTraffic:
    """A model, per token. source: where the spike counts are from."""

    source: str
    segments: tuple[SegmentTraffic, ...]

    def total(self) -> dict[str, float]:
        """Sums over the segments."""
        names = [name for name in SegmentTraffic.__dataclass_fields__ if name not in ("block", "name")]
        return {name: sum(getattr(row, name) for row in self.segments) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"source": self.source, "total": self.total(), "segments": [asdict(row) for row in self.segments]}


def traffic(work: ModelWork, placement: Placement) -> ModelTraffic:
    """What moves for one token.

    Raises:
        UsageError: work and placement of different models.
    """
    if [(w.block, w.name) for w in work.segments] != [(p.block, p.name) for p in placement.segments]:
        raise UsageError("the placement belongs to another model: its segments differ from those of the work")
    rows = []
    before: Placed | None = None
    for w, p in zip(work.segments, placement.segments, strict=True):
        rows.append(_segment(w, p, before))
        before = p
    word = 2 * PACKET_BITS
    first, last = rows[0], rows[-1]
    rows[0] = replace(
        first, from_host_events=first.from_host_events + work.link_in, from_host_bits=first.from_host_bits + word * work.link_in
    )
    rows[-1] = replace(rows[-1], to_host_bits=last.to_host_bits + word * work.link_out)
    return ModelTraffic(work.source, tuple(rows))


def _segment(work: SegmentWork, placed: Placed, before: Placed | None) -> SegmentTraffic:
    events = work.spikes + work.outliers
    packets = 2 if code_named(work.encoding).graded else 1
    bits = PACKET_BITS * (packets * work.spikes + 2 * work.outliers)
    hosted = 0 if work.fed_on_chip else len(placed.chips)
    crossing = _crossings(before, placed) if work.fed_on_chip and before is not None else 0.0
    copies, written = placed.core_copies, 0.0 if work.fed_on_chip else work.written
    return SegmentTraffic(
        block=work.block,
        name=work.name,
        from_host_events=events * hosted + written,
        from_host_bits=bits * hosted + 2 * PACKET_BITS * written,
        between_chips_events=events * crossing,
        between_chips_bits=bits * crossing,
        on_chip_events=events * copies + work.written,
        on_chip_bits=bits * copies + 2 * PACKET_BITS * work.written,
        to_host_bits=2 * PACKET_BITS * work.readouts,
    )


def _crossings(source: Placed, target: Placed) -> float:
    """Other chips that a spike of `source` has to reach, on average over its neurons."""
    return sum(
        neurons * len(set(target.chips) - {chip}) for chip, neurons in zip(source.chips, source.neurons_by_chip, strict=True)
    ) / max(sum(source.neurons_by_chip), 1)
