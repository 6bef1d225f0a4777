"""Quality against energy, one point a recipe, its integer twin beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kirin_lava.tasks.draw import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HEIGHT", "Point", "draw_methods"]

HEIGHT = 440
Box = tuple[float, float, float, float]
_PLACES = ((0, 1), (0, -1), (1, 0), (-1, 1), (1, -1))  # above, below, right of a point, beside it
_LETTER = 5  # pixels
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
    axes.plot([], [], "o", color=PALETTE["ink"], label="spikes")
    axes.plot([], [], "s", color=PALETTE["ink"], markerfacecolor="none", label="the same integers without spikes")
    axes.legend(loc="upper left")
    axes.set_xlabel(f"µJ of a token: {prices}")
    axes.set_ylabel("perplexity above float32, %")
    axes.grid(visible=True)
    axes.margins(0.16, 0.14)
    axes.autoscale_view()
    places = axes.transData.transform(
        [(x, point.loss) for point in points for x in (point.microjoules, point.twin) if x is not None]
    )
    taken: list[Box] = [(x - _LETTER, y - _LETTER, x + _LETTER, y + _LETTER) for x, y in places.tolist()]
    points_of_pixel = 72 / figure.dpi
    for point in sorted(points, key=lambda point: -point.loss):
        at = axes.transData.transform((point.microjoules, point.loss)).tolist()
        offset, box = min((_label(point.name, at, place) for place in _PLACES), key=lambda found: _overlap(found[1], taken))
        taken.append(box)
        colour = PALETTE[_COLOURS[methods.index(point.method) % len(_COLOURS)]]
        axes.annotate(
            point.name,
            (point.microjoules, point.loss),
            (offset[0] * points_of_pixel, offset[1] * points_of_pixel),
            textcoords="offset points",
            ha="center",
            va="center",
            color=colour,
            size=8,
        )


def _label(name: str, at: list[float], place: tuple[int, int]) -> tuple[tuple[float, float], Box]:
    """Where the middle of a name is put, in pixels from its point, and those that it takes, about."""
    width, height = _LETTER * len(name), 2 * _LETTER
    x, y = place[0] * (width / 2 + 2 * _LETTER), place[1] * 3 * _LETTER
    middle = at[0] + x, at[1] + y
    return (x, y), (middle[0] - width / 2, middle[1] - height / 2, middle[0] + width / 2, middle[1] + height / 2)


def _overlap(box: Box, taken: list[Box]) -> float:
    """Pixels that a box shares with others."""
    wide = (min(box[2], other[2]) - max(box[0], other[0]) for other in taken)
    high = (min(box[3], other[3]) - max(box[1], other[1]) for other in taken)
    return sum(max(w, 0.0) * max(h, 0.0) for w, h in zip(wide, high, strict=True))
