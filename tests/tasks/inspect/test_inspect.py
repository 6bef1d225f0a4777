"""`inspect` of one file, as it is printed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kirin_lava.base.console import print_table
from kirin_lava.base.errors import UsageError
from kirin_lava.export.netx.write import write_segment
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import SIGNED
from kirin_lava.tasks.inspect.net import inspect_net


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
