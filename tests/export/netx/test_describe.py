"""Describing files of any writer, and the notes about what lava-dl will make of them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from rich.console import Console

from kirin_lava.base.errors import UsageError
from kirin_lava.export.netx.describe import describe
from kirin_lava.export.netx.write import write_segment
from kirin_lava.spikes.codes import OFFSET, UNSIGNED16
from kirin_lava.tasks.inspect.net import inspect_net
from tests.export.netx.cases import expected, some_codes, some_linear, with_fire

LIF = {"type": b"LOIHI", "vThMant": 10, "iDecay": 4096, "vDecay": 0, "refDelay": 1}


def _write(path: Path, layers: list[dict[str, Any]]) -> Path:
    with h5py.File(path, "w") as file:
        for i, layer in enumerate(layers):
            group = file.create_group(f"layer/{layer.get('index', i)}")
            group["type"] = np.array([layer["type"]], "S10")
            for key, value in layer.items():
                if key == "neuron":
                    for name, setting in value.items():
                        group[f"neuron/{name}"] = setting
                elif key not in ("type", "index"):
                    group[key] = value
    return path


def _dense(weight: Any, **others: Any) -> dict[str, Any]:
    weight = np.asarray(weight)
    return {"type": b"dense", "shape": [len(weight)], "weight": weight, "neuron": LIF, **others}


def _text(path: Path) -> str:
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(inspect_net(path).table())
    console.file.close()
    return console.export_text()


def test_a_network_of_someone_else_layer_by_layer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    conv = {
        "type": b"conv",
        "shape": [4, 6, 6],
        "weight": rng.integers(-9, 9, (4, 1, 3, 3, 1)).astype(np.float32),
        "neuron": {"type": b"SDNN", "vThMant": 3, "activation": "relu"},
        "stride": [2, 2],
        "padding": 0,
    }
    weight = np.array([[1, 0, -3], [0, 0, 7]])
    layers: list[dict[str, Any]] = [
        {"type": b"input", "shape": [1, 8, 8], "neuron": LIF},
        conv,
        {"type": b"flatten"},
        _dense(weight, delay=[0, 3, 5]),
    ]
    info = describe(_write(tmp_path / "a.net", layers))
    assert [layer.type for layer in info.layers] == ["input", "conv", "flatten", "dense"]
    assert info.segment is None and info.notes == ()
    assert info.layers[1].parameters == {"vThMant": 3, "activation": "relu", "stride": [2, 2], "padding": 0}
    dense = info.layers[3]
    assert (dense.weight_shape, dense.weight_range, dense.weight_bits, dense.delay_max) == ((2, 3), (-3, 7), 4, 5)
    assert dense.density == pytest.approx(0.5) and dense.neuron == "LOIHI" and dense.shape == (2,)
    assert json.loads(json.dumps(info.to_dict()))["layers"][3]["weight_bits"] == 4
    text = _text(tmp_path / "a.net")
    assert "4 layers" in text and "LOIHI" in text and "stride 2 2" in text


@pytest.mark.parametrize(
    ("layer", "note"),
    [
        ({"type": b"mysterious"}, "does not know type 'mysterious', perhaps cut to 10 characters by its writer, and drops"),
        ({"type": b"pool"}, "cannot build layers of type 'pool' and raises"),
        (_dense(np.zeros((2, 2))), "all weights are zero: lava-dl fails with an OverflowError"),
        (_dense([[0.5, 1]]), "weights have fractions, which lava-dl cuts off"),
        (_dense([[300, -2]]), "1 of 2 weights change in lava-dl's simulator, 300 becomes 254"),
        (_dense([[-64, -1]]), "1 of 2 weights change in lava-dl's simulator, -64 becomes -63"),
        (_dense([[1, 2]], delay=[70, 0]), "delays up to 70 are cut to 62"),
        (_dense([[1, 2]], neuron={"type": b"ALIF"}), "does not know neuron type 'ALIF' and fails with an AttributeError"),
        (_dense([[1, 2]], neuron={"type": b"CUBA", "vThMant": 1, "iDecay": 0}), "needs neuron/vDecay, which is missing"),
        ({"type": b"dense", "shape": [1], "weight": [[1]]}, "has no neuron: lava-dl takes a LIF that never fires"),
    ],
)
def test_what_lava_dl_would_not_say_is_said(tmp_path: Path, layer: dict[str, Any], note: str) -> None:
    info = describe(_write(tmp_path / "a.net", [layer]))
    assert any(note in said for said in info.layers[0].notes)
    assert f"note: layer 0: {info.layers[0].notes[0]}" in _text(tmp_path / "a.net")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "layer: is missing or empty: this is no .net file"),
        ([_dense([[1]]), _dense([[1]], index=2)], "layers numbered from 0 without a gap, it holds 0, 2"),
        ([_dense([[np.nan]])], "layer/0/weight: holds values that are not finite"),
        ([_dense([[1]], delay=[np.inf])], "layer/0/delay: holds values that are not finite"),
        ([_dense([[1], [2]], shape=[3])], r"layer/0/weight: has shape \(2, 1\) in a layer of 3 neurons"),
        ([_dense(np.zeros((0, 3)))], r"layer/0/weight: has shape \(0, 3\): a layer needs weights"),
        ([_dense(np.array([[b"x"]]))], r"layer/0/weight: has type \|S1"),
        ([{"type": b"dense", "shape": [1], "neuron": LIF}], "layer/0/weight: is missing"),
        ([{"type": b"dense", "neuron": {"vThMant": 1}}], "layer/0/neuron/type: is missing"),
        ([{"type": b"dense", "shape": b"wide"}], "layer/0/shape: has type"),
    ],
)
def test_what_is_no_network_is_refused(tmp_path: Path, layers: list[dict[str, Any]], message: str) -> None:
    path = _write(tmp_path / "a.net", layers)
    with pytest.raises(UsageError, match=message) as error:
        describe(path)
    assert str(error.value).startswith(f"{path}: ")


def test_weights_in_a_row_are_read_as_netx_reads_them(tmp_path: Path) -> None:
    info = describe(_write(tmp_path / "a.net", [_dense([1, 2, 3, 4, 5, 6], shape=[2])]))
    assert info.layers[0].weight_shape == (2, 3)


def test_one_of_ours_shows_its_segment(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    linear = some_linear(rng, 9, 4, OFFSET)
    codes = some_codes(rng, OFFSET, 4, 9)
    linear = with_fire(rng, linear, UNSIGNED16, expected(linear, codes), 1)
    write_segment(tmp_path / "a.net", linear, codes=codes, provenance={"model": "[red]m"})
    segment = describe(tmp_path / "a.net").segment
    assert segment is not None
    assert (segment["kind"], segment["encoding"], segment["fires"], segment["bits"]) == ("fire", "offset", "unsigned-16", 4)
    assert segment["guarantee"] == "proved" and segment["refused"] is None and segment["period"] == 32
    text = _text(tmp_path / "a.net")
    assert "model [red]m" in text and "reset_interval 32" in text


@pytest.mark.skipif(find_spec("lava") is None, reason="the files come with lava-dl, which is not installed")
def test_the_files_that_come_with_lava_dl_are_understood() -> None:
    import site

    files = [path for folder in site.getsitepackages() for path in Path(folder, "tests/lava/lib/dl/netx").rglob("*.net")]
    if not files:
        pytest.skip("this lava-dl came without its test files")
    infos = {path.name: describe(path) for path in files}
    assert len(infos["mnist.net"].layers) == 4
    assert infos["mnist.net"].layers[1].weight_shape == (512, 784)
    assert "cannot build layers of type 'average'" in infos["ntidigits.net"].notes[0]
