"""Energy of a token: counts first, joules by profile second, for four networks that compute the same layers.

    FP16        float16 weights and activations, dense
    integer     the bit-matched twin: the same weights and codes, dense and without spikes
    rate        the same weights, every activation an 8-bit rate code in 256 steps, integrate and fire
    ours        the network as it was converted: its spikes, messages and neurons

All four read their weights from the same memory, send the same values between host and chip, and leave norms, softmax and the
like to the host; float16 needs no coding. States are 24 bits wide; our neurons read and write all of theirs in every step, an
integrate-and-fire neuron has one, a dense one writes its sum once. What could pass those bits is split over several neurons,
but for float16. A spike costs an addition per synapse, a graded one a narrow MAC and a message of its bits. An outlier of the
integer twin takes the bits of a message and 16 for its place; a graded message of more than 8 bits costs in proportion to both,
and its products one MAC for every 8 bits. On platforms of events alone the twin sends each code that is not silent as a graded
message in a window of one step.

Of a network without a host, integer operations between the segments are additions of a membrane, a product of 24 bits being
nine MACs of 8, and their results are messages of 24 bits; every network but float16 has the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from kirin_lava.base.loihi2 import MESSAGE_BITS, STATE_BITS
from kirin_lava.hardware.profile import Profile
from kirin_lava.hardware.timing import RATE_WINDOW
from kirin_lava.hardware.work import ModelWork, SegmentWork
from kirin_lava.methods.method import Paper
from kirin_lava.spikes.codes import SpikeCode, code_named

__all__ = ["NETWORKS", "EnergyColumn", "EnergyTable", "PaperView", "energy_table", "paper_view", "verdict"]

NETWORKS = {
    "fp16": "FP16 network",
    "integer": "bit-matched integer twin",
    "rate": f"8-bit rate-coded spiking network (T = {RATE_WINDOW})",
    "ours": "ours",
}

_INDEX_BITS = 16
_WORD_PRODUCT = 9  # products of 8 bits in one of 24
_COMPUTE = ("mac_fp16", "mac_4x4", "mac_4x8", "mac_8x8", "synaptic_add", "membrane_add", "compare", "neuron_update")
_GROUPS = {
    "compute": _COMPUTE,
    "memory": ("weight_bit", "state_bit"),
    "movement on chip": ("spike_out", "message_out", "spike_hop", "message_hop", "dense_bit_hop"),
    "host link": ("host_bit",),
    "host": ("host_operation",),
}
_UNPRICED = {
    "weight_bit": "reading of weights",
    "state_bit": "reading and writing of states",
    "spike_out": "sending of spikes",
    "message_out": "sending of messages",
    "spike_hop": "hops of spikes",
    "message_hop": "hops of messages",
    "dense_bit_hop": "hops of dense codes",
    "host_bit": "the link to the host",
    "host_operation": "the work of the host",
}
PICO = 1e-12

_PAPER_ADD, _PAPER_MAC = 0.9, 4.6
"""pJ of a float32 add and MAC at 45 nm (Horowitz 2014), the convention of most papers on spiking networks."""

Counts = dict[str, float]


@dataclass(frozen=True)
class EnergyColumn:
    """One network under one profile, per token.

    Attributes:
        counts: operations by the names of `kirin_lava.hardware.profile.PRICES`; hops are not yet multiplied in.
        joules: by group; None for a network that the platform cannot run.
        segments: joules by block and segment, host work left out.
        total: sum of the groups, without static power.
        unpriced: operations that come up but have no known price: the total leaves them out.
        static_joules: static power of the chips over the time of a token, None where either is unknown.
    """

    network: str
    title: str
    counts: Counts
    joules: dict[str, float] | None
    segments: dict[str, float] | None
    total: float | None
    unpriced: tuple[str, ...]
    static_joules: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "unpriced": list(self.unpriced)}


@dataclass(frozen=True)
class EnergyTable:
    """The four networks under one profile, per token. source: where the counts are from."""

    profile: Profile
    source: str
    columns: tuple[EnergyColumn, ...]

    def column(self, network: str) -> EnergyColumn:
        """By key of `NETWORKS`."""
        return next(column for column in self.columns if column.network == network)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the verdict in words."""
        return {
            "profile": self.profile.to_dict(),
            "source": self.source,
            "columns": [column.to_dict() for column in self.columns],
            "verdict": verdict(self),
        }


