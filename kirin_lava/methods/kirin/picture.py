"""The picture that explains the method: spikes in, membranes under an infinite threshold, a falling threshold, spikes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from kirin_lava.methods.kirin.trace import trace
from kirin_lava.methods.method import Keyed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["HEIGHTS", "LABEL", "draw", "trace"]

HEIGHTS = (560, 760)
LABEL = (
    "Three panels over time. Left above: input spikes, one per channel, and outlier messages in the last step of the window. "
    "Right above: one output spike per neuron in the following window. Below: the membranes of some neurons grow while the "
    "threshold is infinite; then a staircase threshold falls, and each neuron spikes where it meets its membrane."
)

_HEADROOM = 2.9  # in ramps: for the label of a spike and the band of the infinite threshold
_COLOURS = ("spike", "outlier", "third", "fourth")
_MARKERS = ("o", "D", "^", "s")


class Look(NamedTuple):
    """Colours by name, and what marks a text as a value; see `kirin_lava.methods.method.Picture`."""

    palette: Mapping[str, str]
    keyed: Keyed


def draw(figure: Figure, data: dict[str, Any], narrow: bool, palette: Mapping[str, str], keyed: Keyed) -> None:
    """See `kirin_lava.methods.method.Picture`."""
    look = Look(palette, keyed)
    steps = data["steps"]
    if narrow:
        rows = (1.0, 0.36, 0.85, 0.2, 1.6)  # every other one is a gap
        grid = figure.add_gridspec(5, 1, height_ratios=rows, left=0.115, right=0.905, top=0.965, bottom=0.06, hspace=0)
        inputs, outputs, membrane = (figure.add_subplot(grid[i]) for i in (0, 2, 4))
    else:
        edges = {"left": 0.062, "right": 0.945, "top": 0.945, "bottom": 0.08, "hspace": 0.15, "wspace": 0}
        grid = figure.add_gridspec(2, 2, height_ratios=(1.0, 1.35), **edges)
        inputs, outputs = (figure.add_subplot(grid[0, i]) for i in (0, 1))
        membrane = figure.add_subplot(grid[1, :])
    _inputs(inputs, data, narrow, look)
    _outputs(outputs, data, narrow, look)
    _membranes(membrane, data, narrow, look)
    for axes, start in ((inputs, 0), (outputs, steps)):
        axes.set_xlim(start - 0.5, start + steps - 0.5)
        axes.set_xticks(_ticks(start, start + steps, narrow), labels=None if narrow else [])
    membrane.set_xlim(-0.5, 2 * steps - 0.5 + (steps / 8 if narrow else 0))  # room for the last labels
    membrane.set_xticks(_ticks(0, 2 * steps, narrow))


def _ticks(start: int, stop: int, narrow: bool) -> list[int]:
    by = (4 if narrow else 2) if stop - start > 16 else 2 if stop - start > 8 else 1
    return list(range(start, stop, by))


def _inputs(axes: Axes, data: dict[str, Any], narrow: bool, look: Look) -> None:
    raster = data["raster"]
    axes.set_title("Inputs: the time of a spike is its value")
    for sign, face in ((1, look.palette["spike"]), (-1, look.palette["page"])):
        rows = [row for row in raster["spikes"] if row["payload"] == sign]
        if not rows:
            continue
        axes.plot(
            [row["step"] for row in rows],
            [row["channel"] for row in rows],
            linestyle="",
            marker="o",
            markersize=3.4,
            markerfacecolor=face,
            markeredgecolor=look.palette["spike"],
            markeredgewidth=0.9,
            label="spike" if sign > 0 else "negative spike",
        )
    rows = raster["outliers"]
    axes.scatter(
        [row["step"] for row in rows],
        [row["channel"] for row in rows],
        s=[16 + min(abs(row["payload"]), 64) for row in rows],
        marker="D",
        color=look.palette["outlier"],
        label="outlier" if narrow else "outlier: integer message",
        zorder=3,
    )
    labelled = -9
    for index, row in enumerate(raster["outliers"]):
        if row["channel"] - labelled < raster["channels"] / 14:
            continue  # it would hide the last label
        labelled = row["channel"]
        text = axes.annotate(
            f"{row['payload']}",
            (row["step"], row["channel"]),
            (-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=8,
            color=look.palette["outlier"],
        )
        look.keyed(text, f"raster.outliers.{index}.payload", "plain")
    axes.set_ylabel("input channel")
    below = (-0.01, -0.1 if narrow else -0.02)
    axes.legend(loc="upper left", bbox_to_anchor=below, ncol=3, handletextpad=0.1, columnspacing=1.0, borderpad=0)
    _rows(axes, raster["channels"])


def _outputs(axes: Axes, data: dict[str, Any], narrow: bool, look: Look) -> None:
    axes.set_title("Outputs: one spike each, its time is the code")
    traced = {row["neuron"] for row in data["traces"]}
    for sign in (1, -1):
        rows = [r for r in data["outputs"] if r["step"] is not None and r["payload"] == sign and r["neuron"] not in traced]
        axes.plot(
            [row["step"] for row in rows],
            [row["neuron"] for row in rows],
            linestyle="",
            marker="o",
            markersize=3.4,
            markerfacecolor=look.palette["muted"] if sign > 0 else look.palette["page"],
            markeredgecolor=look.palette["muted"],
            markeredgewidth=0.9,
        )
    for row, colour, marker in zip(data["traces"], _COLOURS, _MARKERS, strict=False):
        axes.axhline(row["neuron"], color=look.palette[colour], linewidth=0.7, alpha=0.45)
        if row["step"] is not None:
            axes.plot([row["step"]], [row["neuron"]], marker=marker, markersize=6.5, color=look.palette[colour])
    _rows(axes, len(data["outputs"]))
    if narrow:
        axes.set_ylabel("neuron")
    else:
        axes.yaxis.set_label_position("right")
        axes.yaxis.tick_right()
        axes.set_ylabel("neuron")


def _rows(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.2, -0.8)
    axes.set_yticks(range(0, count, max(1, count // 4)))
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis="x")


def _membranes(axes: Axes, data: dict[str, Any], narrow: bool, look: Look) -> None:
    steps, signed, zero = data["steps"], data["signed"], data["zero"]
    thresholds = data["thresholds"]
    highest = max(max(row["level"]) for row in data["traces"])
    top = max(thresholds[0], min(highest, 1.5 * thresholds[0])) + _HEADROOM
    bottom = -top if signed else max(-0.5 * top, min(-1.5, *(min(t["level"]) for t in data["traces"])) - 0.4)
    bottom -= 0.1 * (top - bottom)  # for a line of words
    axes.set_ylim(bottom, top)
    _threshold(axes, data, top, bottom, narrow, look)
    for index, (row, colour, marker) in enumerate(zip(data["traces"], _COLOURS, _MARKERS, strict=False)):
        tint = look.palette[colour]
        level, end = row["level"], row["level"][-1]
        axes.plot(range(steps), level, color=tint, linewidth=1.8, marker=".", markersize=4, solid_joinstyle="round")
        stop = row["step"] if row["step"] is not None else 2 * steps - 1
        axes.plot([steps - 1, stop], [end, end], color=tint, linewidth=1.2, linestyle=(0, (1, 1.6)))
        if row["step"] is not None:
            axes.plot([stop], [end], marker=marker, markersize=7.5, color=tint, zorder=5)
        late = stop > 2 * steps - 4
        label = axes.annotate(
            f"code {row['code']}",
            (stop, end),
            (-6, -10) if late else (7, -9 if end < 0 else 9),  # below the staircase, which falls to the right
            textcoords="offset points",
            va="center",
            ha="right" if late else "left",
            color=tint,
            fontweight="bold",
            fontsize=9,
        )
        look.keyed(label, f"traces.{index}.code", "code")
    axes.set_xlabel("time step")
    axes.set_ylabel("membrane, in ramps of the neuron", labelpad=2)
    axes.yaxis.tick_right()
    levels = range(-len(thresholds) if signed else 0, len(thresholds) + 1, 2 if len(thresholds) <= 8 else 3)
    axes.set_yticks(list(levels), labels=[str(level - zero) for level in levels])
    axes.yaxis.set_tick_params(length=0)
    axes.text(1.005, 1.0, "code", transform=axes.transAxes, fontsize=8, color=look.palette["muted"], va="top")
    axes.spines["left"].set_visible(False)


def _threshold(axes: Axes, data: dict[str, Any], top: float, bottom: float, narrow: bool, look: Look) -> None:
    """Infinite while inputs arrive, then a staircase; and where a staircase without silence would have stood."""
    steps, first, thresholds = data["steps"], data["first_fall"], data["thresholds"]
    half = top - 1.0
    signs = (1, -1) if data["signed"] else (1,)
    axes.axvspan(-0.5, steps - 0.5, color=look.palette["band"], linewidth=0)
    for sign in signs:
        span, tint = [-0.5, steps - 0.5], look.palette["muted"]
        axes.fill_between(span, sign * half, sign * top, facecolor="none", edgecolor=tint, hatch="////", linewidth=0)
        axes.plot(span, [sign * half] * 2, color=look.palette["ink"], linewidth=1.6)
        for start, style in ((0, {"linewidth": 0.9, "alpha": 0.45, "linestyle": (0, (3, 2))}), (steps, {"linewidth": 1.6})):
            edges = [start + first - 0.5 + i for i in range(len(thresholds) + 1)]
            axes.stairs([sign * t for t in thresholds], edges, baseline=None, color=look.palette["ink"], **style)
    for row, colour in zip(data["traces"], _COLOURS, strict=False):
        hasty = row["hasty"]
        if hasty["code"] != row["code"] and hasty["step"] is not None:
            step = hasty["step"]
            axes.plot([step], [row["level"][step]], marker="x", markersize=6, color=look.palette[colour], markeredgewidth=1.6)
    axes.axvline(steps - 0.5, color=look.palette["muted"], linewidth=0.8)
    box = {"facecolor": look.palette["band"], "edgecolor": "none", "pad": 1.5}
    words: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "fontweight": "bold"}
    axes.text(steps / 2 - 0.5, (half + top) / 2, "threshold ∞" if narrow else "silence: threshold ∞", bbox=box, **words)
    falls = "the threshold falls" if narrow else "the threshold falls by one ramp per step"
    axes.text(1.5 * steps - 0.5, (half + top) / 2, falls, **words)
    note = "× spikes that a threshold falling" + ("\n   " if narrow else " ") + "without silence would cause"
    axes.text(-0.2, bottom + 0.015 * (top - bottom), note, fontsize=8, color=look.palette["muted"], va="bottom")
