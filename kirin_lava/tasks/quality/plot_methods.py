"""Quality against energy, one point a recipe, its integer twin beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kirin_lava.tasks.draw import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HEIGHT", "Point", "draw_methods"]

HEIGHT = 440
_COLOURS = ("spike", "outlier", "third", "fourth", "muted")


@dataclass(frozen=True)
class Point:
    """A recipe: what it loses, and what a token costs with spikes and without.

    Attributes:
        loss: perplexity above float32, in percent. microjoules, twin: of a token; twin None where it is not known.
    """

    name: str
    method: str
    loss: float
    microjoules: float
    twin: float | None


def draw_methods(figure: Figure, data: tuple[str, list[Point]], narrow: bool) -> None:
    """Fill a figure; data: whose prices, and the points."""
    prices, points = data
    axes = figure.add_axes((0.09, 0.13, 0.89, 0.83))
    methods = list(dict.fromkeys(point.method for point in points))
    for point in sorted(points, key=lambda point: point.loss):
        colour = PALETTE[_COLOURS[methods.index(point.method) % len(_COLOURS)]]
        if point.twin is not None:
            axes.plot([point.twin, point.microjoules], [point.loss] * 2, color=colour, linewidth=0.8, alpha=0.5)
            axes.plot(point.twin, point.loss, "s", color=colour, markersize=5, markerfacecolor="none")
        axes.plot(point.microjoules, point.loss, "o", color=colour, markersize=6)
        axes.annotate(
            point.name, (point.microjoules, point.loss), (7, 0), textcoords="offset points", va="center", color=colour, size=8
        )
    axes.plot([], [], "o", color=PALETTE["ink"], label="spikes")
    axes.plot([], [], "s", color=PALETTE["ink"], markerfacecolor="none", label="the same integers without spikes")
    axes.legend(loc="upper left")
    axes.set_xlabel(f"µJ of a token: {prices}")
    axes.set_ylabel("perplexity above float32, %")
    axes.grid(visible=True)
    axes.margins(0.16, 0.14)
