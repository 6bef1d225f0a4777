"""Energy of a token: joules of the counted operations, by profile, for the four networks of `networks.py`; and who wins."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kirin_lava.hardware.networks import NETWORKS, Counts, counts_between, counts_of_segment
from kirin_lava.hardware.profile import Profile
from kirin_lava.hardware.timing import RATE_WINDOW
from kirin_lava.hardware.work import ModelWork
from kirin_lava.methods.method import Paper

__all__ = ["EnergyColumn", "EnergyTable", "PaperView", "energy_table", "paper_view", "verdict"]

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
    columns = []
    for network in NETWORKS:
        rows = {f"{s.block} {s.name}": counts_of_segment(network, s, profile.events_only) for s in work.segments}
        rows_between, host = counts_between(network, work)
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
