"""The figures of a report: what draws each, from which numbers, how high, and what it shows for those who do not see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kirin_lava.methods.method import Method
from kirin_lava.tasks.draw import PALETTE, Draw, keyed
from kirin_lava.tasks.quality.plot_methods import HEIGHT, draw_methods
from kirin_lava.tasks.report.methods import points_of
from kirin_lava.tasks.report.plot_chip import (
    cores_height,
    draw_cores,
    draw_energy,
    draw_ranges,
    energy_height,
    range_rows,
    ranges_height,
)
from kirin_lava.tasks.report.plot_counts import activity_height, activity_rows, codes_height, draw_activity, draw_codes
from kirin_lava.tasks.report.values import present

__all__ = ["Drawing", "drawings"]


@dataclass(frozen=True)
class Drawing:
    """One figure. heights: pixels of the wide and of the narrow form."""

    draw: Draw
    data: Any
    heights: tuple[int, int]
    label: str


def drawings(report: dict[str, Any], method: Method) -> dict[str, Drawing]:
    """All figures that the parts of a report allow, by name."""
    found = {}
    picture = method.picture()
    if picture is not None and present(report, "window"):

        def window(figure: Any, data: Any, narrow: bool) -> None:
            picture.draw(figure, data, narrow, PALETTE, lambda text, path, form: keyed(text, f"window.{path}", form))

        found["window"] = Drawing(window, report["window"], picture.HEIGHTS, picture.LABEL)
    if present(report, "codes"):
        rows, codes = activity_rows(report), report["codes"]
        found["activity"] = Drawing(
            draw_activity,
            rows,
            (activity_height(rows),) * 2,
            "Stacked bars, one per segment: shares of codes that spike, that are silent and that are outlier messages.",
        )
        found["codes"] = Drawing(
            draw_codes,
            codes,
            (codes_height(codes),) * 2,
            "Histograms of codes on a logarithmic scale, one per encoding; the spike range is shaded, outliers lie beside it.",
        )
    if present(report, "ranges"):
        rows = range_rows(report)
        found["ranges"] = Drawing(
            draw_ranges,
            rows,
            (ranges_height(rows),) * 2,
            "Horizontal bars, one per segment: bits that membranes need on text and in the worst case, and the limit of the "
            "state.",
        )
    if present(report, "placement"):
        cores, energy = report["placement"], report["energy"]
        found["cores"] = Drawing(
            draw_cores,
            cores,
            (cores_height(cores, False), cores_height(cores, True)),
            "Map of the neuro cores: which segments each core holds, and how far its fullest resource is used.",
        )
        found["energy"] = Drawing(
            draw_energy,
            energy,
            (energy_height(energy, False), energy_height(energy, True)),
            "Bars of joules per token under every profile, for the float network, its integer twin, a rate-coded network and "
            "ours.",
        )
    if present(report, "methods"):
        found["methods"] = Drawing(
            draw_methods,
            (report["methods"]["prices"], points_of(report["methods"])),
            (HEIGHT, HEIGHT),
            "Points, one per recipe: joules of a token against what it loses, each joined to that of the same integers without "
            "spikes.",
        )
    return found
