"""The page agrees with report.json, holds all it needs, and speaks to those who do not see it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kirin_lava.tasks.draw import PALETTE
from kirin_lava.tasks.report import Report
from kirin_lava.tasks.report.page import page_html
from kirin_lava.tasks.report.values import UNKNOWN, resolve, show
from tests.tasks.report.pages import Read, read_page

NAMES = r"Loihi [12]|arXiv [\d.]+|float32|FP16|sha256|Figure \d+\.|mac_\w+|h5py"
"""Words with digits in them that are no numbers of this model."""


@pytest.fixture(scope="module")
def html(made: Report) -> str:
    return next(path for path in made.files if path.suffix == ".html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Read:
    return read_page(html)


@pytest.fixture(scope="module")
def stored(made: Report) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(next(path for path in made.files if path.suffix == ".json").read_text(encoding="utf-8"))
    return found


def test_every_value_is_that_of_report_json(page: Read, stored: dict[str, Any]) -> None:
    assert len(page.values) > 500
    for key, form, text in page.values:
        assert text == show(resolve(stored, key), form), key
        assert text != UNKNOWN or key.endswith(("static_joules", ".value", ".kind")), key


def test_no_number_stands_without_its_key(page: Read) -> None:
    loose = [text for text in page.words if re.search(r"\d", re.sub(NAMES, "", text))]
    assert loose == []


def test_figures_carry_their_numbers_too(html: str) -> None:
    for name, keys in {
        "window": "window.traces",
        "activity": "segments",
        "cores": "placement.core",
        "energy": "energy",
    }.items():
        figure = re.search(rf'<figure id="figure-{name}">(.*?)</figure>', html, re.S)
        assert figure is not None
        shown = [key for key, _, _ in read_page(figure[1]).values if key.startswith(keys)]
        assert shown and len(shown) > len(set(shown)), name  # in both forms


def test_the_page_holds_all_it_needs(page: Read, html: str) -> None:
    assert page.loads == []
    assert "@import" not in html and "<script" not in html and "url(" not in re.sub(r"url\(#", "", html)
    assert len(html) < 3_000_000


def test_ids_are_unique_and_references_are_met(page: Read, html: str) -> None:
    assert len(page.ids) == len(set(page.ids))
    for target in set(re.findall(r'(?:url\(#|href="#|aria-labelledby=")([^")]+)', html)):
        assert target in page.ids


def test_all_figures_have_a_text_alternative(page: Read, html: str) -> None:
    assert len(page.figures) == 12  # six, for desks and for phones
    for figure in page.figures:
        assert figure["role"] == "img" and len(figure["aria-label"] or "") > 40
    assert html.count("<figcaption>") == 6


def test_figures_take_their_colours_from_the_page(html: str) -> None:
    svgs = " ".join(re.findall(r"<svg.*?</svg>", html, re.S))
    assert not [name for name, colour in PALETTE.items() if colour in svgs]
    assert "#000000" not in svgs
    style = html[html.index("<style>") : html.index("</style>")]
    for theme in ("prefers-color-scheme: dark", "@media print"):
        assert theme in style
    for name, colour in PALETTE.items():
        assert f"--{name}: {colour}" in style, "the page's light colours are those of the PNGs"
        assert style.count(f"--{name}:") == 3


def test_silicon_is_never_claimed(page: Read) -> None:
    text = " ".join(page.words)
    assert "Nothing ran on silicon" in text
    assert "No chip was used" in text


def test_the_page_is_made_from_the_dict_alone(stored: dict[str, Any], html: str) -> None:
    assert page_html(stored) == html


def test_names_from_files_are_escaped(made: Report) -> None:
    evil = json.loads(json.dumps(made.data))
    evil["source"]["name"] = '<script>alert("x")</script>'
    shown = page_html(evil)
    assert "<script" not in shown and "&lt;script&gt;" in shown


def test_a_deep_model_is_summed_up(made: Report) -> None:
    """More segments than a figure can hold are shown per block, and cores as chips."""
    deep = json.loads(json.dumps(made.data))
    deep["segments"] *= 6
    deep["ranges"]["segments"] *= 6
    deep["placement"]["cores"] = 200
    deep["placement"]["chips"] = 2
    deep["placement"]["held"] = [deep["placement"]["held"][0]] * 200
    deep["placement"]["core_columns"]["utilisation"] = [0.5] * 200
    html = page_html(deep)
    assert "counts.blocks.0.spikes_per_token" in html
    assert "of each kind of segment" in html and "chip 2 of 2" in html
    read_page(html)


def test_the_paths_of_a_machine_are_not_shown(html: str, firing: Path) -> None:
    assert str(firing.parent) not in html
