"""What stock Lava and lava-dl do that nobody expects: relied on or worked round here, so each has to stay as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kirin_lava.base.errors import UsageError
from kirin_lava.export.netx.describe import describe
from kirin_lava.export.netx.read import read_segment
from kirin_lava.export.netx.weights import stock_weights
from kirin_lava.export.netx.write import write_segment
from kirin_lava.graph.ops import Linear
from kirin_lava.processes.runtime import Session
from kirin_lava.spikes.codes import SIGNED
from tests.export.netx.stock_behaviour import StockBehaviour

pytestmark = pytest.mark.lava


@pytest.fixture(scope="module")
def stock() -> Iterator[Session]:
    with Session(StockBehaviour, timeout=300) as session:
        yield session


def _dense_file(path: Path, weight: Any, neuron: dict[str, Any], **others: Any) -> Path:
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"] = others.get("type", np.array([b"dense"]))
        layer["shape"] = np.array([len(weight)])
        layer["weight"] = np.asarray(weight)
        for key, value in neuron.items():
            layer[f"neuron/{key}"] = value
    return path


SIGMA = {"type": "SDNN", "vThMant": 0, "sigma_output": 1}


def test_a_dense_of_mixed_signs_loses_its_lowest_bit(stock: Session) -> None:
    weight, column = np.array([[1, -3, 7], [-5, 2, -8]]), np.array([[5, 0], [5, 0], [5, 0]])
    assert stock.call("dense", weight, column, 0)[:, 1].tolist() == [10, -60]  # meant: 25, -55
    assert stock.call("dense", 2 * weight, column, -1)[:, 1].tolist() == [25, -55]


def test_netx_mends_the_lowest_bit_by_itself(stock: Session, tmp_path: Path) -> None:
    path = _dense_file(tmp_path / "a.net", np.array([[1, -3, 7], [-5, 2, -8]], np.int8), SIGMA)
    column = np.array([[5, 0], [5, 0], [5, 0]])
    assert stock.call("netx", path, column, {"input_message_bits": 24})[:, 1].tolist() == [25, -55]
    assert stock.call("netx", path, column, {})[:, 1].tolist() == [5, -11]  # without message bits payloads are booleans


def test_a_current_decays_unless_idecay_is_0(stock: Session, tmp_path: Path) -> None:
    """netx hands `iDecay - 1` to a LIF that adds 1 again, so a `du` of 0 set by hand decays as well."""
    payload = np.zeros((1, 22), int)
    payload[0, 0] = 1
    neuron = {"type": "LOIHI", "vThMant": 1899, "vDecay": 0, "refDelay": 1}
    arguments = {"input_message_bits": 24, "reset_interval": 100, "reset_offset": 1}
    fired = {}
    for decay in (0, 1):
        path = _dense_file(tmp_path / f"{decay}.net", np.array([[100]]), {**neuron, "iDecay": decay})
        fired[decay] = np.flatnonzero(stock.call("netx", path, payload, arguments)[0]).tolist()
    assert fired == {0: [19], 1: [20]}  # v = 100 per sample: the 19th is above 1899, where nothing is lost


def test_an_unknown_layer_type_is_dropped_without_a_word_and_refused_here(stock: Session, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "a.net", _dense_file(tmp_path / "b.net", np.ones((1, 1), np.int8), SIGMA)
    write_segment(ours, Linear("s", "x", "y", np.array([[1, -2]], np.int8), 4, SIGNED))
    for path in (ours, theirs):
        with h5py.File(path, "r+") as file:
            file["layer/1/type"] = np.array([b"mystery"], "S10")
    layers, table = stock.call("load", ours)
    assert layers == 1 and table.count("Dense") == 2  # the table repeats the row of the layer before
    with pytest.raises(UsageError, match=r"layer: holds \['0', '1'\]"):
        read_segment(ours)
    assert "drops the layer silently" in describe(theirs).notes[0]


def test_an_unknown_neuron_type_fails_with_an_error_about_none(stock: Session, tmp_path: Path) -> None:
    path = _dense_file(tmp_path / "a.net", np.ones((1, 1), np.int8), {"type": "IZHI"})
    assert stock.call("load", path) == (-1, "AttributeError: 'NoneType' object has no attribute 'pop'")
    assert "does not know neuron type 'IZHI'" in describe(path).notes[0]


def test_zeros_overflow_and_our_guard_keeps_them_from_it(stock: Session, tmp_path: Path) -> None:
    path = _dense_file(tmp_path / "a.net", np.zeros((2, 3), np.int8), SIGMA)
    layers, error = stock.call("load", path)
    assert layers == -1 and error.startswith("OverflowError")
    ours = tmp_path / "b.net"
    write_segment(ours, Linear("s", "x", "y", np.zeros((2, 3), np.int8), 4, SIGNED))
    assert stock.call("load", ours)[0] == 1


def test_a_type_of_more_than_10_characters_is_cut_by_the_type_that_lava_dl_writes(stock: Session, tmp_path: Path) -> None:
    path = _dense_file(tmp_path / "a.net", np.ones((1, 1), np.int8), SIGMA, type=np.array([b"dense_recurrent"], "S10"))
    layers, error = stock.call("load", path)
    assert layers == -1 and error.startswith("UnboundLocalError")  # the first layer is not dropped as silently
    assert "type 'dense_recu', perhaps cut to 10 characters" in describe(path).notes[0]


def test_lava_dl_keeps_a_file_open_and_locked(stock: Session, tmp_path: Path) -> None:
    path = _dense_file(tmp_path / "a.net", np.ones((1, 1), np.int8), SIGMA)
    assert stock.call("load", path)[0] == 1
    with pytest.raises(BlockingIOError, match="unable to lock file"):
        h5py.File(path, "r+")


def test_a_gap_between_layers_is_an_error_that_names_nothing(stock: Session, tmp_path: Path) -> None:
    path = _dense_file(tmp_path / "a.net", np.ones((1, 1), np.int8), SIGMA)
    with h5py.File(path, "r+") as file:
        file.copy("layer/0", "layer/2")
    assert stock.call("load", path)[0] == -1
    with pytest.raises(UsageError, match="without a gap, it holds 0, 2"):
        describe(path)


def test_stock_weights_are_what_lava_makes_of_a_matrix(stock: Session) -> None:
    rng = np.random.default_rng(0)
    matrices = []
    for i in range(3000):
        low, high = np.sort(rng.integers(-300, 301, 2) if i % 3 else rng.integers(-128, 128, 2))
        matrix = rng.integers(low, high + 1, (2, 3))
        matrix = matrix // 2 * 2 if i % 5 == 0 else -np.abs(matrix) if i % 11 == 0 else matrix
        matrices.append(np.sign(matrix) * 2 ** rng.integers(0, 9, matrix.shape) if i % 7 == 0 else matrix)
    changed = 0
    for matrix, found in zip(matrices, stock.call("weights", matrices), strict=True):
        ours = stock_weights(matrix)
        assert (ours is None) == (found is None)
        if ours is not None and found is not None:
            assert ours.tolist() == found.tolist(), matrix.tolist()
            changed += not np.array_equal(ours, matrix)
    assert changed > 100
