"""report.html, one page that holds all it needs, made from the content of report.json alone."""

from __future__ import annotations

from itertools import count
from typing import Any

from markupsafe import Markup

from kirin_lava.hardware.networks import NETWORKS
from kirin_lava.methods.known import method_named
from kirin_lava.tasks.draw import svg
from kirin_lava.tasks.report.figures import drawings
from kirin_lava.tasks.report.plot_chip import is_small
from kirin_lava.tasks.report.templates import FOLDER, render
from kirin_lava.tasks.report.values import present

__all__ = ["page_html"]

_SECTIONS = {
    "source": "Source",
    "method": "Method",
    "exact": "Exactness",
    "quality": "Perplexity",
    "activity": "Spikes",
    "fit": "Fit",
    "time": "Time",
    "energy": "Energy",
    "methods": "Methods",
    "limits": "Limits",
}
_PLANNED = ("source", "fit", "time", "energy", "limits")


def page_html(report: dict[str, Any]) -> str:
    """The page.

    Args:
        report: content of report.json, or of `kirin_lava.tasks.report.planned.planned_part`.
    """
    method = method_named(report["method"]["name"])
    found = drawings(report, method)

    def drawn(name: str) -> Markup:
        """Both forms of a figure, of which a page shows one."""
        figure = found[name]
        forms = (
            f'<div class="{"narrow" if narrow else "wide"}">'
            f"{svg(name, figure.draw, figure.data, narrow, height, figure.label)}</div>"
            for narrow, height in zip((False, True), figure.heights, strict=True)
        )
        return Markup("".join(forms))

    planned = "bundle" not in report
    explained = method.folder is not None or method.picture() is not None
    left_out = {"method": not explained, "methods": not present(report, "methods")}
    shown = _PLANNED if planned else [name for name in _SECTIONS if not left_out.get(name)]
    steps = report["steps"] if present(report, "steps") else ()
    placement, ranges = report["placement"], found.get("ranges")
    return render(
        "page.html.j2",
        report,
        method,
        css=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        planned=planned,
        sections={name: _SECTIONS[name] for name in shown},
        drawn=drawn,
        number=count(1).__next__,
        ours=list(NETWORKS).index("ours"),
        own_step=next((i for i, row in enumerate(steps) if row["window"] == report["recipe"]["window"]), 0),
        every_range=ranges is not None and len(ranges.data) == len(report["ranges"]["segments"]),
        few_cores=present(report, "placement") and is_small(placement),
    )
