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


def test_a_table_of_methods_becomes_a_section(cli: Cli, bundle: Path, text: Path, tmp_path: Path) -> None:
    model = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["source"]["model"]
    table, page = tmp_path / "table.json", tmp_path / "page.html"
    printed = cli(*f"compare fast las-w8a8 fas-w8a8 -m {model} --methods --max-rows 2 --window 32 --json".split())
    assert printed.code == 0, printed.err
    table.write_text(printed.out, encoding="utf-8")
    ran = cli("report", bundle, "--text", text, "--html", page, "--methods", table, "--json")
    assert ran.code == 0, ran.err
    part, rows = json.loads(ran.out)["methods"], {row["name"]: row for row in json.loads(printed.out)["contenders"]}
    joules = next(key for key in rows["fast"] if key.startswith("joules, "))
    for row in part["contenders"]:
        assert row["joules"] == rows[row["name"]][joules] and row["kl"] == rows[row["name"]]["kl"]
        assert (row["joules"] is None) or row["twin_joules"] == rows[row["name"] + ", twin"][joules]
    other = json.loads(printed.out) | {"model": "another"}
    table.write_text(json.dumps(other), encoding="utf-8")
    ran = cli("report", bundle, "--text", text, "--methods", table)
    assert ran.code == 2 and "compares methods on 'another', and this is a report of" in ran.err
    html = page.read_text(encoding="utf-8")
    assert 'href="#methods"' in html and 'id="figure-methods"' in html and "las-w8a8" in html and "simulated in float" in html


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "is no table of methods (KeyError: 'model')"),
        ('{"model": "other", "text": "t", "protocol": "p", "rows": 1, "tokens": 2, "contenders": []}', "StopIteration"),
    ],
)
def test_what_is_no_table_of_methods(cli: Cli, bundle: Path, tmp_path: Path, content: str, said: str) -> None:
    table = tmp_path / "table.json"
    table.write_text(content, encoding="utf-8")
    before = sorted(path.name for path in bundle.iterdir())
    ran = cli("report", bundle, "--methods", table)
    assert ran.code == 2 and said in ran.err and "Traceback" not in ran.err
    assert sorted(path.name for path in bundle.iterdir()) == before