def energy_table(work: ModelWork, profile: Profile, chips: int = 0, seconds_per_token: float | None = None) -> EnergyTable:
    """Joules per token of all four networks.

    Args:
        chips, seconds_per_token: of our network, for static power; the others' times are not known.
    """
    count: dict[str, Callable[[SegmentWork], Counts]] = {
        "fp16": _fp16,
        "integer": _integer_events if profile.events_only else _integer_dense,
        "rate": _rate,
        "ours": _ours,
    }
    columns = []
    for network in NETWORKS:
        rows = {f"{segment.block} {segment.name}": count[network](segment) for segment in work.segments}
        rows_between, host = _between(network, work)
        static = None
        watts = profile.static_watts_per_chip.value
        if network == "ours" and watts is not None and seconds_per_token is not None:
            static = watts * chips * seconds_per_token
        columns.append(_column(network, rows, rows_between, host, profile, static))
    return EnergyTable(profile, work.source, tuple(columns))


def verdict(table: EnergyTable) -> str:
    """Who wins under a profile, in plain words; static power is left out, because it is known for ours alone."""
    ours = table.column("ours")
    if ours.total is None:
        return f"Under {table.profile.title} our network cannot be priced."
    totals = {column.network: column.total for column in table.columns if column.total is not None}
    best = min(totals, key=lambda network: totals[network])
    words = [f"Under {table.profile.title}, {_winner(best)} least energy per token"]
    words += [f"the {NETWORKS[name]} takes {_times(total, ours.total)}" for name, total in totals.items() if name != "ours"]
    text = "; ".join(words) + "."
    twin = totals.get("integer")
    if twin is not None and twin < ours.total:
        text += " The integer twin wins: spikes cost energy here, they do not save it."
    missing = [NETWORKS[column.network] for column in table.columns if column.total is None]
    if missing:
        text += f" The {' and the '.join(missing)} cannot run on this platform."
    if ours.unpriced:
        text += f" Not priced, for want of a public number: {', '.join(_UNPRICED[name] for name in ours.unpriced)}."
    return text


@dataclass(frozen=True)
class PaperView:
    """What papers on spiking networks would count: additions against MACs, compute only, one price each.

    Attributes:
        claimed_energy_reduction, claimed_step_reduction: what the method's paper claims, None where there is no claim.
        against_dense, against_rate: share of energy saved against the network without spikes, and against the rate code.
        step_reduction: of our window against 256 steps.
    """

    claimed_energy_reduction: float | None
    claimed_step_reduction: float | None
    add_picojoules: float
    mac_picojoules: float
    against_dense: float
    against_rate: float
    step_reduction: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def paper_view(work: ModelWork, paper: Paper | None = None) -> PaperView:
    """Our reduction as papers count it: a spike costs additions, a graded one and an outlier MACs, and nothing else costs
    anything.

    Args:
        paper: of the method, for its claims.
    """
    ours = sum(s.synaptic_adds * _PAPER_ADD + s.macs * _PAPER_MAC for s in work.segments)
    dense = sum(s.dense_macs for s in work.segments) * _PAPER_MAC
    rate = sum(s.rate_adds for s in work.segments) * _PAPER_ADD
    window = max(s.window for s in work.segments)
    return PaperView(
        claimed_energy_reduction=None if paper is None else paper.energy_reduction,
        claimed_step_reduction=None if paper is None else paper.step_reduction,
        add_picojoules=_PAPER_ADD,
        mac_picojoules=_PAPER_MAC,
        against_dense=1 - ours / dense,
        against_rate=1 - ours / rate,
        step_reduction=1 - window / RATE_WINDOW,
    )


# ---- counts of the four networks -------------------------------------------------------------------------------------------


def _fp16(s: SegmentWork) -> Counts:
    return {
        "mac_fp16": s.dense_macs,
        "weight_bit": 16 * (s.dense_macs + s.written),
        "state_bit": 16 * s.neurons / s.parts,
        "dense_bit_hop": 16 * s.elements,
        "host_bit": 16 * (_hosted(s) * s.elements + s.readouts / s.parts + s.written),
    }


