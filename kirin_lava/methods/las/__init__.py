"""LAS, arXiv 2505.09659: bit planes with two ranges, one of them for outliers, in exact integers.

dense inputs, head       signed planes, T of them
queries, probabilities   the same
keys and values          integers of 16 bits in two halves, in a cache

The ranges of a site are fixed on calibration text. That of outliers, theta_2, is 1.5 times the largest magnitude that came up;
that of all others, theta_1, is the 1, 2^2, 2^4 or 2^8-th part of it, whichever has the least squared error there. Steps are
rounded up to 8 binary digits, those of keys and values to a power of two. The range of a probability ends at 1 + 2^-T, in units
of the step of the value that it meets, so that 1 is the highest code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from kirin_lava.methods.method import Method, Paper, Seen
from kirin_lava.methods.options import choice
from kirin_lava.methods.site import Coding, Site
from kirin_lava.spikes.codes import HALVES16, OUTLIER_SHIFTS, PLANE_WIDTHS, Planes, planes
from kirin_lava.spikes.ranges import FixedStep, PlaneRow, PlaneStep, best_planes, step_above
from kirin_lava.spikes.rule import SMALLEST_STEP

__all__ = ["LAS", "Las", "LasOptions"]

_MARGIN = 1.5
"""How much further than anything on the calibration text a range reaches."""
_VALUE_DIGITS = 23
"""Of the step of values, a power of two: probabilities are integers in its units where there is no host."""


@dataclass(frozen=True)
class LasOptions:
    """planes: T, bits of a code beside its sign: 16, 12 or 8."""

    planes: int = 16

    def __post_init__(self) -> None:
        choice("planes", self.planes, PLANE_WIDTHS)


class Las(Method):
    """See the module."""

    name: ClassVar[str] = "las"
    title: ClassVar[str] = "LAS"
    paper: ClassVar[Paper | None] = Paper("LAS", "arXiv 2505.09659")
    options: ClassVar[type[Any]] = LasOptions
    folder: ClassVar[Path | None] = Path(__file__).parent
    windows: ClassVar[Mapping[str, int]] = MappingProxyType({f"{bits} planes": bits for bits in PLANE_WIDTHS})

    def activations(self, options: LasOptions) -> Planes:
        """Of dense inputs, where no outliers came up."""
        return planes(options.planes, 0)

    def coding(self, site: Site, options: LasOptions) -> Coding:
        """See `Method`; as it is before anything is measured."""
        if site.side in ("k", "v"):
            return Coding(HALVES16, FixedStep(), site.name)
        return Coding(self.activations(options), PlaneRow() if site.side == "p" else PlaneStep(), site.name)

    def measures(self, site: Site, options: LasOptions) -> bool:
        """Everywhere."""
        return True

    def measured(self, site: Site, options: LasOptions, seen: Seen, others: Mapping[str, Coding]) -> Coding:
        """See `Method` and the module."""
        reach = max(_MARGIN * seen.peak, SMALLEST_STEP * 2**24)
        if site.side in ("k", "v"):
            step = step_above(reach / HALVES16.largest, 1)
            return Coding(HALVES16, FixedStep(step, _VALUE_DIGITS if site.side == "v" else 1), site.name)
        if site.side == "p":
            unit = others["v"].rule
            assert isinstance(unit, FixedStep)
            most = 2**options.planes
            return Coding(self.activations(options), PlaneRow(unit.step * (most + 1) / most**2, options.planes + 1), site.name)
        return Coding(*best_planes((planes(options.planes, shift) for shift in OUTLIER_SHIFTS), reach, seen.sample), site.name)

    def setting(self, options: LasOptions) -> str:
        """See `Method`."""
        return f"A{options.planes}"

    def facts(self, options: LasOptions) -> dict[str, str]:
        """See `Method`."""
        return {
            "activations": f"bit planes: sign and {options.planes} bits, a spike for every bit that is set",
            "ranges": "two a site, fixed on calibration text; outliers send spikes of 4, 16 or 256",
            "queries, probabilities": f"sign and {options.planes} bits, too",
            "cached keys and values": "16 bits, in two synapses of 8",
        }


LAS = Las()
