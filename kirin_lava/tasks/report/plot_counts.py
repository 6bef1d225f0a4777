"""What the codes of a run do: shares of spikes, silence and outliers per segment, and histograms of codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kirin_lava.tasks.draw import PALETTE, keyed
from kirin_lava.tasks.report.values import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["activity_height", "activity_rows", "codes_height", "draw_activity", "draw_codes"]

_MOST_ROWS = 48
_ROW, _GAP, _FRAME = 17, 8, 62  # pixels

_SHARES = (("spike_share", "spike"), ("silent_share", "silent"), ("outlier_share", "outlier"))


def activity_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the figure: one per segment, or, of a deep model, one per block. `key` is where its numbers are."""
    segments = report["segments"]
    if len(segments) <= _MOST_ROWS:
        return [
            {"group": row["block"], "label": row["segment"], "key": f"segments.{index}", **{n: row[n] for n, _ in _SHARES}}
            | {"spikes": row["spikes_per_token"], "outliers": row["outliers_per_token"]}
            for index, row in enumerate(segments)
        ]
    # block names hold dots, which separate the parts of a key: their sums are found by position
    return [
        {"group": "", "label": row["block"], "key": f"counts.blocks.{index}", **{n: row[n] for n, _ in _SHARES}}
        | {"spikes": row["spikes_per_token"], "outliers": row["outliers_per_token"]}
        for index, row in enumerate(report["counts"]["blocks"])
    ]


def activity_height(rows: list[dict[str, Any]]) -> int:
    """Pixels that the rows take."""
    return _FRAME + _ROW * len(rows) + _GAP * (len({row["group"] for row in rows}) - 1)


def draw_activity(figure: Figure, rows: list[dict[str, Any]], narrow: bool) -> None:
    """rows: of `activity_rows`."""
    height = activity_height(rows)
    left, right = (0.3, 0.84) if narrow else (0.2, 0.83)
    axes = figure.add_axes((left, 22 / height, right - left, 1 - _FRAME / height))
    y, group, places = 0.0, rows[0]["group"], []
    for row in rows:
        if row["group"] != group:
            group, y = row["group"], y + _GAP
        places.append(y + _ROW / 2)
        y += _ROW
    start = [0.0] * len(rows)
    for name, colour in _SHARES:
        shares = [row[name] for row in rows]
        axes.barh(places, shares, height=_ROW - 4, left=start, color=PALETTE[colour], linewidth=0)
        start = [a + b for a, b in zip(start, shares, strict=True)]
    axes.set_ylim(y, 0)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "25", "50", "75", "100 %"])
    axes.set_yticks(places, labels=[row["label"] for row in rows])
    axes.tick_params(length=0)
    axes.yaxis.set_tick_params(labelcolor=PALETTE["ink"])
    axes.spines[["left", "bottom"]].set_visible(False)
    groups = dict.fromkeys(row["group"] for row in rows)
    for name in groups:
        first = next(place for place, row in zip(places, rows, strict=True) if row["group"] == name)
        if name and not narrow:
            x = -left / (right - left) + 0.005
            text = axes.text(
                x, first, show(name, "block"), transform=axes.get_yaxis_transform(), va="center", fontweight="bold"
            )
            keyed(text, next(row["key"] for row in rows if row["group"] == name) + ".block", "block")
        elif name and first > _ROW:
            axes.axhline(first - (_ROW + _GAP) / 2, xmin=-0.55, color=PALETTE["line"], linewidth=0.8, clip_on=False)
    for row, place in zip(rows, places, strict=True):
        for column, (name, colour) in enumerate((("spikes", "spike"), ("outliers", "outlier"))):
            x = 1.0 + (0.14 if narrow else 0.09) * (column + 1)
            text = axes.text(x, place, f"{row[name]:,.0f}", transform=axes.get_yaxis_transform(), ha="right", va="center")
            text.set(fontsize=8, color=PALETTE[colour])
            keyed(text, f"{row['key']}.{name}_per_token", "int")
    _activity_head(axes, narrow, height)


def _activity_head(axes: Axes, narrow: bool, height: int) -> None:
    above = 1 + 8 / (height - _FRAME)
    words = {"spike": "spikes", "silent": "silent", "outlier": "outliers"}
    for (_, colour), x in zip(_SHARES, (4, 60, 108), strict=True):  # points
        for text, shift, tint, size in (("■", 0, colour, 11), (words[colour], 13, "ink", 8.5)):
            axes.annotate(
                text,
                (0, above),
                (x + shift, 0),
                xycoords="axes fraction",
                textcoords="offset points",
                va="bottom",
                fontsize=size,
                color=PALETTE[tint],
            )
    if narrow:
        return  # no room: the caption says it
    right = 1.18
    axes.text(right, above, "per token", transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color=PALETTE["muted"])


def codes_height(histograms: list[dict[str, Any]]) -> int:
    """Pixels that the panels take."""
    return 40 + 170 * len(histograms)


def draw_codes(figure: Figure, histograms: list[dict[str, Any]], narrow: bool) -> None:
    """histograms: of `kirin_lava.tasks.report.codes.code_histograms`."""
    height = codes_height(histograms)
    count = len(histograms)
    left, right = (0.135, 0.995) if narrow else (0.068, 0.995)
    grid = figure.add_gridspec(
        count, 1, left=left, right=right, top=1 - 26 / height, bottom=54 / height, hspace=0.72 if count > 1 else 0
    )
    for index, histogram in enumerate(histograms):
        _panel(figure.add_subplot(grid[index]), histogram, narrow)


def _panel(axes: Axes, histogram: dict[str, Any], narrow: bool) -> None:
    bins = histogram["bins"]
    colours = {"spike": "spike", "silent": "silent", "outlier": "outlier", "integer": "fourth"}
    shares = [max(entry["share"], 0.0) for entry in bins]
    axes.bar(range(len(bins)), shares, color=[PALETTE[colours[entry["kind"]]] for entry in bins], width=0.84, linewidth=0)
    axes.set_yscale("log")
    axes.set_ylim(1e-5, 1.2)
    ticks = (1e-5, 1e-3, 1e-1) if narrow else (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1)
    axes.set_yticks(ticks, labels=[f"{100 * tick:g} %" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="y")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(-0.7, len(bins) - 0.3)
    tilt = 60 if narrow else 0
    every = [i for i, entry in enumerate(bins) if entry["low"] != entry["high"] or not narrow or entry["low"] % 2 == 0]
    axes.set_xticks(every, labels=[_tick(bins[i], narrow) for i in every], fontsize=7 if narrow else 7.5)
    for label in axes.get_xticklabels():
        label.set_rotation(90 if narrow else tilt)
    axes.set_title(_title(histogram))
    inside = [i for i, entry in enumerate(bins) if entry["kind"] in ("spike", "silent")]
    if any(entry["kind"] == "spike" for entry in bins):
        axes.axvspan(inside[0] - 0.5, inside[-1] + 0.5, color=PALETTE["band"], linewidth=0, zorder=-1)


def _tick(entry: dict[str, Any], narrow: bool) -> str:
    low, high = entry["low"], entry["high"]
    if low == high:
        return str(low)
    return f"{low}…{high}" if narrow else f"{low}\n…{high}"


def _title(histogram: dict[str, Any]) -> str:
    name = histogram["encoding"]
    carried = {"offset": "activations, queries", "signed": "activations, queries", "unsigned": "probabilities, ReLU outputs"}
    kind = name.partition("-")[0]
    if kind == "integer":
        return "integers (keys, values, head)"
    return f"{kind} codes ({carried[kind]})" if kind in carried else str(name)