def _integer_dense(s: SegmentWork) -> Counts:
    outliers = s.outliers / s.elements if s.elements else 0.0
    narrow, wide = _mac_names(s)
    return {
        narrow: s.dense_macs * (1 - outliers),
        wide: _message_macs(s, s.dense_macs * outliers),
        "weight_bit": s.weight_bits * (s.dense_macs + s.written),
        "state_bit": STATE_BITS * s.neurons,
        "compare": s.comparisons + s.ramp_adds,
        "dense_bit_hop": _code_bits(s),
        "host_bit": _link_bits(s),
    }


def _integer_events(s: SegmentWork) -> Counts:
    narrow, wide = _mac_names(s)
    # a code that takes several spikes is one message of the twin
    code = code_named(s.encoding)
    graded = code.graded
    if code.by_plane:
        return _integer_planes(s, code)
    spikes, products = min(s.spikes, s.elements), min(s.macs, s.dense_macs)
    messages = _spike_cost(s) * spikes + _message_cost(s) * s.outliers
    return {
        narrow: products if graded else s.synaptic_adds,
        wide: 0.0 if graded else _message_macs(s, s.macs),
        "weight_bit": s.bits * ((products if graded else s.synaptic_adds + s.macs) + s.written),
        "neuron_update": s.neurons,
        "membrane_add": s.neurons,
        "state_bit": 2 * STATE_BITS * s.neurons,
        "compare": s.comparisons + s.ramp_adds,
        "message_out": messages,
        "message_hop": messages,
        "host_bit": _link_bits(s),
    }


