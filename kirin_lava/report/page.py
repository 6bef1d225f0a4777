"""report.html, one page that holds all it needs, made from the content of report.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kirin_lava.report.html import Page, escape
from kirin_lava.report.page_chip import energy_section, fit_section, limits_section, time_section
from kirin_lava.report.page_model import (
    activity_section,
    cards,
    exact_section,
    quality_section,
    source_section,
    window_section,
)

__all__ = ["page_html"]

_CSS = Path(__file__).with_name("page.css")
_SECTIONS = {
    "source": "Source",
    "method": "Method",
    "exact": "Exactness",
    "quality": "Perplexity",
    "activity": "Spikes",
    "fit": "Fit",
    "time": "Time",
    "energy": "Energy",
    "limits": "Limits",
}


def page_html(report: dict[str, Any]) -> str:
    """The page.

    Args:
        report: content of report.json.
    """
    page = Page(report)
    v = page.value
    links = " ".join(f'<a href="#{name}">{words}</a>' for name, words in _SECTIONS.items())
    body = "\n".join(
        make(page)
        for make in (
            cards,
            source_section,
            window_section,
            exact_section,
            quality_section,
            activity_section,
            fit_section,
            time_section,
            energy_section,
            limits_section,
        )
    )
    tools = ", ".join(f"{escape(name)} {v(f'versions.{name}')}" for name in page.get("versions"))
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
<h1>{v("source.name")} as a spiking network</h1>
<p class="lead">A pretrained language model whose every matrix product became sums of spikes and integers, made to equal an
integer reference bit for bit. Recipe {v("recipe.name")}.</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}
</main>
<footer>
<p>Every value of this page, and every number written into its figures, carries the key under which it stands in
<code>report.json</code> (attribute <code>data-key</code>); the table of segments is <code>layers.csv</code>, too.</p>
<p>Made by Kirin-Lava {v("kirin_lava")} from a bundle of Kirin-Lava {v("bundle.made_by")}; {tools}.</p>
</footer>
</body>
</html>
"""
