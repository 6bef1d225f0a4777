"""Written files in unmodified lava-dl: every integer equals the formula, and an edited file is found out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from kirin_lava.base.errors import FitError, UsageError, VerificationError
from kirin_lava.export.netx.read import read_segment
from kirin_lava.export.netx.run import StockNetx, run_stock
from kirin_lava.export.netx.write import write_segment
from kirin_lava.graph.ops import Linear
from kirin_lava.processes.runtime import Session, run_job
from kirin_lava.spikes.codes import OFFSET, SIGNED, UNSIGNED8, UNSIGNED16, SpikeCode
from kirin_lava.spikes.neurons import READ_OUT, Silence
from kirin_lava.spikes.stock.layout import fired_codes, read_sums
from tests.export.netx.cases import (
    BEFORE_FIRE,
    INPUTS,
    OUTPUTS,
    WIDE,
    emulate,
    expected,
    few,
    some_codes,
    some_linear,
    with_fire,
)

pytestmark = pytest.mark.lava


@pytest.fixture(scope="module")
def stock() -> Iterator[Session]:
    with Session(StockNetx, timeout=300) as session:
        yield session


@pytest.mark.parametrize("weights", [(-8, 7), (-128, 127), (-128, -1), (0, 0)], ids=str)
@pytest.mark.parametrize("enc", [*INPUTS, *WIDE], ids=lambda enc: enc.name)
def test_read_segments_are_exact(stock: Session, tmp_path: Path, enc: SpikeCode, weights: tuple[int, int]) -> None:
    """Outliers, a silent window, one of outliers only, zero rows, extreme weights, several windows in a row."""
    rng = np.random.default_rng(abs(weights[0]) + enc.window)
    linear = some_linear(rng, few(40, enc), 17, enc, *weights)
    codes = some_codes(rng, enc, 6, few(40, enc))
    write_segment(tmp_path / "a.net", linear)
    np.testing.assert_array_equal(stock.call("run", tmp_path / "a.net", codes), expected(linear, codes))


@pytest.mark.parametrize("out", OUTPUTS, ids=lambda enc: enc.name)
@pytest.mark.parametrize("enc", BEFORE_FIRE, ids=lambda enc: enc.name)
def test_fire_segments_are_exact(stock: Session, tmp_path: Path, enc: SpikeCode, out: SpikeCode) -> None:
    rng = np.random.default_rng(7)
    linear = some_linear(rng, 24, 16, enc, -7, 7)
    codes = some_codes(rng, enc, 5, 24)
    linear = with_fire(rng, linear, out, expected(linear, codes), INPUTS.index(enc) % 4)
    assert write_segment(tmp_path / "a.net", linear, codes=codes).kind == "fire"
    got = stock.call("run", tmp_path / "a.net", codes)
    np.testing.assert_array_equal(got, expected(linear, codes))
    assert len(np.unique(got)) > 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)], ids=str)
def test_thin_layers_are_exact(stock: Session, tmp_path: Path, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    linear = some_linear(rng, shape[1], shape[0], OFFSET, -7, 7)
    codes = some_codes(rng, OFFSET, 3, shape[1])
    for segment in (linear, with_fire(rng, linear, SIGNED, expected(linear, codes), 1)):
        write_segment(tmp_path / "a.net", segment, codes=codes)
        np.testing.assert_array_equal(stock.call("run", tmp_path / "a.net", codes), expected(segment, codes))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1024, 4096), (4096, 1024)], ids=str)
def test_wide_and_tall_layers_are_exact(stock: Session, tmp_path: Path, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    linear = some_linear(rng, shape[1], shape[0], SIGNED, -7, 7)
    codes = rng.integers(-7, 8, (2, shape[1]))
    codes[:, :20] *= 17
    linear = with_fire(rng, linear, UNSIGNED8, expected(linear, codes), 2)
    written = write_segment(tmp_path / "a.net", linear, codes=codes)
    assert (written.kind, written.guarantee) == ("fire", "calibrated")
    np.testing.assert_array_equal(stock.call("run", tmp_path / "a.net", codes), expected(linear, codes))


def test_the_model_of_lava_in_these_tests_is_lava(stock: Session, tmp_path: Path) -> None:
    """`emulate` carries the tests of `stock.py`; here both run the same file."""
    rng = np.random.default_rng(4)
    linear = some_linear(rng, 16, 8, OFFSET, -7, 7)
    codes = some_codes(rng, OFFSET, 5, 16)
    for segment in (linear, with_fire(rng, linear, SIGNED, expected(linear, codes), 3)):
        write_segment(tmp_path / "a.net", segment, codes=codes)
        layer = read_segment(tmp_path / "a.net").layer
        sent = emulate(layer, codes)[0]
        ours = read_sums(layer.layout, layer.constant, sent) if segment.fires is None else fired_codes(layer.layout, sent)
        np.testing.assert_array_equal(stock.call("run", tmp_path / "a.net", codes), ours)


def test_a_refused_fire_phase_runs_as_sums(stock: Session, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    linear = some_linear(rng, 10, 6, SIGNED, -7, 7)
    codes = some_codes(rng, SIGNED, 4, 10)
    linear = with_fire(rng, linear, UNSIGNED16, expected(linear, codes), 0)
    assert isinstance(linear.neuron, Silence)
    linear = replace(linear, neuron=replace(linear.neuron, offset=np.full(6, 10**7)))
    assert write_segment(tmp_path / "a.net", linear, codes=codes).refused is not None
    sums = expected(replace(linear, neuron=READ_OUT), codes)
    np.testing.assert_array_equal(stock.call("run", tmp_path / "a.net", codes), sums)


def test_a_flipped_weight_changes_the_integers(stock: Session, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    linear = some_linear(rng, 12, 5, OFFSET, -7, 7)
    codes = some_codes(rng, OFFSET, 4, 12)
    path = tmp_path / "a.net"
    write_segment(path, linear)
    with h5py.File(path, "r+") as file:
        file["layer/0/weight"][3, 4] ^= 1
    with pytest.raises(UsageError, match="layer/0/weight: is not what was written"):
        read_segment(path)
    wrong = stock.call("run", path, codes) != expected(linear, codes)
    assert wrong[:, 3].any() and not np.delete(wrong, 3, axis=1).any()


def test_files_are_let_go_after_a_run(stock: Session, tmp_path: Path) -> None:
    linear = some_linear(np.random.default_rng(0), 3, 2, SIGNED)
    write_segment(tmp_path / "a.net", linear)
    stock.call("run", tmp_path / "a.net", np.zeros((1, 3), int))
    with h5py.File(tmp_path / "a.net", "r+"):
        pass


def test_a_job_tells_its_progress_and_keeps_the_kind_of_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    linear = some_linear(rng, 600, 3, SIGNED, -100, 100)
    codes = rng.integers(-7, 8, (4, 600))
    linear = with_fire(rng, linear, UNSIGNED8, expected(linear, codes), 0)
    path = tmp_path / "a.net"
    assert write_segment(path, linear, codes=codes).guarantee == "calibrated"
    seen: list[tuple[int, int]] = []
    got = run_job(run_stock, path, codes, timeout=300, on_progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(got, expected(linear, codes))
    assert seen == [(16, 65), (32, 65), (48, 65), (64, 65), (65, 65)]
    loud = np.where(linear.weight[:1] > 0, 127, -127)
    with pytest.raises(FitError, match="on these codes"):
        run_job(run_stock, path, loud, timeout=300)


def test_a_threshold_that_was_edited_is_noticed_by_early_spikes(tmp_path: Path) -> None:
    linear = Linear("s", "x", "y", np.full((2, 8), 7, np.int8), 4, SIGNED)
    linear = with_fire(np.random.default_rng(0), linear, UNSIGNED8, np.array([300]), 0)
    path = tmp_path / "a.net"
    write_segment(path, linear)
    with h5py.File(path, "r+") as file:
        file["layer/0/neuron/vThMant"][()] = 100
    with pytest.raises(VerificationError, match="window 0, neuron 0 fired before its inputs"):
        run_job(run_stock, path, np.full((1, 8), 7), timeout=300)
