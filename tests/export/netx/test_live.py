"""Stock networks that live on: every integer of every question, whatever was asked before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from kirin_lava.base.errors import FitError, UsageError, VerificationError
from kirin_lava.export.netx.live import StockRack
from kirin_lava.export.netx.read import digest
from kirin_lava.export.netx.write import write_segment
from kirin_lava.graph.ops import Linear
from kirin_lava.processes.runtime import Session
from kirin_lava.spikes.codes import INTEGER8, OFFSET, SIGNED, UNSIGNED8, UNSIGNED16
from tests.export.netx.cases import Int64, expected, some_codes, some_linear, with_fire

pytestmark = pytest.mark.lava

INPUTS, WINDOWS = 24, 40
KINDS = {"read": (OFFSET, None), "head": (INTEGER8, None), "fire": (OFFSET, UNSIGNED16), "mirrored": (SIGNED, SIGNED)}


@dataclass
class Case:
    """A segment, its file, and codes for it."""

    linear: Linear
    path: Path
    codes: Int64


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder, rng, made = tmp_path_factory.mktemp("net"), np.random.default_rng(0), {}
    for name, (enc, out) in KINDS.items():
        linear = some_linear(rng, INPUTS, 16, enc, -7, 7)
        codes = some_codes(rng, enc, WINDOWS, INPUTS)
        if out is not None:
            linear = with_fire(rng, linear, out, expected(linear, codes), 1)
        assert (write_segment(folder / f"{name}.net", linear, codes=codes).kind == "fire") == (out is not None)
        made[name] = Case(linear, folder / f"{name}.net", codes)
    return made


@pytest.fixture(scope="module", params=[False, True], ids=["apart", "together"])
def rack(cases: dict[str, Case], request: pytest.FixtureRequest) -> Iterator[Session]:
    """A runtime for each segment as on the simulator, and one for all as on a board."""
    with Session(StockRack, {name: case.path for name, case in cases.items()}, "cpu", request.param, timeout=300) as session:
        yield session


def test_networks_answer_exactly_in_any_order(rack: Session, cases: dict[str, Case]) -> None:
    """One window and more than a tape holds, in turns: what one leaves behind must not reach the next."""
    assert rack.call("fires") == {name: out is not None for name, (_, out) in KINDS.items()}
    rng = np.random.default_rng(1)
    for count in (1, WINDOWS, 1, 16, 17, 2):
        for name in rng.permutation(list(cases)):
            case = cases[name]
            codes = rng.permutation(case.codes)[:count]
            np.testing.assert_array_equal(rack.call("run", name, codes), expected(case.linear, codes), f"{name} {count}")


def test_no_window_gives_no_answer(rack: Session) -> None:
    assert rack.call("run", "fire", np.zeros((0, INPUTS), np.int64)).shape == (0, 16)


def test_a_file_that_says_something_else_is_refused(cases: dict[str, Case], tmp_path: Path) -> None:
    path = tmp_path / "other.net"
    path.write_bytes(cases["fire"].path.read_bytes())
    with h5py.File(path, "r+") as file:
        file["kirin/sample_result"][2, 3] ^= 1
    with pytest.raises(UsageError, match="sample_result: is not what was written"), Session(StockRack, {"fire": path}):
        pass
    with h5py.File(path, "r+") as file:  # the same with a matching hash: a backend that computes something else
        metadata = json.loads(file["kirin/metadata"][()])
        metadata["sha256"]["kirin/sample_result"] = digest(file["kirin/sample_result"][()])
        text = json.dumps(metadata).encode()
        del file["kirin/metadata"]
        file["kirin/metadata"] = np.array(text)
        file["kirin"].attrs["sha256"] = hashlib.sha256(text).hexdigest()
    with pytest.raises(VerificationError, match="1 of the 48 integers of its own sample"):
        Session(StockRack, {"fire": path}, timeout=300)


def test_codes_beyond_a_calibrated_range_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    linear = some_linear(rng, 600, 3, SIGNED, -100, 100)
    codes = rng.integers(-7, 8, (4, 600))
    linear = with_fire(rng, linear, UNSIGNED8, expected(linear, codes), 0)
    assert write_segment(tmp_path / "a.net", linear, codes=codes).guarantee == "calibrated"
    with Session(StockRack, {"a": tmp_path / "a.net"}, timeout=300) as session:
        np.testing.assert_array_equal(session.call("run", "a", codes), expected(linear, codes))
        with pytest.raises(FitError, match="on these codes"):
            session.call("run", "a", np.where(linear.weight[:1] > 0, 127, -127))
