"""`inspect` of one file, as it is printed."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from kirin_lava.base.console import print_table
from kirin_lava.base.errors import UsageError
from kirin_lava.export.netx.write import write_segment
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import SIGNED
from kirin_lava.tasks.inspect.net import inspect_net
from tests.conftest import Cli
from tests.hf_models import save_model


@pytest.fixture
def net(tmp_path: Path) -> Path:
    write_segment(tmp_path / "a.net", Linear("s", "x", "y", np.array([[1, -7, 0]], np.int8), 4, SIGNED))
    return tmp_path / "a.net"


@pytest.mark.parametrize("columns", ["40", "200"])
def test_nothing_is_cut_off_on_any_terminal(
    net: Path, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    report = inspect_net(net)
    print_table(report.table())
    printed = capsys.readouterr().out
    assert "…" not in printed
    for word in (
        "dense",
        "SDNN",
        "1 x 3",
        "-7 .. 1",
        "0.667",
        "sigma_output",
        "proved",
        report.to_dict()["segment"]["weight_sha256"],
    ):
        assert word in printed


def test_the_report_is_plain_json(net: Path) -> None:
    values = json.loads(json.dumps(inspect_net(net).to_dict()))
    assert values["path"] == str(net) and values["size"] == net.stat().st_size
    assert values["layers"][0]["weight_shape"] == [1, 3] and values["layers"][0]["parameters"]["vThMant"] == 0
    assert values["segment"]["name"] == "s" and values["notes"] == []


def test_a_damaged_file_is_no_traceback(net: Path) -> None:
    net.write_bytes(net.read_bytes()[:1000])
    with pytest.raises(UsageError, match="damaged"):
        inspect_net(net)


def test_a_damaged_file_of_a_bundle_keeps_its_row(cli: Cli, tmp_path: Path) -> None:
    model = save_model(tmp_path / "hf", num_hidden_layers=1)
    out = tmp_path / "bundle"
    small = ("--num-samples", 2, "--seq-len", 12, "--recipe", "fast", "--verify", "none")
    assert cli("export", "-m", model, "-o", out, *small).code == 0
    whole = json.loads(cli("inspect", out, "--json").out)
    assert not whole["damaged"] and all(row["damaged"] is None for row in whole["segments"])
    broken, edited = out / "net/blocks.0.mlp.down.net", out / "net/blocks.0.attn.o.net"
    broken.write_bytes(broken.read_bytes()[:900])
    with h5py.File(edited, "r+") as file:
        file["layer/0/weight"][0, 0] += 1
    ran, as_json = cli("inspect", out), cli("inspect", out, "--json")
    assert ran.code == as_json.code == 0, ran.err
    told = json.loads(as_json.out)
    rows = {f"{row['block']}.{row['segment']}": row for row in told["segments"]}
    assert [(row["block"], row["segment"], row["kind"]) for row in told["segments"]] == [
        (row["block"], row["segment"], row["kind"]) for row in whole["segments"]
    ]
    assert str(broken) in rows["blocks.0.mlp.down"]["damaged"] and rows["blocks.0.mlp.down"]["inputs"] is None
    assert "not as it was exported" in rows["blocks.0.attn.o"]["damaged"] and rows["blocks.0.attn.o"]["inputs"] == 32
    assert [name for name, row in rows.items() if row["damaged"]] == ["blocks.0.attn.o", "blocks.0.mlp.down"]
    assert told["host_ops"] == whole["host_ops"] and len(told["damaged"]) == 2
    assert [line.split()[0] for line in ran.out.splitlines() if " damaged " in line and "blocks.0." in line.split()[0]] == [
        "blocks.0.attn.o",
        "blocks.0.mlp.down",
    ]
    (out / "host/blocks.0.safetensors").unlink()
    without = json.loads(cli("inspect", out, "--json").out)
    assert len(without["segments"]) == len(whole["segments"]) and "host/blocks.0.safetensors" in without["damaged"]
