"""A report from config.json alone: the chip's part, and the same keys as the report of a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kirin_lava.base.errors import UsageError
from kirin_lava.methods.recipe import DEFAULT_RECIPE, load_recipe
from kirin_lava.tasks.cost import dry_run
from kirin_lava.tasks.report import Report, make_report
from kirin_lava.tasks.report.values import UNKNOWN, resolve, show
from tests.conftest import Cli
from tests.hardware.known_configs import LLAMA_2_7B, OPT_125M
from tests.tasks.report.pages import read_page


def _folder(path: Path, config: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("config", [LLAMA_2_7B, OPT_125M], ids=["llama-2-7b", "opt-125m"])
def test_the_page_says_what_the_dry_run_says(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = _folder(tmp_path / "model", config)
    report = make_report(folder, html=tmp_path / "page.html")
    plan = dry_run(config, load_recipe(DEFAULT_RECIPE))
    assert report.data["placement"]["cores"] == len(plan.cost.placement.cores)
    assert report.data["energy"]["paper"] == plan.cost.paper.to_dict() and report.data["export"] == plan.export.to_dict()
    assert report.data["counts"]["total"]["spikes_per_token"] == sum(row.spikes for row in plan.cost.work.segments)
    page = read_page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [figure["role"] for figure in page.figures] == ["img"] * 4, "cores and energy, wide and narrow"
    for key, form, text in page.values:
        assert text == show(resolve(report.data, key), form), key
        assert text != UNKNOWN or key.endswith(("static_joules", ".value", ".kind")), key
    assert report.files == (tmp_path / "page.html",) and [path.name for path in folder.iterdir()] == ["config.json"]


def test_its_segments_have_entries_of_a_bundles_report(made: Report, tmp_path: Path) -> None:
    planned = make_report(_folder(tmp_path / "model", OPT_125M))
    assert set(planned.data["segments"][0]) <= set(made.data["segments"][0])
    assert set(planned.data["counts"]["total"]) <= set(made.data["counts"]["total"])


def test_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    ran = cli("report", _folder(tmp_path / "opt-125m", OPT_125M), "--profile", "yan-22nm")
    assert ran.code == 0, ran.err
    assert "opt-125m by" in ran.out and "cores, chips" in ran.out and "16  93.75 %" in ran.out
    assert "22 nm, arXiv 2409.08290" in ran.out and "Horowitz" not in ran.out, "the only price list that was asked for"


def test_what_needs_weights_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", OPT_125M)
    with pytest.raises(UsageError, match="no converted model"):
        make_report(folder, lava=True)
