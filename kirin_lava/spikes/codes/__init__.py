"""Spike codes: the one definition of every integer code, its spike times, its messages and what they count.

A code is one file here, or one line in a file, and its name in `CODES`. Imports NumPy and nothing heavier: the help reads it.
"""

from __future__ import annotations

from kirin_lava.base.errors import UsageError
from kirin_lava.spikes.codes.channels import Channels
from kirin_lava.spikes.codes.code import Events, Integers, SpikeCode
from kirin_lava.spikes.codes.graded import GRADED, INTEGER8, UNSIGNED_INTEGER8, Graded, integer
from kirin_lava.spikes.codes.levels import LEVELS, REFINED, Levels, Refined, levels
from kirin_lava.spikes.codes.planes import HALVES16, OUTLIER_SHIFTS, PLANE_WIDTHS, PLANES, Planes, planes
from kirin_lava.spikes.codes.rate import RATE, Rate, rate
from kirin_lava.spikes.codes.ttfs import (
    MESSAGE_BITS,
    OFFSET,
    SIGNED,
    SIGNED16,
    TTFS,
    UNSIGNED8,
    UNSIGNED16,
    Ttfs,
    offset,
    signed,
)

__all__ = [
    "CODES",
    "HALVES16",
    "INTEGER8",
    "LEVELS",
    "MESSAGE_BITS",
    "OFFSET",
    "OUTLIER_SHIFTS",
    "PLANES",
    "PLANE_WIDTHS",
    "RATE",
    "REFINED",
    "SIGNED",
    "SIGNED16",
    "UNSIGNED8",
    "UNSIGNED16",
    "UNSIGNED_INTEGER8",
    "Channels",
    "Events",
    "Graded",
    "Integers",
    "Levels",
    "Planes",
    "Rate",
    "Refined",
    "SpikeCode",
    "Ttfs",
    "code_named",
    "integer",
    "levels",
    "offset",
    "planes",
    "rate",
    "signed",
]

CODES: tuple[SpikeCode, ...] = (*TTFS, *GRADED, *LEVELS, *REFINED, *RATE, *PLANES, HALVES16)


def code_named(name: str) -> SpikeCode:
    """The code called `name`; `UsageError` where there is none."""
    for code in CODES:
        if code.name == name:
            return code
    raise UsageError(f"unknown code {name!r}: choose one of {', '.join(code.name for code in CODES)}")
