"""Drawing with matplotlib: one look for all figures, as SVG that takes its colours from the page and as PNG.

A figure is a function `draw(figure, data, narrow)` that fills a `matplotlib.figure.Figure` of `WIDE` or `NARROW` pixels. The
colours of `Palette` become CSS variables of the same names in the SVG, so a page shows it in light and dark; text stays text.
A number written into a figure carries its key in report.json, see `keyed`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from kirin_lava.base.errors import BackendError
from kirin_lava.base.files import disk_errors, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = ["NARROW", "PALETTE", "WIDE", "Draw", "keyed", "require_matplotlib", "save_png", "svg", "svg_file"]

Draw = Callable[["Figure", Any, bool], None]

WIDE, NARROW = 820, 352
"""Widths of a figure in CSS pixels: on a desk and on a phone."""

_PIXELS = 96  # per inch, the definition of the CSS pixel

PALETTE = {
    "ink": "#1b2330",
    "muted": "#5a6675",
    "line": "#d9dee5",
    "band": "#eef2f7",
    "page": "#fffffe",
    "spike": "#0068a8",
    "outlier": "#c74e00",
    "silent": "#c3cad3",
    "third": "#00806a",
    "fourth": "#a8388c",
}
"""Names and light values of all colours; distinct for colour-blind readers (blue, vermilion, bluish green, reddish purple)."""

_STYLE = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": PALETTE["ink"],
    "axes.labelcolor": PALETTE["muted"],
    "axes.edgecolor": PALETTE["line"],
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": PALETTE["line"],
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "xtick.color": PALETTE["line"],
    "ytick.color": PALETTE["line"],
    "xtick.labelcolor": PALETTE["muted"],
    "ytick.labelcolor": PALETTE["muted"],
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def require_matplotlib() -> None:
    """Raise `BackendError` where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise BackendError("the report needs matplotlib, which is not installed: pip install 'kirin-lava[report]'") from None


def keyed(text: Text, key: str, form: str) -> None:
    """Mark a text of a figure as the value `key` of report.json in the format `form`, see `kirin_lava.tasks.report.values`."""
    text.set_gid(f"key:{key}|{form}")


def svg(name: str, draw: Draw, data: Any, narrow: bool, height: int, label: str) -> str:
    """A figure as an SVG element for a page.

    Args:
        name: unique on the page. height: in pixels. label: what it shows, for those who do not see it.
    """
    import matplotlib

    variant = f"{name}-{'narrow' if narrow else 'wide'}"
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": variant}):
        figure = _figure(draw, data, narrow, height)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return _for_page(buffer.getvalue(), NARROW if narrow else WIDE, height, label)


def svg_file(name: str, draw: Draw, data: Any, height: int) -> str:
    """The wide form of a figure on white, as the text of an SVG file; the same data give the same bytes."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "figure.facecolor": "white", "svg.hashsalt": name}):
        buffer = io.StringIO()
        _figure(draw, data, False, height).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save_png(path: Path, draw: Draw, data: Any, height: int) -> None:
    """The wide form of a figure on white, at twice the size of the page."""
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "figure.facecolor": "white"}), disk_errors(path), whole_file(path) as temporary:
        _figure(draw, data, False, height).savefig(temporary, format="png", dpi=2 * _PIXELS, metadata={"Software": None})


def _figure(draw: Draw, data: Any, narrow: bool, height: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=((NARROW if narrow else WIDE) / _PIXELS, height / _PIXELS))
    FigureCanvasAgg(figure)  # no pyplot, no display
    draw(figure, data, narrow)
    return figure


_USED = re.compile(r'(?:url\(#|href="#)([^")]+)')


def _for_page(text: str, width: int, height: int, label: str) -> str:
    """What matplotlib wrote, as an element: own size and label, colours by name, no ids but those that are used."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    body = text[text.index(">") + 1 : text.rindex("</svg>")]
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None
    body = re.sub(r'id="key:([^"|]+)\|([^"]+)"', r'data-key="\1" data-format="\2"', body)
    used = set(_USED.findall(body))
    body = re.sub(r' id="(matplotlib\.axis_\d+)"', ' class="scale"', body)
    body = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", body)
    for name, value in PALETTE.items():
        body = body.replace(value, f"var(--{name})")
    body = re.sub(r"(font: [^;\"']*?\d[\d.]*px)[^;\"]*", r"\1 var(--font)", body)
    body = re.sub(r"\n\s*", "\n", re.sub(r"<!--.*?-->", "", body, flags=re.S))
    return (
        f'<svg role="img" aria-label={quoteattr(label)} viewBox="{box[1]}" width="{width}" height="{height}" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{body}</svg>'
    )
