"""Placement: the neurons of a model on the neuro cores of as many chips as it takes.

A segment is cut by neurons; each core holds all inputs of its neurons. Of attention every head is placed on its own, with its
cache for `context` positions as synapses. Packing is first-fit in execution order: whole cores first, then the rest of a
segment into the first core that has room for it. A fan-in too wide for one core is cut into parts whose membranes the host
adds.

Integer operations between the segments, of a network without a host, have a neuron for every number of their result, with two
inputs, four words of state, and constants of its own; a core that holds some of them stores the tables they look up once.
Cosines and sines of all positions lie in cores of their own, which send those of a token to whoever turns something.

This says that a model is feasible in this memory model, not that Intel's compiler, which is closed, would place it so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

from kirin_lava.base import loihi2
from kirin_lava.base.errors import FitError
from kirin_lava.hardware.shapes import ModelShape, Segment
from kirin_lava.spikes.codes import code_named

__all__ = ["DEFAULT_CONTEXT", "Core", "Placed", "PlacedIntegers", "Placement", "control_lines", "place", "planned_context"]

DEFAULT_CONTEXT = 4096
"""Positions to plan for where nobody says how many. Caches are most of what a long context costs, and the longest sequence of a
model is what it may be asked for, not what is run: this holds a long prompt with its answer, and the cost of each further
position is told beside it."""


@dataclass
class Core:
    """What one neuro core holds. axons_in: input lines, control lines included. tasks: block and segment, or operation between
    segments -> its neurons. tables: names of those it stores, whose bytes count as synapses."""

    neurons: int = 0
    axons_in: int = 0
    axons_out: int = 0
    synapse_bytes: int = 0
    state_bytes: int = 0
    tasks: dict[tuple[str, str], int] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)

    @property
    def total_bytes(self) -> int:
        """Memory in use."""
        axons = self.axons_in * loihi2.INPUT_AXON_BYTES + self.axons_out * loihi2.OUTPUT_AXON_BYTES
        return self.synapse_bytes + self.state_bytes + axons

    @property
    def utilisation(self) -> float:
        """Share of the resource that is used most."""
        return max(
            self.neurons / loihi2.NEURONS_PER_CORE,
            self.synapse_bytes / loihi2.SYNAPSE_MEMORY_BYTES,
            self.total_bytes / loihi2.CORE_MEMORY_BYTES,
        )


@dataclass(frozen=True)
class Placed:
    """One segment on the chips.

    Attributes:
        neurons: all of them, partial ones of a fan-in in parts included.
        fan_in, fan_in_parts: inputs that meet in an output, cut into how many parts.
        lines, control_lines: input lines of the segment; of a fire segment in its stock form, lines that do not carry codes.
        outlier_lines: lines that must be able to carry graded messages.
        synapse_bytes, cache_bytes: stored weights, and stored keys or values.
        cores: how many hold its neurons; core_copies: to how many each input line goes, on average over its lines.
        chips: those it lies on, in order.
    """

    block: str
    name: str
    kind: str
    neurons: int
    fan_in: int
    fan_in_parts: int
    bits: int
    lines: int
    control_lines: int
    outlier_lines: int
    synapse_bytes: int
    cache_bytes: int
    cores: int
    core_copies: float
    chips: tuple[int, ...]
    neurons_by_chip: tuple[int, ...]


@dataclass(frozen=True)
class PlacedIntegers:
    """Integer operations between the segments on the chips, all of them.

    Attributes:
        neurons: one for every number of a result. table_bytes: of all copies of tables. tables: bytes of one copy of each.
        constant_bytes: gains, scales and biases. rotary_bytes: cosines and sines. cores: that hold any of it.
    """

    neurons: int
    table_bytes: int
    tables: dict[str, int]
    constant_bytes: int
    rotary_bytes: int
    cores: int


@dataclass(frozen=True, eq=False)
class Placement:
    """A model on chips. `physical_fit_verified` is False: nothing of this was seen on silicon.

    Attributes:
        context: positions that the caches hold.
        chips_per_position: what as many further positions would take each, on average; more than the first ones where the
            input lines of a cache fill a core's memory.
        between: integer operations between the segments, None where a host does what is to be done there.
    """

    context: int
    chips_per_position: float
    segments: tuple[Placed, ...]
    cores: tuple[Core, ...]
    between: PlacedIntegers | None = None

    @property
    def chips(self) -> int:
        """Chips needed."""
        return -(-len(self.cores) // loihi2.USABLE_CORES_PER_CHIP)

    @property
    def cache_bytes(self) -> int:
        """Stored keys and values."""
        return sum(segment.cache_bytes for segment in self.segments)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; cores as columns."""
        columns = ("neurons", "axons_in", "axons_out", "synapse_bytes", "total_bytes")
        used = [core.utilisation for core in self.cores]
        return {
            "context": self.context,
            "chips": self.chips,
            "cores": len(self.cores),
            "cores_per_chip": loihi2.USABLE_CORES_PER_CHIP,
            "neurons": sum(core.neurons for core in self.cores),
            "synapse_bytes": sum(s.synapse_bytes for s in self.segments),
            "cache_bytes": self.cache_bytes,
            "cache_bytes_per_position": self.cache_bytes / self.context,
            "chips_per_position": self.chips_per_position,
            "mean_utilisation": sum(used) / max(len(used), 1),
            "physical_fit_verified": False,
            **({} if self.between is None else {"between": asdict(self.between)}),
            "segments": [asdict(segment) for segment in self.segments],
            "core_columns": {name: [getattr(core, name) for core in self.cores] for name in columns} | {"utilisation": used},
        }


