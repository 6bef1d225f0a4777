"""report.html, one page that holds all it needs, made from the content of report.json alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kirin_lava.tasks.report.html import Page, escape
from kirin_lava.tasks.report.page_chip import energy_section, fit_section, limits_section, time_section
from kirin_lava.tasks.report.page_model import (
    activity_section,
    cards,
    exact_section,
    plan_section,
    quality_section,
    source_section,
    window_section,
)

__all__ = ["page_html"]

_CSS = Path(__file__).with_name("page.css")
_SECTIONS: dict[str, tuple[str, Callable[[Page], str]]] = {
    "source": ("Source", source_section),
    "method": ("Method", window_section),
    "exact": ("Exactness", exact_section),
    "quality": ("Perplexity", quality_section),
    "activity": ("Spikes", activity_section),
    "fit": ("Fit", fit_section),
    "time": ("Time", time_section),
    "energy": ("Energy", energy_section),
    "limits": ("Limits", limits_section),
}
_PLANNED = {"source": ("Source", plan_section), **{name: _SECTIONS[name] for name in ("fit", "time", "energy", "limits")}}

_LEAD = (
    "A pretrained language model whose every matrix product became sums of spikes and integers, made to equal an integer "
    "reference bit for bit. Recipe {recipe.name}."
)
_PLANNED_LEAD = (
    "What a pretrained language model would need and cost, were every matrix product of it sums of spikes and integers: "
    "computed from its config.json alone, with assumed activity. Feasible in this model of the chip, not checked by Intel's "
    "compiler. Recipe {recipe.name}."
)
_SOURCE = "<code>report.json</code> (attribute <code>data-key</code>); the table of segments is <code>layers.csv</code>, too."
_PLANNED_SOURCE = "what <code>kirin-lava report --json</code> prints (attribute <code>data-key</code>)."


def page_html(report: dict[str, Any]) -> str:
    """The page.

    Args:
        report: content of report.json, or of `kirin_lava.tasks.report.planned.planned_part`.
    """
    page = Page(report)
    planned = "bundle" not in report
    sections = _PLANNED if planned else _SECTIONS
    links = " ".join(f'<a href="#{name}">{words}</a>' for name, (words, _) in sections.items())
    body = "\n".join(make(page) for _, make in sections.values())
    made = "Made by Kirin-Lava {kirin_lava}"
    if not planned:
        body = f"{cards(page)}\n{body}"
        tools = ", ".join(f"{escape(name)} {{versions.{name}}}" for name in page.get("versions"))
        made += f" from a bundle of Kirin-Lava {{bundle.made_by}}; {tools}"
    title = f"{report['source']['name']} as a spiking network"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{_CSS.read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<p class="eyebrow">Kirin-Lava report</p>
<h1>{page.value("source.name")} as a spiking network</h1>
<p class="lead">{page.fill(_PLANNED_LEAD if planned else _LEAD)}</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}
</main>
<footer>
<p>Every value of this page, and every number written into its figures, carries the key under which it stands in
{_PLANNED_SOURCE if planned else _SOURCE}</p>
<p>{page.fill(made)}.</p>
</footer>
</body>
</html>
"""
