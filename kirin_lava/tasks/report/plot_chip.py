"""The chip: a map of the cores, how much of their 24 bits the membranes use, and energy under every profile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kirin_lava.tasks.draw import PALETTE, keyed
from kirin_lava.tasks.report.values import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "cores_height",
    "draw_cores",
    "draw_energy",
    "draw_ranges",
    "energy_height",
    "is_small",
    "range_rows",
    "ranges_height",
]

_KINDS = {"linear": "spike", "attention": "third", "head": "fourth", "integer": "outlier"}
_WORDS = {"linear": "linear", "attention": "attention, with its cache", "head": "head", "integer": "between segments"}
_FEW_CORES, _FEW_SEGMENTS = 24, 48
_MOST_CHIPS = {False: 6, True: 2}  # of the wide and of the narrow form
_MOST_ROWS = 32
_ROW = 17
_GROUPS = {
    "compute": "spike",
    "memory": "third",
    "movement on chip": "outlier",
    "host link": "silent",
    "host": "muted",
}


# ---- cores -----------------------------------------------------------------------------------------------------------------

# Few cores are drawn as a matrix of segments and cores, many as chips whose cores are cells.


def cores_height(placement: dict[str, Any], narrow: bool) -> int:
    """Pixels that the map takes."""
    if is_small(placement):
        return 124 + 13 * len(placement["segments"])
    columns, rows = _grid(placement["cores_per_chip"], narrow)
    across = 1 if narrow or placement["chips"] == 1 else 2
    cell = (330 if narrow else 780) / across / columns
    return round(-(-min(placement["chips"], _MOST_CHIPS[narrow]) // across) * (rows * cell + 30) + 34)


def draw_cores(figure: Figure, placement: dict[str, Any], narrow: bool) -> None:
    """placement: of the report."""
    height = cores_height(placement, narrow)
    if is_small(placement):
        _matrix(figure, placement, narrow, height)
    else:
        _chips(figure, placement, narrow, height)
    x = 0.01
    for kind, colour in _KINDS.items():
        if kind == "integer" and "between" not in placement:
            continue
        words = _WORDS[kind]
        figure.patches.append(_square(figure, x, 6 / height, PALETTE[colour], height))
        figure.text(x + 17 / figure.bbox.width, 5 / height, words, fontsize=8.5, va="bottom")
        x += (36 + 6.2 * len(words)) / figure.bbox.width


def is_small(placement: dict[str, Any]) -> bool:
    """Whether the map names every segment and core."""
    return placement["cores"] <= _FEW_CORES and len(placement["segments"]) <= _FEW_SEGMENTS


def _matrix(figure: Figure, placement: dict[str, Any], narrow: bool, height: int) -> None:
    """Above, how full every core is; below, which segments it holds, darker the more of their neurons."""
    cores, segments = placement["cores"], placement["segments"]
    left, right = (0.34, 0.99) if narrow else (0.2, 0.99)
    head = 44 / height
    full = figure.add_axes((left, 1 - 20 / height - head, right - left, head))
    used = placement["core_columns"]["utilisation"]
    full.bar(range(cores), used, width=0.86, color=PALETTE["silent"], linewidth=0)
    for core in range(cores):
        if cores <= (6 if narrow else 16):
            text = full.text(core, 0.06, show(used[core], "whole percent"), ha="center", va="bottom", fontsize=8)
            keyed(text, f"placement.core_columns.utilisation.{core}", "whole percent")
    full.set_ylim(0, 1)
    full.set_title("use of each core")
    below = figure.add_axes((left, 48 / height, right - left, 1 - 82 / height - head))
    place = {(row["block"], row["name"]): (index, row["neurons"]) for index, row in enumerate(segments)}
    for index, core in enumerate(placement["held"]):
        for task in core["tasks"]:
            row, neurons = place[task["block"], task["segment"]]
            kind = "head" if task["block"] == "head" else "attention" if segments[row]["kind"] in ("score", "mix") else "linear"
            below.barh(row, 0.86, left=index - 0.43, height=0.72, color=PALETTE[_KINDS[kind]], linewidth=0,
                       alpha=0.35 + 0.65 * task["neurons"] / neurons)  # fmt: skip
    below.set_ylim(len(segments) - 0.5, -0.5)
    names = [f"{row['block'].removeprefix('blocks.')} {row['name']}" for row in segments]
    below.set_yticks(range(len(segments)), labels=names, fontsize=7.5)
    below.yaxis.set_tick_params(labelcolor=PALETTE["ink"])
    below.set_xticks(range(cores), labels=[str(core) for core in range(cores)])
    below.set_xlabel("core")
    for axes in (full, below):
        axes.set_xlim(-0.6, cores - 0.4)
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
    full.set_xticks([])
    full.set_yticks([])
    below.grid(axis="y", linewidth=0.4)


def _chips(figure: Figure, placement: dict[str, Any], narrow: bool, height: int) -> None:
    """Every core is a cell, filled from below as far as its fullest resource is used."""
    chips = min(placement["chips"], _MOST_CHIPS[narrow])
    across = 1 if narrow or placement["chips"] == 1 else 2
    edges = {"left": 0.005, "right": 0.995, "top": 1 - 24 / height, "bottom": 30 / height}
    grid = figure.add_gridspec(-(-chips // across), across, hspace=0.22, wspace=0.04, **edges)
    for chip in range(chips):
        _chip(figure.add_subplot(grid[chip // across, chip % across]), placement, chip, narrow)


def _grid(cores: int, narrow: bool) -> tuple[int, int]:
    columns = 12 if narrow else 24
    return columns, -(-cores // columns)


def _square(figure: Figure, x: float, y: float, colour: str, height: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 11 / figure.bbox.width, 11 / height, transform=figure.transFigure, color=colour, linewidth=0)


def _chip(axes: Axes, placement: dict[str, Any], chip: int, narrow: bool) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    per_chip = placement["cores_per_chip"]
    columns, rows = _grid(per_chip, narrow)
    first = chip * per_chip
    used = min(placement["cores"] - first, per_chip)
    cells = [Rectangle((i % columns + 0.06, rows - 1 - i // columns + 0.06), 0.88, 0.88) for i in range(per_chip)]
    axes.add_collection(PatchCollection(cells, facecolor=PALETTE["band"], edgecolor=PALETTE["line"], linewidth=0.5))
    filled = placement["core_columns"]["utilisation"]
    for kind, colour in _KINDS.items():
        bars = [
            Rectangle((i % columns + 0.06, rows - 1 - i // columns + 0.06), 0.88, 0.88 * min(filled[first + i], 1.0))
            for i in range(used)
            if placement["held"][first + i]["kind"] == kind
        ]
        axes.add_collection(PatchCollection(bars, facecolor=PALETTE[colour], linewidth=0))
    axes.set_xlim(0, columns)
    axes.set_ylim(0, rows)
    axes.set_aspect("equal", anchor="NW")
    axes.axis("off")
    axes.set_title(f"chip {chip + 1} of {placement['chips']}" if placement["chips"] > 1 else "the neuro cores of a chip")


# ---- ranges ----------------------------------------------------------------------------------------------------------------


def range_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the figure: every segment, or, of a deep model, the block whose membrane can get largest, for every name."""
    rows = [{"index": index, **row} for index, row in enumerate(report["ranges"]["segments"])]
    if len(rows) > _MOST_ROWS:
        largest: dict[str, dict[str, Any]] = {}
        for row in rows:
            if row["segment"] not in largest or row["worst"] > largest[row["segment"]]["worst"]:
                largest[row["segment"]] = row
        rows = list(largest.values())
    return rows