@dataclass(frozen=True)
class _Unit:
    """Neurons that share all their input lines."""

    neurons: int
    fan_in: int
    control: int
    bits: int
    states: int

    @property
    def synapse_bytes(self) -> int:
        """Of one neuron; weights of control lines take 8 bits."""
        return -(-self.fan_in * self.bits // 8) + self.control

    def room(self, core: Core) -> int:
        """How many of its neurons fit into what a core has left."""
        axons = (self.fan_in + self.control) * loihi2.INPUT_AXON_BYTES
        per_neuron = self.synapse_bytes + self.states * loihi2.STATE_BYTES + loihi2.OUTPUT_AXON_BYTES
        left = loihi2.CORE_MEMORY_BYTES - core.total_bytes - axons
        return max(
            0,
            min(
                loihi2.NEURONS_PER_CORE - core.neurons,
                (loihi2.SYNAPSE_MEMORY_BYTES - core.synapse_bytes) // self.synapse_bytes,
                left // per_neuron,
            ),
        )

    def put(self, core: Core, neurons: int, task: tuple[str, str]) -> None:
        core.neurons += neurons
        core.axons_in += self.fan_in + self.control
        core.axons_out += neurons
        core.synapse_bytes += neurons * self.synapse_bytes
        core.state_bytes += neurons * self.states * loihi2.STATE_BYTES
        core.tasks[task] = core.tasks.get(task, 0) + neurons


@dataclass(frozen=True)
class _Between:
    """Neurons of an integer operation."""

    neurons: int
    synapse_bytes: int  # constants of a neuron
    tables: tuple[tuple[str, int], ...]

    def missing(self, core: Core) -> int:
        """Bytes of tables that a core has yet to store."""
        return sum(size for name, size in self.tables if name not in core.tables)

    def room(self, core: Core) -> int:
        """See `_Unit`."""
        tables = self.missing(core)
        fit = [
            loihi2.NEURONS_PER_CORE - core.neurons,
            (loihi2.CORE_MEMORY_BYTES - core.total_bytes - tables) // (self.synapse_bytes + _BETWEEN_BYTES),
        ]
        left = loihi2.SYNAPSE_MEMORY_BYTES - core.synapse_bytes - tables
        if self.synapse_bytes or left < 0:
            fit.append(left // max(self.synapse_bytes, 1))
        return max(0, min(fit))

    def put(self, core: Core, neurons: int, task: tuple[str, str]) -> None:
        """See `_Unit`."""
        core.synapse_bytes += self.missing(core) + neurons * self.synapse_bytes
        core.tables |= {name for name, _ in self.tables}
        core.neurons += neurons
        core.axons_in += _BETWEEN_INPUTS * neurons
        core.axons_out += neurons
        core.state_bytes += neurons * _BETWEEN_WORDS * loihi2.STATE_BYTES
        core.tasks[task] = core.tasks.get(task, 0) + neurons


_BETWEEN_INPUTS, _BETWEEN_WORDS = 2, 4
_BETWEEN_BYTES = _BETWEEN_INPUTS * loihi2.INPUT_AXON_BYTES + loihi2.OUTPUT_AXON_BYTES + _BETWEEN_WORDS * loihi2.STATE_BYTES
_ROTARY_BYTES = 3  # of a cosine or a sine


@dataclass
class _Floor:
    """Cores so far. open: those that hold the rest of something. tried: how many of them had no room for a unit; they fill up,
    so that they never will."""

    cores: list[Core] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    tried: dict[_Unit | _Between, int] = field(default_factory=dict)

    def pack(self, unit: _Unit | _Between) -> Iterator[tuple[int, int]]:
        """Core and number of neurons, until all are placed."""
        left = unit.neurons
        full = unit.room(Core())
        while left >= full:
            self.cores.append(Core())
            yield len(self.cores) - 1, full
            left -= full
        if not left:
            return
        need = left * unit.synapse_bytes
        for place in range(self.tried.get(unit, 0), len(self.open)):
            core = self.cores[self.open[place]]
            self.tried[unit] = place
            if need <= loihi2.SYNAPSE_MEMORY_BYTES - core.synapse_bytes and left <= unit.room(core):
                yield self.open[place], left
                return
        self.tried[unit] = len(self.open)
        self.cores.append(Core())
        self.open.append(len(self.cores) - 1)
        yield len(self.cores) - 1, left


def control_lines(segment: Segment) -> int:
    """Control lines of the stock form of a fire segment: two numbers of three digits, and at most one line per fire step.

    See `kirin_lava.export.netx.stock`; a neuron in microcode needs none, and one that counts has no stock form.
    """
    fires = None if segment.fires is None else code_named(segment.fires)
    return 0 if fires is None or fires.repeats else 6 + fires.window - 2


def planned_context(max_positions: int, context: int | None) -> int:
    """Positions to plan for: those that are asked for, else the smaller of the model's own and `DEFAULT_CONTEXT`.

    Raises:
        FitError: more positions than the model has.
    """
    positions = min(max_positions, DEFAULT_CONTEXT) if context is None else context
    if not 1 <= positions <= max_positions:
        raise FitError(f"a context of {positions} positions is outside 1..{max_positions} of this model")
    return positions


def place(shape: ModelShape, context: int | None = None) -> Placement:
    """Put a model on chips.

    Args:
        context: positions that the caches must hold, see `planned_context`.

    Raises:
        FitError: a context beyond the model's positions, or a segment that no core can hold.
    """
    positions = planned_context(shape.max_positions, context)
    floor = _Floor()
    placed = [_place_segment(segment, positions, floor) for segment in shape.segments]
    between = _place_between(shape, positions, floor)
    return Placement(positions, _chips_per_position(shape, positions), tuple(placed), tuple(floor.cores), between)


def _place_between(shape: ModelShape, context: int, floor: _Floor) -> PlacedIntegers | None:
    """Integer operations, behind all segments."""
    works = [work for work in shape.host if work.on_chip and not work.part]
    if not works:
        return None
    used: set[int] = set()
    known: dict[str, int] = {}
    copies = 0
    for work in works:
        known |= dict(work.tables)
        unit = _Between(work.neurons(context), work.constant_bytes, work.tables)
        for index, neurons in floor.pack(unit):
            copies += unit.missing(floor.cores[index])
            unit.put(floor.cores[index], neurons, (work.block, work.name))
            used.add(index)
    rotary = context * shape.rotary_width * _ROTARY_BYTES
    for start in range(0, rotary, loihi2.SYNAPSE_MEMORY_BYTES):
        size = min(rotary - start, loihi2.SYNAPSE_MEMORY_BYTES)
        used.add(len(floor.cores))
        core = Core(neurons=shape.rotary_width, axons_out=shape.rotary_width, synapse_bytes=size)
        core.tasks["model", "rotary"] = shape.rotary_width
        floor.cores.append(core)
    neurons = sum(work.neurons(context) for work in works)
    constants = sum(work.neurons(context) * work.constant_bytes for work in works)
    return PlacedIntegers(neurons, copies, dict(sorted(known.items())), constants, rotary, len(used))


def _chips_per_position(shape: ModelShape, context: int) -> float:
    """See `Placement`; of cores that hold nothing but caches."""
    further = _cache_cores(shape, 2 * context) - _cache_cores(shape, context)
    return further / context / loihi2.USABLE_CORES_PER_CHIP


def _cache_cores(shape: ModelShape, context: int) -> int:
    """Cores of the attention of every block, placed for itself; blocks that are alike are placed once."""
    known: dict[tuple[Segment, ...], int] = {}
    total = 0
    for block in shape.blocks():
        attention = tuple(replace(s, block="") for s in shape.segments if s.heads and s.block == block)
        if attention not in known:
            floor = _Floor()
            for segment in attention:
                _place_segment(segment, context, floor)
            known[attention] = len(floor.cores)
        total += known[attention]
    return total


def _place_segment(segment: Segment, context: int, floor: _Floor) -> Placed:
    units = list(_units(segment, context))
    task = (segment.block, segment.name)
    used: dict[int, int] = {}  # core -> neurons
    copies = 0
    for unit in units:
        for index, neurons in floor.pack(unit):
            unit.put(floor.cores[index], neurons, task)
            used[index] = used.get(index, 0) + neurons
            copies += 1
    by_chip: dict[int, int] = {}
    for index, neurons in used.items():
        chip = index // loihi2.USABLE_CORES_PER_CHIP
        by_chip[chip] = by_chip.get(chip, 0) + neurons
    chips = sorted(by_chip)
    stored = sum(unit.neurons * unit.synapse_bytes for unit in units)
    lines = segment.lines(context)
    parts = len(units) // max(segment.heads, 1)
    return Placed(
        block=segment.block,
        name=segment.name,
        kind=segment.kind,
        neurons=sum(unit.neurons for unit in units),
        fan_in=segment.row(context),
        fan_in_parts=parts,
        bits=segment.bits,
        lines=lines,
        control_lines=control_lines(segment),
        outlier_lines=lines if segment.outlier_share > 0 else 0,
        synapse_bytes=0 if segment.heads else stored,
        cache_bytes=stored if segment.heads else 0,
        cores=len(used),
        core_copies=copies / len(units),
        chips=tuple(chips),
        neurons_by_chip=tuple(by_chip[chip] for chip in chips),
    )


def _units(segment: Segment, context: int) -> Iterator[_Unit]:
    """The groups of neurons that share their inputs: the whole segment, or a part of a head; each cut by inputs where it is too
    wide."""
    heads, fan_ins = max(segment.heads, 1), segment.fan_ins(context)
    neurons, fan_in = segment.neurons(context) // (heads * len(fan_ins)), fan_ins[0]
    states = segment.state_words
    control = control_lines(segment)
    parts = 1
    while _Unit(1, -(-fan_in // parts), control, segment.bits, states).room(Core()) < 1:
        parts += 1
        if parts > fan_in:
            raise FitError(f"{segment.block} {segment.name}: not even one input of a neuron fits a core")
    if parts > 1 and segment.fires is not None:
        raise FitError(
            f"{segment.block} {segment.name}: a fan-in of {fan_in} fits no core, and neurons that fire cannot share it: "
            "read their membranes out on the host instead"
        )
    for width in fan_ins * heads:
        edges = [width * part // parts for part in range(parts + 1)]
        yield from (_Unit(neurons, stop - start, control, segment.bits, states) for start, stop in pairwise(edges))
