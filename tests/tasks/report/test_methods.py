"""What a report says of a method comes from the method: without texts, picture or paper it says nothing of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from kirin_lava.export.bundle import Bundle
from kirin_lava.methods import known
from kirin_lava.methods.kirin import KIRIN, Kirin
from kirin_lava.methods.method import Method, Paper, Picture
from kirin_lava.methods.site import Coding, Site
from kirin_lava.spikes.codes import INTEGER8, SpikeCode
from kirin_lava.spikes.steps import TokenBudget
from kirin_lava.tasks.report import Report, make_report
from kirin_lava.tasks.report.card import model_card
from kirin_lava.tasks.report.figures import drawings
from kirin_lava.tasks.report.gather import method_part
from kirin_lava.tasks.report.page import page_html
from tests.tasks.report.pages import read_page


class Bare(Method):
    """A method that says nothing of itself."""

    name: ClassVar[str] = "bare"
    title: ClassVar[str] = "Nobody's"
    options: ClassVar[type[Any]] = dict

    def coding(self, site: Site, options: Any) -> Coding:
        return Coding(INTEGER8, TokenBudget(), site.name)

    def activations(self, options: Any) -> SpikeCode:
        return INTEGER8


class Quiet(Kirin):
    """Converts as Kirin does, and says nothing of it."""

    title: ClassVar[str] = "Quiet"
    paper: ClassVar[Paper | None] = None
    folder: ClassVar[Path | None] = None

    def picture(self) -> Picture | None:
        return None


def _words(html: str) -> str:
    return " ".join(read_page(html).words)


def test_a_bare_method_gets_a_page(made: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "METHODS", (Bare(),))
    data = json.loads(json.dumps(made.data | {"method": method_part(Bare())}))
    assert data["method"]["paper"] is None
    html = page_html(data)
    assert "Nobody&#39;s" in html and 'id="method"' not in html and 'href="#method"' not in html
    assert "paper's claim" not in _words(html) and "the threshold falls" not in html
    assert list(drawings(data, Bare())) == ["activity", "codes", "ranges", "cores", "energy"]


def test_a_method_without_words_leaves_them_out_everywhere(
    firing: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "METHODS", (Quiet(),))
    copy = Path(shutil.copytree(firing, tmp_path / "copy"))
    report = make_report(copy, text, max_rows=1)
    assert "window" not in report.data and report.data["method"] == {"name": "kirin", "title": "Quiet", "paper": None}
    paper = report.data["energy"]["paper"]
    assert paper["claimed_energy_reduction"] is None and paper["claimed_step_reduction"] is None
    page = read_page((copy / "report.html").read_text(encoding="utf-8"))
    assert len(page.figures) == 10 and not [key for key, _, _ in page.values if key.startswith(("window.", "method.paper"))]
    card = model_card(Bundle(copy), report.data)
    assert "| method | Quiet |" in card and "claim" not in card and "activations |" not in card
    console = Console(width=200)
    with console.capture() as printed:
        console.print(report.table())
    assert "claim" not in printed.get() and "integer twin wins" in printed.get()


@pytest.mark.parametrize(("energy", "steps"), [(0.5, None), (None, 0.25)])
def test_a_claim_that_was_not_made_is_not_reported(
    made: Report, firing: Path, energy: float | None, steps: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half(Quiet):
        paper: ClassVar[Paper | None] = Paper("Half a paper", "unpublished", energy, steps)

    monkeypatch.setattr(known, "METHODS", (Half(),))
    data = json.loads(json.dumps(made.data | {"method": method_part(Half())}))
    data["energy"]["paper"] |= {"claimed_energy_reduction": energy, "claimed_step_reduction": steps}
    claims = {key for key, _, _ in read_page(page_html(data)).values if ".claimed_" in key}
    card = model_card(Bundle(firing), data)
    if steps is None:
        assert claims == {"energy.paper.claimed_energy_reduction"} and "claims up to 50.00 %" in card
        assert "the paper claims" not in card
    else:
        assert claims == {"energy.paper.claimed_step_reduction"} and "the paper claims 25.00 %" in card
        assert "claims up to" not in card


def test_the_words_of_kirin_are_its_own(made: Report) -> None:
    assert made.data["method"]["paper"]["source"] == "arXiv 2602.08817"
    own = [path.name for path in sorted(Path(KIRIN.folder or "").glob("*.j2"))]
    assert own == ["card.md.j2", "page.html.j2"]
    general = Path(page_html.__code__.co_filename).parent
    for path in general.rglob("*.j2"):
        words = path.read_text(encoding="utf-8").replace("Kirin-Lava", "")
        assert "Kirin" not in words and "ramp" not in words and "offset" not in words, path.name