def ranges_height(rows: list[dict[str, Any]]) -> int:
    """Pixels that the rows take."""
    return 78 + _ROW * len(rows)


def draw_ranges(figure: Figure, rows: list[dict[str, Any]], narrow: bool) -> None:
    """rows: of `range_rows`. What membranes reach on text and in the worst case, against the limit, in bits."""
    height = ranges_height(rows)
    left, right = (0.4, 0.97) if narrow else (0.24, 0.97)
    axes = figure.add_axes((left, 42 / height, right - left, 1 - 68 / height))
    for place, row in enumerate(rows):
        worst, seen = _bits(row["worst"]), _bits(row["seen"]) if row["seen"] is not None else None
        axes.plot([0, worst], [place, place], color=PALETTE["line"], linewidth=5, solid_capstyle="butt")
        if seen is not None:
            axes.plot([0, seen], [place, place], color=PALETTE["spike"], linewidth=5, solid_capstyle="butt")
        axes.plot([worst], [place], marker="|", markersize=10, markeredgewidth=2, color=PALETTE["outlier"])
    limit = _bits(rows[0]["limit"])
    axes.axvline(limit, color=PALETTE["ink"], linewidth=1.4)
    axes.set_xlim(0, max(limit, *(_bits(row["worst"]) for row in rows)) + 0.6)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), labels=[f"{row['block'].removeprefix('blocks.')} {row['segment']}" for row in rows])
    axes.yaxis.set_tick_params(labelcolor=PALETTE["ink"])
    axes.set_xticks([1, 8, 16, 24] if narrow else [1, 4, 8, 12, 16, 20, 24])
    axes.set_xlabel("bits of a signed state")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    top = 1 + 5 / (height - 68)
    axes.text(limit - 0.1, 0, "limit ", transform=axes.get_xaxis_transform(), ha="right", va="bottom", fontsize=8)
    for x, words, colour in ((0.0, "on text", "spike"), (0.3 if narrow else 0.17, "worst case", "outlier")):
        axes.text(x, top, words, transform=axes.transAxes, fontsize=8.5, color=PALETTE[colour], fontweight="bold")


