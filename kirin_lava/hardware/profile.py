"""Energy profiles: what one operation of each kind costs, in picojoules, every number with its source.

A profile is named or a YAML file; copy one of `kirin_lava/hardware/profiles/` to begin. All these prices are needed:

    mac_fp16, mac_4x4, mac_4x8, mac_8x8   multiply and accumulate: float16, or integers of these widths
    synaptic_add                          a spike adds one weight
    membrane_add, compare                 v += u; a comparison with a threshold, or its fall by one ramp
    neuron_update                         one neuron in one step, on platforms that know no finer price
    weight_bit, state_bit                 one bit of a weight read, one bit of a state read or written
    spike_out, message_out                a spike or graded message leaves a neuron
    spike_hop, message_hop, dense_bit_hop one hop on chip of a spike, a graded message, one bit of a dense vector
    host_bit                              one bit between chip and host
    host_operation                        one float operation of the host

`kind` says how a number was come by: published, derived (computed from published ones), estimated, included (0, because another
price contains it) or unknown (null: what it would price is left out and listed).
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import read_yaml

__all__ = ["PRICES", "Price", "Profile", "load_profile", "profile_names"]

_FOLDER = Path(__file__).parent / "profiles"
_KINDS = ("published", "derived", "estimated", "included", "unknown")

PRICES = (
    "mac_fp16",
    "mac_4x4",
    "mac_4x8",
    "mac_8x8",
    "synaptic_add",
    "membrane_add",
    "compare",
    "neuron_update",
    "weight_bit",
    "state_bit",
    "spike_out",
    "message_out",
    "spike_hop",
    "message_hop",
    "dense_bit_hop",
    "host_bit",
    "host_operation",
)


@dataclass(frozen=True)
class Price:
    """A number and where it is from; value None where nobody has published one."""

    value: float | None
    kind: str
    source: str


@dataclass(frozen=True)
class Profile:
    """Prices of a platform.

    Attributes:
        events_only: whether it moves and computes by events alone: dense networks then send their codes as graded messages.
        hops: routers that an event passes, on average.
        static_watts_per_chip: power without any activity.
        prices: picojoules, by the names in `PRICES`.
    """

    name: str
    title: str
    about: str
    events_only: bool
    hops: Price
    static_watts_per_chip: Price
    prices: Mapping[str, Price]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "prices": {name: asdict(price) for name, price in self.prices.items()}}

    @staticmethod
    def from_dict(values: Any, name: str) -> Profile:
        """A profile from plain values; `UsageError` names the entry that is missing, unknown or wrong."""
        entries = _entries(values, name, ("title", "about", "events_only", "hops", "static_watts_per_chip", "prices"))
        for key in ("title", "about"):
            if not isinstance(entries[key], str) or not entries[key].strip():
                raise UsageError(f"{name}: {key} is {reprlib.repr(entries[key])}, not a text")
        if not isinstance(entries["events_only"], bool):
            raise UsageError(f"{name}: events_only is {reprlib.repr(entries['events_only'])}, not true or false")
        prices = _entries(entries["prices"], f"{name}: prices", PRICES)
        return Profile(
            name=name,
            title=entries["title"].strip(),
            about=" ".join(entries["about"].split()),
            events_only=entries["events_only"],
            hops=_price(entries["hops"], f"{name}: hops"),
            static_watts_per_chip=_price(entries["static_watts_per_chip"], f"{name}: static_watts_per_chip"),
            prices={key: _price(prices[key], f"{name}: {key}") for key in PRICES},
        )


def profile_names() -> list[str]:
    """The profiles that come with the program."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """A profile by its name or from a YAML file."""
    path = _FOLDER / f"{name}.yaml" if name in profile_names() else Path(name)
    if not os.path.exists(path) or os.path.isdir(path):
        known = ", ".join(profile_names())
        raise UsageError(f"no energy profile {reprlib.repr(name)}: use one of {known}, or a YAML file")
    return Profile.from_dict(read_yaml(path), path.stem)


def _entries(values: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected entries, found {type(values).__name__}")
    unknown = [key[:80] if isinstance(key, str) else reprlib.repr(key) for key in values if key not in known][:8]
    missing = [key for key in known if key not in values]
    for word, keys in (("unknown", unknown), ("missing", missing)):
        if keys:
            raise UsageError(f"{where}: {word} {'entry' if len(keys) == 1 else 'entries'} {', '.join(keys)}")
    return values


def _price(values: Any, where: str) -> Price:
    entries = _entries(values, where, ("value", "kind", "source"))
    value, kind, source = entries["value"], entries["kind"], entries["source"]
    if kind not in _KINDS:
        raise UsageError(f"{where}: kind is {reprlib.repr(kind)}; choose one of {', '.join(_KINDS)}")
    if not isinstance(source, str) or not source.strip():
        raise UsageError(f"{where}: source is {reprlib.repr(source)}; say where the number is from")
    if kind == "unknown" and value is not None:
        raise UsageError(
            f"{where}: value is {reprlib.repr(value)}, but its kind is unknown: write null, or say where it is from"
        )
    if kind != "unknown" and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise UsageError(f"{where}: value is {reprlib.repr(value)}, not a number")
    if value is not None and not (0 <= value < math.inf):
        raise UsageError(f"{where}: value is {reprlib.repr(value)}, not a number from 0 up")
    if kind == "included" and value != 0:
        raise UsageError(f"{where}: value is {reprlib.repr(value)}, but it is included in another price: write 0")
    return Price(None if value is None else float(value), kind, source.strip())
