"""`kirin-lava report`, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Cli


@pytest.fixture
def bundle(firing: Path, tmp_path: Path) -> Path:
    """A copy: other tests look at the report of the first."""
    return shutil.copytree(firing, tmp_path / "bundle")


def test_report_writes_and_prints(cli: Cli, bundle: Path, text: Path, tmp_path: Path) -> None:
    ran = cli("report", bundle, "--text", text, "--html", tmp_path / "page.html", "--max-rows", 2, "--json")
    assert ran.code == 0, ran.err
    printed = json.loads(ran.out)
    assert printed == json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    assert printed["evaluation"]["rows"] == 2
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_report_prints_the_main_numbers(cli: Cli, bundle: Path, text: Path, tmp_path: Path) -> None:
    ran = cli("report", bundle, "--text", text, "--html", tmp_path / "page.html")
    assert ran.code == 0, ran.err
    assert "price lists under which the integer twin wins" in ran.out and "page.html" in ran.out
    assert "its claim" in ran.out and "84.66 %" in ran.out
    rows = {line.split()[0]: line for line in ran.out.splitlines() if " codes " in line and "%" in line}
    assert "16  93.75 %" in rows["offset"] and "8  96.88 %" in rows["signed"], "one row each"
    perplexity = json.loads((bundle / "report.json").read_text(encoding="utf-8"))["evaluation"]["perplexity"]
    assert f"{perplexity:.4f}" in rows["offset"] and "static" in ran.out and "Loihi 1, fitted" in ran.out


def test_report_of_no_bundle(cli: Cli, tmp_path: Path) -> None:
    ran = cli("report", tmp_path)
    assert ran.code == 2 and "manifest.json" in ran.err
