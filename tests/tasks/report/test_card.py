"""The model card: the hub's form, true with and without a report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kirin_lava.export.bundle import Bundle
from kirin_lava.export.manifest import sealed
from kirin_lava.tasks.report import Report, make_report
from kirin_lava.tasks.report.card import model_card, refresh_card, source_license
from kirin_lava.tasks.report.values import show

FOUND = {"compared": 4321, "mismatches": 0, "damaged": 0, "backends": ["native"], "milliseconds_per_step": {}}


def _front(card: str) -> dict[str, object]:
    start, head, _ = card.split("---\n", 2)
    assert start == ""
    values: dict[str, object] = yaml.safe_load(head)
    return values


def test_without_a_report_nothing_is_made_up(firing: Path) -> None:
    card = model_card(Bundle(firing), None)
    values = _front(card)
    assert values["base_model"] == "opt-hf" and values["base_model_relation"] == "quantized"
    assert values["library_name"] == "kirin-lava" and values["pipeline_tag"] == "text-generation"
    assert "license" not in values, "the source names none"
    assert "Unknown: not measured yet" in card and "Unknown: not counted yet" in card
    assert "| segment | every linear segment, on codes of the calibration text | not run | unknown |" in card
    assert "Not verified on Lava. Nothing ran on silicon." in card
    assert "{" not in card.replace("{facts", "{"), "every value is filled in"


def test_with_a_report(made: Report, firing: Path) -> None:
    card = model_card(Bundle(firing), made.data)
    assert f"| this one | {show(made.data['evaluation']['perplexity'], 'four')} |" in card
    assert f"{show(made.data['counts']['total']['spikes_per_token'], 'int')} spikes" in card
    assert "Under 4 of 4 price lists" in card or "price lists the integer twin" in card
    for profile in made.data["energy"]["profiles"]:
        assert f"| {profile['profile']['title']} |" in card
    assert "unknown" not in card.split("## Perplexity")[1].split("## Use")[0].lower()


def test_the_report_of_another_bundle_is_not_used(made: Report, reading: Path) -> None:
    assert "Unknown: not measured yet" in model_card(Bundle(reading), made.data)


def test_what_was_verified_later_is_in_it(made: Report, firing: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(firing, copy)
    bundle = Bundle(copy)
    bundle.record("segment", FOUND)
    card = model_card(Bundle(copy), made.data)
    assert "| 4,321 | 0 |" in card and "Verified on Lava's CPU simulator. Nothing ran on silicon." in card


def test_a_report_and_a_verification_refresh_the_card(firing: Path, text: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(firing, copy)
    make_report(copy, text, max_rows=1)
    card = (copy / "README.md").read_text(encoding="utf-8")
    assert "| this one |" in card and "unknown" not in card.split("## Cost")[1].split("## Use")[0].lower()
    bundle = Bundle(copy)
    bundle.record("segment", FOUND)
    refresh_card(bundle)
    after = (copy / "README.md").read_text(encoding="utf-8")
    assert "Verified on Lava's CPU simulator." in after and "| this one |" in after


@pytest.mark.parametrize(
    "edit", [lambda card: card + "My notes.\n", lambda card: card.replace("hub", "Hub") + "x", lambda card: ""]
)
def test_an_edited_card_is_kept(firing: Path, tmp_path: Path, edit: Callable[[str], str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(firing, copy)
    edited = edit((copy / "README.md").read_text(encoding="utf-8"))
    (copy / "README.md").write_text(edited, encoding="utf-8")
    refresh_card(Bundle(copy))
    assert (copy / "README.md").read_text(encoding="utf-8") == edited
    (copy / "README.md").unlink()
    refresh_card(Bundle(copy))
    assert not (copy / "README.md").exists()


def test_a_hub_model_is_named_by_its_id(firing: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(firing, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["source"] |= {"model": "someone/some-model", "name": "some-model", "revision": "abc123", "license": "mit"}
    (copy / "manifest.json").write_text(json.dumps(sealed(manifest)))
    values = _front(model_card(Bundle(copy), None))
    assert values["base_model"] == "someone/some-model" and values["license"] == "mit"


@pytest.mark.parametrize(
    ("text", "license_name"),
    [
        ("---\nlicense: mit\n---\n# x\n", "mit"),
        ("---\nlicense: [mit]\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        ("# license: mit\n", None),
        ("---\n", None),
    ],
)
def test_licences_come_from_front_matter(tmp_path: Path, text: str, license_name: str | None) -> None:
    (tmp_path / "README.md").write_text(text)
    assert source_license(str(tmp_path)) == license_name


def test_the_licence_outlives_the_source(reading: Path) -> None:
    """It is kept with the bundle, and says nothing about its content."""
    bundle = Bundle(reading)
    digest = bundle.digest()
    assert bundle.manifest["source"]["license"] == "mit"
    bundle.manifest["source"] |= {"model": "gone", "license": "other"}
    assert _front(model_card(bundle, None))["license"] == "other"
    assert bundle.digest() == digest


def test_unknown_licences() -> None:
    assert source_license("demo") == "bsd-3-clause"
    assert source_license("no/such-model-anywhere") is None
    assert source_license("not a/hub/id") is None


def test_the_snippet_names_a_file_of_the_bundle(firing: Path) -> None:
    card = model_card(Bundle(firing), None)
    name = card.split('netx.hdf5.Network("')[1].split('"')[0]
    assert (firing / name).is_file()
    assert f"kirin-lava run {firing.name} " in card
