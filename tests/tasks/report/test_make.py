"""A report from a bundle: what is written, and that it says what the bundle does."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import BackendError, UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.block import Block
from kirin_lava.graph.executor import Executor
from kirin_lava.graph.ops import Linear, Mix, Op, Score
from kirin_lava.graph.values import Codes, Value
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models.text import read_text, token_rows
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.quality.evaluate import evaluate
from kirin_lava.tasks.report import Report, make_report
from tests.exports import export
from tests.hf_models import save_model
from tests.tasks.report.bundles import TEXT
from tests.tasks.report.pages import read_page


def test_files_are_written_beside_the_manifest(made: Report, firing: Path, bundles: Path) -> None:
    names = [path.name for path in made.files]
    assert names[:3] == ["report.json", "layers.csv", "report.html"]
    assert names[3:] == ["window.png", "activity.png", "codes.png", "ranges.png", "cores.png", "energy.png"]
    assert all(path.parent == firing for path in made.files[:3])
    assert all(path.parent == bundles / "figures" for path in made.files[3:])
    for path in made.files[3:]:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG\r\n") and len(data) > 10_000


def test_the_bundle_stays_whole(made: Report, firing: Path) -> None:
    bundle = Bundle(firing)
    bundle.require_whole()
    assert bundle.digest() == made.data["bundle"]["digest"]


def test_a_report_can_be_repeated(made: Report, firing: Path, text: Path, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in made.files[:3]}
    again = make_report(firing, text, html=tmp_path / "page.html")
    assert (firing / "report.json").read_bytes() == first["report.json"]
    assert (firing / "layers.csv").read_bytes() == first["layers.csv"]
    assert (tmp_path / "page.html").read_bytes() == first["report.html"]
    assert again.to_dict() == made.to_dict()


def test_json_and_csv_hold_the_same_numbers(made: Report) -> None:
    stored = json.loads(made.files[0].read_text(encoding="utf-8"))
    with made.files[1].open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(stored["segments"]) > 0
    for line, row in zip(lines, stored["segments"], strict=True):
        assert line == {name: "" if value is None else str(value) for name, value in row.items()}


def test_perplexity_is_that_of_eval(made: Report, firing: Path, text: Path) -> None:
    found = evaluate(firing, text)
    assert made.data["evaluation"]["perplexity"] == found.perplexity
    assert made.data["evaluation"]["perplexity_float"] == found.perplexity_float


def test_counts_are_those_of_an_independent_count(made: Report, firing: Path, text: Path) -> None:
    """Spikes and outliers per segment, taken from the codes themselves."""
    bundle = Bundle(firing)
    model = bundle.model()
    rows = token_rows(load_tokenizer(bundle.path), read_text(text), model.max_positions)[:8]
    spikes: dict[str, int] = {}
    outliers: dict[str, int] = {}

    def watch(block: Block, op: Op, values: dict[str, Value]) -> None:
        if isinstance(op, (Linear, Score, Mix)):
            codes = values[op.input]
            assert isinstance(codes, Codes)
            q = codes.q.numpy().astype(np.int64)
            beyond, silent = op.code.is_message(q), op.code.is_silent(q)
            name = f"{block.name} {op.name}"
            spikes[name] = spikes.get(name, 0) + int((~beyond & ~silent).sum())
            outliers[name] = outliers.get(name, 0) + int(beyond.sum())

    executor = Executor(model, observer=watch)
    for row in rows:
        executor.forward(torch.as_tensor(row).unsqueeze(0))
    tokens = sum(len(row) for row in rows)
    assert made.data["counts"]["tokens"] == tokens
    for segment in made.data["segments"]:
        name = f"{segment['block']} {segment['segment']}"
        assert segment["spikes_per_token"] == spikes[name] / tokens
        assert segment["outliers_per_token"] == outliers[name] / tokens


def test_histograms_hold_every_code_once(made: Report) -> None:
    for histogram in made.data["codes"]:
        bins = histogram["bins"]
        assert sum(entry["count"] for entry in bins) == histogram["elements"] > 0
        assert all(a["high"] + 1 == b["low"] for a, b in itertools.pairwise(bins))
        silent = [entry for entry in bins if entry["kind"] == "silent"]
        assert [(entry["low"], entry["high"]) for entry in silent] == [(-histogram["zero"], -histogram["zero"])]


def test_steps_and_the_papers_claim_stand_side_by_side(made: Report) -> None:
    rows = {row["window"]: row["window_reduction"] for row in made.data["steps"]}
    assert rows == {16: 0.9375, 8: 0.96875, 256: 0.0}
    paper = made.data["energy"]["paper"]
    assert (paper["claimed_energy_reduction"], paper["claimed_step_reduction"]) == (0.8466, 0.9375)
    assert paper["step_reduction"] == 0.9375


def test_four_networks_under_every_profile(made: Report) -> None:
    for profile in made.data["energy"]["profiles"]:
        assert [column["network"] for column in profile["columns"]] == ["fp16", "integer", "rate", "ours"]
        assert len(profile["verdict"]) > 40
    wins = made.data["energy"]["twin_wins"]
    assert wins == sum("integer twin wins" in profile["verdict"] for profile in made.data["energy"]["profiles"])


def test_only_some_layers(tmp_path: Path, text: Path) -> None:
    """What cannot be measured is said to be missing; the picture is still there."""
    model = save_model(tmp_path / "model", "opt")
    calibration = tmp_path / "calibration.txt"
    calibration.write_text(TEXT.replace("cat", "cow"))
    out = tmp_path / "part"
    export(str(model), out, Recipe(), calibration=calibration, num_samples=2, seq_len=32, layers=(1, 1))
    report = make_report(out, text)
    assert "only blocks.1" in report.data["evaluation"]["missing"]
    page = read_page((out / "report.html").read_text(encoding="utf-8"))
    assert len(page.figures) == 2
    assert " ".join(page.words).count("Not here:") >= 4
    assert (out / "layers.csv").read_text() == ""


def test_the_original_may_be_gone(tmp_path: Path, text: Path) -> None:
    model = save_model(tmp_path / "model", "opt")
    calibration = tmp_path / "calibration.txt"
    calibration.write_text(TEXT.replace("cat", "cow"))
    export(str(model), tmp_path / "out", Recipe(), calibration=calibration, num_samples=2, seq_len=32)
    model.rename(tmp_path / "elsewhere")
    report = make_report(tmp_path / "out", text)
    assert str(model) in report.data["evaluation"]["missing"]
    assert report.data["counts"]["total"]["spikes"] > 0


def test_the_calibration_text_is_refused(firing: Path, bundles: Path) -> None:
    with pytest.raises(UsageError, match="calibrated on"):
        make_report(firing, bundles / "calibration.txt")


def test_the_measured_step_stands_beside_the_bound(made: Report, firing: Path, text: Path, tmp_path: Path) -> None:
    assert made.data["timing"]["lava"] == [], "it did not run on Lava"
    copy = tmp_path / "copy"
    shutil.copytree(firing, copy)
    record = {
        "compared": 5,
        "mismatches": 0,
        "damaged": 0,
        "backends": ["native", "stock"],
        "milliseconds_per_step": {"native": 1.5, "stock": 8.0},
    }
    Bundle(copy).record("segment", record)
    report = make_report(copy, text, max_rows=1)
    assert [row["seconds"] for row in report.data["timing"]["lava"]] == [0.0015, 0.008]
    assert "stock lava-dl, one segment" in (copy / "report.html").read_text(encoding="utf-8")


def test_a_damaged_bundle_is_refused(firing: Path, text: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(firing, copy)
    net = next((copy / "net").iterdir())
    net.write_bytes(net.read_bytes()[:-1] + b"?")
    with pytest.raises(UsageError, match=net.name):
        make_report(copy, text)


def test_matplotlib_is_asked_for(firing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # what an import finds where it is not installed
    with pytest.raises(BackendError, match=r"pip install 'kirin-lava\[report\]'"):
        make_report(firing)


@pytest.mark.lava
@pytest.mark.slow
def test_lava_counts_the_same(reading: Path, text: Path) -> None:
    report = make_report(reading, text, lava=True, timeout=300)
    counted = [row for row in report.data["exactness"]["lava"] if row["window"]]
    assert len(counted) == len(report.data["segments"])
    assert all(row["mismatches"] == 0 and row["spikes"] + row["outliers"] > 0 for row in counted)
    (measured,) = report.data["timing"]["lava"]
    assert measured["what"] == "Lava processes of one block" and measured["seconds"] > report.data["timing"]["step_seconds"]
    assert report.data["exactness"]["levels"][1]["run"]
    assert "Counted on Lava" in (reading / "report.html").read_text(encoding="utf-8")
