"""What was computed is printed, though a file of it cannot be written.

A folder lies where the temporary file would, so that writing fails for root as well.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kirin_lava.export.bundle import Bundle
from kirin_lava.export.manifest import MANIFEST
from kirin_lava.tasks.verified import verify_and_tell
from kirin_lava.tasks.verify import Row, Verification, verify
from tests.conftest import Cli
from tests.export.small_bundles import small_bundle
from tests.tasks.test_verify import set_weight

EVALUATED = "The cat sat on the mat. It was warm and the sun was high.\n\n" * 12


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("unwritten"), "llama", "fast")


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


def block(path: Path) -> None:
    """Have nothing be written to a file any more."""
    path.with_name(f".{path.name}.part").mkdir()


@pytest.mark.lava
@pytest.mark.slow
def test_a_verification_ends_by_its_result(cli: Cli, bundle: Path) -> None:
    """Fails at 5cef7d5: all of Lava, then exit 2 without a table."""
    block(bundle / MANIFEST)
    before = (bundle / MANIFEST).read_bytes()
    ran = cli("verify", bundle)
    assert ran.code == 0, ran.err
    assert "head.lm_head" in ran.out and "verified: " in ran.out and ", 0 mismatches" in ran.out
    assert ran.err == f"not written down: writing {bundle / '.manifest.json.part'} failed: Is a directory\n"
    probe = Bundle(bundle).probes("blocks.0")["mlp.down"]
    line = int((probe.codes != 0).sum(0).argmax())
    set_weight(bundle, "blocks.0.mlp.down", 5, line, 7 if set_weight(bundle, "blocks.0.mlp.down", 5, line, 0) < 7 else -7)
    ran = cli("verify", bundle, "--json")
    assert ran.code == 4 and "integers differ; first: blocks.0.mlp.down" in ran.err
    found = json.loads(ran.out)
    assert found["mismatches"] > 0 and "Is a directory" in found["unwritten"] and "not written down: " in ran.err
    assert (bundle / MANIFEST).read_bytes() == before


def test_a_card_that_cannot_be_written_is_told(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card is not that of `small_bundle` any more: there is something new to say."""
    result = Verification("segment", ("native",), [Row("s", "read", 1, 1, 8, 0, 0, 0, compared=5)])
    found = {"compared": 5, "mismatches": 0, "damaged": 0, "backends": ["native"], "milliseconds_per_step": {}}
    Bundle(bundle).record("segment", found)
    monkeypatch.setattr("kirin_lava.tasks.verified.verify", lambda *_, **__: replace(result))  # as if Lava had just run
    card = (bundle / "README.md").read_text()
    block(bundle / "README.md")
    told = verify_and_tell(bundle).unwritten
    assert told is not None and "README.md" in told and (bundle / "README.md").read_text() == card
    bundle.joinpath(".README.md.part").rmdir()
    assert verify_and_tell(bundle).unwritten is None
    assert "Verified on Lava's CPU simulator." in (bundle / "README.md").read_text() and "Not verified on Lava" in card


def test_verifying_knows_nothing_of_cards() -> None:
    """An edge of imports that ran up at 5cef7d5."""
    source = Path(sys.modules[verify.__module__].__file__ or "")
    assert source.name == "__init__.py"
    assert not any("tasks.report" in path.read_text() for path in source.parent.glob("*.py"))


def test_a_report_prints_its_numbers(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    """Fails at 5cef7d5: some minutes, then exit 2 without a number."""
    (tmp_path / "text.txt").write_text(EVALUATED)
    for name in ("report.json", "README.md"):
        block(bundle / name)
    page = tmp_path / "pages" / "page.html"
    ran = cli("report", bundle, "--text", tmp_path / "text.txt", "--max-rows", 1, "--html", page, "--json")
    assert ran.code == 2 and ran.err == f"error: writing {bundle / '.report.json.part'} failed: Is a directory\n"
    assert json.loads(ran.out)["counts"]["tokens"] > 0
    assert page.read_text().startswith("<!DOCTYPE html>") and (bundle / "layers.csv").is_file()


@pytest.mark.parametrize("option", ["--html", "--figures"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(cli: Cli, bundle: Path, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    ran = cli("report", bundle, option, tmp_path / "file" / "page")
    assert (ran.code, ran.out) == (2, "") and str(tmp_path / "file") in ran.err
    assert not (bundle / "report.json").exists()


def test_counts_that_cannot_be_written(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    """Fails at 5cef7d5: found when all was generated, and the summary was lost."""
    for stats in (tmp_path / "none" / "stats.json", tmp_path):
        ran = cli("run", bundle, "--max-new-tokens", 2, "--stats", stats)
        assert (ran.code, ran.out) == (2, "") and ran.err.startswith(f"error: writing {stats}"[:24]), "before the work"
    stats = tmp_path / "stats.json"
    ran = cli("run", bundle, "--prompt", "A b", "--max-new-tokens", 2, "--stats", stats)
    assert ran.code == 0 and json.loads(stats.read_text())["total"]["spikes"] > 0


def test_counts_that_find_no_room_at_the_end(cli: Cli, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = tmp_path / "stats.json"
    monkeypatch.setattr("kirin_lava.tasks.generate.require_place", lambda path: block(path))  # the disk fills up meanwhile
    ran = cli("run", bundle, "--prompt", "A b", "--max-new-tokens", 2, "--stats", stats)
    assert ran.code == 2 and ran.out.startswith("A b")
    summary, error = ran.err.splitlines()
    assert summary.startswith("2 tokens by the reference backend") and error.startswith("error: writing ")
