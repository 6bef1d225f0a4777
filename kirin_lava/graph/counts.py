"""Counts of a run: the rows that a `kirin_lava.graph.counter.Counter` makes and that cost estimates read.

Counting rules:

    spike      one event; it adds one weight at every existing synapse (weight not zero) of its channel
    graded     a spike with a payload of some bits; it multiplies and adds like a message, and is counted as a spike
    outlier    one message; it multiplies and adds (MAC) at every existing synapse of its channel
    neuron     every step of its window it is updated once, `v += u`; firing, it meets falling thresholds until it fires
    attention  the same, the cached codes being the synapses; positions later than a token's own do not exist

One window per token and segment. Codes that neurons fired count where they arrive, like any others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CodeCounts", "CoreCounts", "HostCounts", "Stats"]


@dataclass(frozen=True)
class CodeCounts:
    """Codes of one value. `elements = spikes + silent + outliers`, where no code takes several spikes.

    Attributes:
        producer: the operation that made them: an `Encode` on the host, or neurons that fired.
        clipped: codes that a static step clipped.
        largest: largest |q| that came up. at_limit: how often |q| was the largest there is (massive activations).
        histogram: code q -> how often it came up, of those that did, in ascending order. Of wide codes, see `SpikeCode.wide`,
            q is the highest bit of each with its sign.
    """

    block: str
    value: str
    producer: str
    encoding: str
    tokens: int
    elements: int
    spikes: int
    silent: int
    outliers: int
    clipped: int
    largest: int
    at_limit: int
    histogram: dict[int, int]


@dataclass(frozen=True)
class CoreCounts:
    """Work of one segment: what arrived (`elements = spikes + silent + outliers`, where no
    code takes several spikes) and what its neurons did with it.

    Attributes:
        kind: "read", "fire", "score" or "mix". encoding, window: of the codes that arrive, and their T.
        weight_bits: of a stored synapse or cached code.
        windows: one per token; `steps = windows * window`.
        neurons: neuron windows (neurons times windows; of `Score` one per head and visible position).
        dense_macs: products of the same layer without spikes, zeros included.
        synaptic_adds: by spikes. macs: by outlier messages and graded spikes.
        neuron_updates: neuron steps, each one addition `v += u`.
        comparisons: with a threshold. ramp_adds: falls of a threshold by one ramp.
        readouts: sums that went to the host: membranes, or the sums of every step.
        rate_spikes, rate_adds: spikes and additions of an 8-bit rate code of the same values (expected, not exact).
    """

    block: str
    op: str
    kind: str
    encoding: str
    window: int
    weight_bits: int
    tokens: int
    windows: int
    steps: int
    elements: int
    spikes: int
    silent: int
    outliers: int
    neurons: int
    dense_macs: int
    synaptic_adds: int
    macs: int
    neuron_updates: int
    comparisons: int
    ramp_adds: int
    readouts: int
    rate_spikes: float
    rate_adds: float


@dataclass(frozen=True)
class HostCounts:
    """Work of one operation between segments: elements of its result, float operations of the host, and integer operations of
    neurons with the products among them; it has the one or the other."""

    block: str
    op: str
    kind: str
    tokens: int
    elements: int
    float_operations: int
    integer_operations: int = 0
    integer_products: int = 0


_SUMMED = (
    "steps",
    "elements",
    "spikes",
    "silent",
    "outliers",
    "neurons",
    "dense_macs",
    "synaptic_adds",
    "macs",
    "neuron_updates",
    "comparisons",
    "ramp_adds",
    "readouts",
    "rate_spikes",
    "rate_adds",
)
_SHARES = {"spikes": "spike_share", "silent": "silent_share", "outliers": "outlier_share"}


@dataclass(frozen=True)
class Stats:
    """All counts of a run. tokens: those that went through most segments (a head may have seen fewer)."""

    tokens: int
    core: tuple[CoreCounts, ...]
    codes: tuple[CodeCounts, ...]
    host: tuple[HostCounts, ...]

    def total(self, block: str | None = None) -> dict[str, float]:
        """Sums over the segments (of one block); the same `_per_token`; shares of spikes, silence and outliers in all codes.

        `steps_per_token` is what one token takes if its segments run one after another.
        """
        rows = [row for row in self.core if block in (None, row.block)]
        tokens = self.tokens if block is None else max((row.tokens for row in rows), default=0)
        sums: dict[str, float] = {name: sum(getattr(row, name) for row in rows) for name in _SUMMED}
        between = [row for row in self.host if block in (None, row.block)]
        sums["host_float_operations"] = sum(row.float_operations for row in between)
        for name in ("integer_operations", "integer_products"):
            sums[name] = sum(getattr(row, name) for row in between)
        sums["integer_messages"] = sum(row.elements for row in between if row.integer_operations)
        shares = {share: sums[name] / max(sums["elements"], 1) for name, share in _SHARES.items()}
        per_token = {f"{name}_per_token": number / max(tokens, 1) for name, number in sums.items()}
        return {"tokens": tokens, **sums, **shares, **per_token}

    def blocks(self) -> list[str]:
        """Names of the blocks, in order."""
        return list(dict.fromkeys(row.block for row in self.core))

    def to_dict(self) -> dict[str, Any]:
        """Plain values: `total`, `blocks` by name, and the rows `core`, `codes` and `host`."""
        return {
            "tokens": self.tokens,
            "total": self.total(),
            "blocks": {name: self.total(name) for name in self.blocks()},
            "core": [asdict(row) for row in self.core],
            "codes": [asdict(row) for row in self.codes],
            "host": [asdict(row) for row in self.host],
        }