def _integer_planes(s: SegmentWork, code: SpikeCode) -> Counts:
    """One message a code that is not silent, as wide as its planes are many, and a product of as many bytes."""
    size = -(-code.window // 8)
    sent, products = min(s.spikes, s.elements), min(s.synaptic_adds + s.macs, s.dense_macs)
    messages = (code.spike_bits + _INDEX_BITS) / (8 + _INDEX_BITS) * sent
    return {
        "mac_8x8": size * products,
        "weight_bit": s.bits * (products + s.written),
        "neuron_update": s.neurons,
        "membrane_add": s.neurons,
        "state_bit": 2 * STATE_BITS * s.neurons,
        "message_out": messages,
        "message_hop": messages,
        "host_bit": _hosted(s) * _code_bits(s) + STATE_BITS * s.neurons + 8 * s.written,
    }


def _rate(s: SegmentWork) -> Counts:
    updates = RATE_WINDOW * s.neurons
    return {
        "synaptic_add": s.rate_adds,
        "weight_bit": s.bits * (s.rate_adds + s.written),
        "neuron_update": updates,
        "membrane_add": updates,
        "compare": updates,
        "state_bit": 2 * STATE_BITS * updates,
        "spike_out": s.rate_spikes,
        "spike_hop": s.rate_spikes,
        "host_bit": _hosted(s) * 8 * s.elements + STATE_BITS * s.readouts + 8 * s.written,
    }


def _ours(s: SegmentWork) -> Counts:
    narrow, wide = _mac_names(s)
    graded = code_named(s.encoding).graded  # a weight times a payload of a few bits, and the payload travels
    sent = _spike_cost(s) * s.spikes if graded else 0.0
    return {
        "synaptic_add": s.synaptic_adds,
        narrow if graded else wide: s.macs if graded else _message_macs(s, s.macs),
        "weight_bit": s.bits * (s.synaptic_adds + s.macs + s.written),
        "neuron_update": s.neuron_updates,
        "membrane_add": s.neuron_updates,
        "compare": s.comparisons + s.ramp_adds,
        "state_bit": 2 * s.states_touched * STATE_BITS * s.neuron_updates,
        "spike_out": 0.0 if graded else s.spikes,
        "spike_hop": 0.0 if graded else s.spikes,
        "message_out": sent + _message_cost(s) * s.outliers,
        "message_hop": sent + _message_cost(s) * s.outliers,
        "host_bit": _link_bits(s),
    }


def _mac_names(s: SegmentWork) -> tuple[str, str]:
    """MACs of codes in the spike range (5 bits at the price of 4) and of outliers, for the width of the weights."""
    return ("mac_4x4", "mac_4x8") if s.weight_bits == 4 else ("mac_4x8", "mac_8x8")


def _code_bits(s: SegmentWork) -> float:
    """Of a dense vector of codes: 4 bits each or 5, outliers apart with their place; where all are integers, those of one."""
    code = code_named(s.encoding)
    if not code.has_spikes:
        return code.message_bits * s.elements
    return max(4, code.spike_bits) * s.elements + (code.message_bits + _INDEX_BITS) * s.outliers


def _message_cost(s: SegmentWork) -> float:
    """Of a graded message, in prices of one with 8 bits."""
    return (code_named(s.encoding).message_bits + _INDEX_BITS) / (8 + _INDEX_BITS)


def _spike_cost(s: SegmentWork) -> float:
    """Of a spike with the payload of a graded one, in prices of a message with 8 bits; of another, as a message of its own."""
    code = code_named(s.encoding)
    return (code.payload_bits + _INDEX_BITS) / (8 + _INDEX_BITS) if code.graded else 1.0


def _message_macs(s: SegmentWork, products: float) -> float:
    """MACs of products of messages: one for every 8 bits of a message."""
    return -(-code_named(s.encoding).message_bits // 8) * products


def _hosted(s: SegmentWork) -> int:
    return 0 if s.fed_on_chip else 1


def _link_bits(s: SegmentWork) -> float:
    return _hosted(s) * (_code_bits(s) + 8 * s.written) + STATE_BITS * s.readouts


def _between(network: str, work: ModelWork) -> tuple[Counts, float]:
    """What is done between the segments, by neurons and by a host. Without a host a float16 network does in float, for as many
    operations, what the others do in integers."""
    if network == "fp16":
        return {}, work.host_operations - work.code_operations + work.integer_operations
    messages = work.integer_messages * (MESSAGE_BITS + _INDEX_BITS) / (8 + _INDEX_BITS)
    counts = {
        "membrane_add": work.integer_operations - work.integer_products,
        "mac_8x8": _WORD_PRODUCT * work.integer_products,
        "neuron_update": work.integer_messages,
        "state_bit": 2 * STATE_BITS * work.integer_messages,
        "message_out": messages,
        "message_hop": messages,
        "host_bit": STATE_BITS * (work.link_in + work.link_out),
    }
    return counts, work.host_operations


# ---- joules ----------------------------------------------------------------------------------------------------------------


def _column(
    network: str, rows: dict[str, Counts], between: Counts, host: float, profile: Profile, static: float | None
) -> EnergyColumn:
    counts: Counts = {}
    for row in [*rows.values(), between, {"host_operation": host}]:
        for name, number in row.items():
            if number:
                counts[name] = counts.get(name, 0.0) + number
    unpriced = tuple(name for name in counts if _joules_each(name, profile) is None)
    if any(name in _COMPUTE for name in unpriced):
        return EnergyColumn(network, NETWORKS[network], counts, None, None, None, unpriced, None)
    joules = {group: _cost({name: counts.get(name, 0.0) for name in names}, profile) for group, names in _GROUPS.items()}
    segments = {name: _cost(row, profile) for name, row in rows.items()}
    return EnergyColumn(network, NETWORKS[network], counts, joules, segments, sum(joules.values()), unpriced, static)


def _cost(counts: Counts, profile: Profile) -> float:
    return sum(number * (_joules_each(name, profile) or 0.0) for name, number in counts.items())


def _joules_each(name: str, profile: Profile) -> float | None:
    price = profile.prices[name].value
    if price is None:
        return None
    if not name.endswith("_hop"):
        return price * PICO
    hops = profile.hops.value
    return None if hops is None else price * hops * PICO


def _winner(network: str) -> str:
    return "ours takes the" if network == "ours" else f"the {NETWORKS[network]} takes the"


def _times(other: float, ours: float) -> str:
    return f"{other / ours:.2f} times ours" if ours else "energy, ours none"