def _bits(value: int) -> float:
    """Bits of a signed register that hold it."""
    return math.log2(max(value, 1)) + 1


# ---- energy ----------------------------------------------------------------------------------------------------------------

_SHORT = {"fp16": "FP16", "integer": "integer twin", "rate": "rate code", "ours": "ours"}


def energy_height(energy: dict[str, Any], narrow: bool) -> int:
    """Pixels that the panels take."""
    across = 1 if narrow else 2
    return 44 + 148 * -(-len(energy["profiles"]) // across)


def draw_energy(figure: Figure, energy: dict[str, Any], narrow: bool) -> None:
    """energy: of the report. A panel per profile, a bar per network; what is far longer than the others is cut."""
    height = energy_height(energy, narrow)
    across = 1 if narrow else 2
    down = -(-len(energy["profiles"]) // across)
    grid = figure.add_gridspec(
        down,
        across,
        left=0.245 if narrow else 0.105,
        right=0.99,
        top=1 - 22 / height,
        bottom=54 / height,
        hspace=0.42,
        wspace=0.3,
    )
    for index, profile in enumerate(energy["profiles"]):
        _panel(figure.add_subplot(grid[index // across, index % across]), profile, index)
    x, y = 0.01, (22 if narrow else 6) / height
    for name, colour in _GROUPS.items():
        if narrow and name == "host link":
            x, y = 0.01, 4 / height
        figure.patches.append(_square(figure, x, y, PALETTE[colour], height))
        figure.text(x + 16 / figure.bbox.width, y, name, fontsize=8.5, va="bottom")
        x += (34 + 6.2 * len(name)) / figure.bbox.width
    figure.text(x, y, "▨ static power of our chips", fontsize=8.5, va="bottom")


def _panel(axes: Axes, profile: dict[str, Any], index: int) -> None:
    columns = profile["columns"]
    ours = next(column for column in columns if column["network"] == "ours")
    static = ours["static_joules"]
    compared = [c["total"] for c in columns if c["total"] is not None and c["network"] != "rate"] + [static or 0.0]
    limit = 1.32 * max(compared)
    labels = []
    for place, column in enumerate(columns):
        labels.append(_SHORT[column["network"]])
        if column["total"] is None:
            axes.text(0, place, " cannot run here", va="center", fontsize=8, color=PALETTE["muted"])
            continue
        start = 0.0
        for group, colour in _GROUPS.items():
            width = max(0.0, min(column["joules"][group], limit - start))
            axes.barh(place, width, left=start, height=0.66, color=PALETTE[colour], linewidth=0)
            start += width
        cut = column["total"] > limit
        if cut:
            axes.text(limit, place, "» ", ha="right", va="center", fontsize=11, color=PALETTE["page"], fontweight="bold")
        _price(axes, f"energy.profiles.{index}.columns.{place}.total", column["total"], start, place, limit)
    if static is not None:
        place = len(columns)
        labels.append("static")
        axes.barh(place, static, height=0.66, facecolor="none", edgecolor=PALETTE["muted"], hatch="/////", linewidth=0.8)
        ours_at = columns.index(ours)
        _price(axes, f"energy.profiles.{index}.columns.{ours_at}.static_joules", static, static, place, limit)
    axes.set_xlim(0, limit)
    axes.set_ylim(4.6, -0.6)
    axes.set_yticks(range(len(labels)), labels=labels)
    axes.yaxis.set_tick_params(labelcolor=PALETTE["ink"])
    axes.get_yticklabels()[columns.index(ours)].set_fontweight("bold")
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    keyed(axes.set_title(profile["profile"]["title"]), f"energy.profiles.{index}.profile.title", "plain")


def _price(axes: Axes, key: str, joules: float, end: float, place: int, limit: float) -> None:
    inside = end > 0.78 * limit
    text = axes.annotate(
        show(joules, "si:J"),
        (end, place),
        (-18 if inside else 5, 0),
        textcoords="offset points",
        ha="right" if inside else "left",
        va="center",
        fontsize=8,
    )
    if inside:
        text.set_color(PALETTE["page"])
        text.set_fontweight("bold")
    keyed(text, key, "si:J")
