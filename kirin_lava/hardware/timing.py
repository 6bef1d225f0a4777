"""Steps and time: how many time steps a token takes through the pipeline, and how short they can be at best.

Every segment is a stage and takes one window of T steps; a segment that fires does so while the next one already integrates.
So a token needs the windows of all stages, one after another (latency), and tokens that do not wait for each other leave the
pipeline every T steps (throughput). A single text does wait: its next token needs the last one.

The time of a window is bounded from below by its barriers, by the synaptic operations of the busiest core, and by its neuron
updates, whichever takes longest. The bound leaves out the network on chip, links between chips, the host, and everything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kirin_lava.base import loihi2
from kirin_lava.base.errors import UsageError
from kirin_lava.hardware.placement import Placement
from kirin_lava.hardware.shapes import ModelShape, Segment
from kirin_lava.hardware.work import ModelWork, SegmentWork
from kirin_lava.spikes.codes import code_named

__all__ = ["CONSTANTS", "Constant", "StageTime", "StepRow", "TimeBound", "step_rows", "time_bound"]

RATE_WINDOW = 256
"""Steps of an 8-bit spike code, 2^8; windows are compared with it."""


@dataclass(frozen=True)
class Constant:
    """A number of the time bound and where it is from."""

    name: str
    seconds: float
    source: str


CONSTANTS = (
    Constant("barrier", loihi2.BARRIER_SECONDS, "Intel Loihi 2 technology brief, 2021: chip-wide time steps under 200 ns"),
    Constant(
        "neuron update",
        loihi2.NEURON_UPDATE_SECONDS,
        "Loihi 1, 8.4 ns active (Davies et al. 2018, table 2, simulated), halved: Loihi 2 is 2x faster (Intel brief)",
    ),
    Constant(
        "synaptic operation",
        loihi2.SYNAPSE_SECONDS,
        "Loihi 1, 3.5 ns (Davies et al. 2018, table 2, simulated), a fifth of it: Loihi 2 is 5x faster (Intel brief)",
    ),
    Constant(
        "barrier over 768 Loihi 1 chips, not part of the bound",
        loihi2.MANY_CHIPS_BARRIER_SECONDS,
        "Frady et al. 2020, arXiv 2004.12691, measured",
    ),
)


@dataclass(frozen=True)
class StepRow:
    """Steps of a token under one code.

    Attributes:
        window: T, steps between two tokens in a full pipeline.
        latency_steps: from a token's entry to its logits.
        stock_latency_steps: the same for the stock netx form, whose windows take one step more, or their fire phase more.
        window_reduction, latency_reduction: against 8-bit spike codes.
    """

    scheme: str
    window: int
    stages: int
    latency_steps: int
    stock_latency_steps: int
    window_reduction: float
    latency_reduction: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def step_rows(shape: ModelShape, windows: Mapping[str, int] | None = None) -> list[StepRow]:
    """Steps under the model's own window, under others, and, last, under 8-bit spike codes.

    Segments that get integers alone take one step in all of them.

    Args:
        windows: T by the name of a code, of the codes that the method knows; the model's own need not be among them.
    """
    own = max(segment.codes.window for segment in shape.segments)
    schemes = dict(windows or {})
    if own not in schemes.values():
        schemes = {"own codes": own, **schemes}
    schemes["8-bit spike codes"] = RATE_WINDOW
    between = shape.between_steps
    longest = _latency(shape.segments, RATE_WINDOW) + between
    return [
        StepRow(
            scheme=scheme,
            window=window,
            stages=len(shape.segments),
            latency_steps=_latency(shape.segments, window) + between,
            stock_latency_steps=_stock_latency(shape.segments, window) + between,
            window_reduction=1 - window / RATE_WINDOW,
            latency_reduction=1 - (_latency(shape.segments, window) + between) / longest,
        )
        for scheme, window in schemes.items()
    ]


def _latency(segments: Sequence[Segment], window: int) -> int:
    return sum(window if segment.codes.has_spikes else 1 for segment in segments)


def _stock_latency(segments: Sequence[Segment], window: int) -> int:
    """See `kirin_lava.export.netx.stimulus`: a read segment takes T + 1 columns, a fire segment T + T'."""
    total = 0
    for segment in segments:
        steps = window if segment.codes.has_spikes else 1
        total += steps + (window if segment.fires and code_named(segment.fires).has_spikes else 1)
    return total


@dataclass(frozen=True)
class StageTime:
    """One segment: work of its busiest core in a window, and the shortest time of that window.

    Attributes:
        synapses, neuron_updates: of the core that holds most of it, per window.
        seconds: lower bound of the window. limited_by: "barrier", "synapses" or "neurons".
    """

    block: str
    name: str
    window: int
    synapses: float
    neuron_updates: float
    seconds: float
    limited_by: str


@dataclass(frozen=True)
class TimeBound:
    """Lower bounds of a model's times at the encoding it was converted with.

    Attributes:
        step_seconds: mean time step of the slowest core, in a full pipeline.
        seconds_per_token: latency of one token, the sum over the stages, and a barrier for every step of integer operations
            between them.
        tokens_per_second: of one text, whose tokens wait for each other.
        pipelined_tokens_per_second: of many texts, one token per window.
    """

    source: str
    stages: tuple[StageTime, ...]
    step_seconds: float
    seconds_per_token: float
    tokens_per_second: float
    pipelined_tokens_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the constants."""
        return {**asdict(self), "constants": [asdict(constant) for constant in CONSTANTS]}


def time_bound(work: ModelWork, placement: Placement) -> TimeBound:
    """The shortest times that barrier and busiest core allow.

    Raises:
        UsageError: work and placement of different models.
    """
    if [(w.block, w.name) for w in work.segments] != [(p.block, p.name) for p in placement.segments]:
        raise UsageError("the placement belongs to another model: its segments differ from those of the work")
    by_name = {(w.block, w.name): w for w in work.segments}
    neurons = {(p.block, p.name): p.neurons for p in placement.segments}
    busiest = dict.fromkeys(by_name, 0)
    slowest = 0.0
    for tasks in {tuple(core.tasks.items()) for core in placement.cores}:  # most cores are alike
        ours = [(task, count) for task, count in tasks if task in by_name]  # the others compute between segments
        loads = [(0.0, 0.0), *(_load(by_name[task], count / neurons[task]) for task, count in ours)]
        slowest = max(slowest, *(sum(seconds) for seconds in zip(*loads, strict=True)))
        busiest.update({task: max(busiest[task], count) for task, count in ours})
    stages = tuple(_stage(w, busiest[w.block, w.name] / neurons[w.block, w.name]) for w in work.segments)
    window = max(w.window for w in work.segments)
    period = max(slowest, window * loihi2.BARRIER_SECONDS)
    latency = sum(stage.seconds for stage in stages) + work.between_steps * loihi2.BARRIER_SECONDS
    return TimeBound(work.source, stages, period / window, latency, 1 / latency, 1 / period)


def _load(work: SegmentWork, share: float) -> tuple[float, float]:
    """Time of the synapses and of the neuron updates of a core that holds a share of a segment, in one window."""
    synapses = share * (work.synaptic_adds + work.macs)
    return synapses * loihi2.SYNAPSE_SECONDS, share * work.neuron_updates * loihi2.NEURON_UPDATE_SECONDS


def _stage(work: SegmentWork, share: float) -> StageTime:
    synapses, updates = _load(work, share)
    limits = {"barrier": work.window * loihi2.BARRIER_SECONDS, "synapses": synapses, "neurons": updates}
    limited_by = max(limits, key=lambda name: limits[name])
    return StageTime(
        block=work.block,
        name=work.name,
        window=work.window,
        synapses=share * (work.synaptic_adds + work.macs),
        neuron_updates=share * work.neuron_updates,
        seconds=limits[limited_by],
        limited_by=limited_by,
    )
