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

from kirin_lava.base.console import print_table
from kirin_lava.base.errors import UsageError
from kirin_lava.export.netx.describe import describe
from kirin_lava.export.netx.write import write_segment
from kirin_lava.processes.runtime import run_job
from kirin_lava.spikes.codes import OFFSET, UNSIGNED16
from kirin_lava.tasks.inspect.net import inspect_net
from tests.export.netx.cases import expected, some_codes, some_linear, with_fire
from tests.export.netx.stock_behaviour import load_foreign

RF = {"type": b"RF", "vThMant": 10, "sinDecay": 100, "cosDecay": 4000}
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


def _without(layer: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in layer.items() if key not in keys}


def _conv(**others: Any) -> dict[str, Any]:
    weight = np.ones((4, 1, 3, 3, 1), np.float32)
    layer = {"type": b"conv", "shape": [4, 6, 6], "weight": weight, "neuron": LIF, "stride": 1, "padding": 0, "dilation": 1}
    return {**layer, "groups": 1, **others}


def _complex(**others: Any) -> dict[str, Any]:
    real = np.arange(1, 7).reshape(2, 3)
    return {"type": b"dense", "shape": [2], "weight/real": real, "weight/imag": -real, "neuron": RF, **others}


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
        "dilation": 1,
        "groups": 1,
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
    assert info.layers[1].parameters == {"vThMant": 3, "activation": "relu", "stride": [2, 2], "padding": 0} | {
        "dilation": 1,
        "groups": 1,
    }
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
        (_without(_conv(), "neuron"), "has no neuron: lava-dl raises a KeyError"),
        (_conv(neuron={"type": b"SDNN"}), "needs neuron/vThMant, which is missing, and raises a KeyError"),
        (_without(_conv(), "stride", "groups"), "needs stride, groups of a convolution and raises a KeyError"),
        (_conv(weight=np.ones((4, 1, 9))), "its weight has shape (4, 1, 9), not (out, in, height, width, 1)"),
        (_conv(bias=np.ones(5)), "its bias has shape (5,) and its output (4, 6, 6): lava-dl raises a RuntimeError"),
        (_conv(), "no input layer comes before this convolution: lava-dl raises unless it is given input_shape"),
        ({"type": b"dense", "shape": [1], "neuron": LIF}, "has no weight: lava-dl raises a KeyError"),
        (_dense([[1, 2]], type=b"dense_rec"), "is recurrent and has no weight_rec: lava-dl raises a KeyError"),
        (
            _dense([[1, 2]], type=b"dense_rec", weight_rec=[[1, 2]]),
            "its weight_rec has shape (1, 2), not (1, 1): lava-dl raises",
        ),
        (_dense([[1, 2]], weight_rec=[[1]]), "weight_rec of a layer of type 'dense' is left out by lava-dl"),
        (_without(_dense([[1]]), "shape"), "has no shape: lava-dl raises a KeyError"),
        (_dense([[1, 2], [3, 4]], delay=[1, 2, 3]), "its delay has shape (3,) for a weight of shape (2, 2): lava-dl raises"),
        (_dense([[1, 2]], bias=[0.5]), "bias have fractions, which lava-dl cuts off"),
        (_dense([[1, 2]], neuron={**LIF, "refDelay": 3}), "a refractory period of 3 steps (neuron/refDelay) is left out"),
        (_dense([[1, 2]], neuron={"type": b"SDNN"}), "needs neuron/vThMant, which is missing, and raises a KeyError"),
        (_dense([[1, 2]], neuron=RF), "has real inputs and neurons of type 'RF', which take complex ones: lava-dl raises"),
        (_complex(neuron=LIF), "has complex weights and neurons of type 'LOIHI', not RF: lava-dl raises an AttributeError"),
        (_complex(bias=[1, 2]), "bias of a layer with complex weights is left out by lava-dl"),
        (_without(_complex(), "weight/real"), "has no weight/real beside weight/imag: lava-dl raises a KeyError"),
        (_complex(neuron=_without(RF, "sinDecay")), "needs neuron/sinDecay, which is missing, and raises a KeyError"),
        ({"type": b"input", "shape": [2], "neuron": LIF, "weight": [3, 4]}, "one number and raises a TypeError"),
        ({"type": b"input", "shape": [2], "neuron": LIF, "bias": [3]}, "the input transform (weight, bias) is kept but never"),
        ({"type": b"flatten"}, "lava-dl finds no layer to build and raises an IndexError"),
    ],
)
def test_what_lava_dl_would_not_say_is_said(tmp_path: Path, layer: dict[str, Any], note: str) -> None:
    info = describe(_write(tmp_path / "a.net", [layer]))
    assert any(note in said for said in info.notes), info.notes
    assert all(f"note: {said}" in _text(tmp_path / "a.net") for said in info.notes)


def test_all_arrays_of_a_layer_are_told(tmp_path: Path) -> None:
    layers: list[dict[str, Any]] = [
        {"type": b"input", "shape": [3], "neuron": {**LIF, "vThMant": [-1.5, 2, 0.25]}, "weight": [[64.0]], "bias": [[-7.0]]},
        _dense([[1, 0, -3], [0, 0, 7]], type=b"dense_rec", weight_rec=[[-20, 0], [5, 0]], bias=[-1, 99], inFeatures=3),
        _complex(),
    ]
    path = _write(tmp_path / "a.net", layers)
    info = describe(path)
    assert info.layers[0].parameters["vThMant"] == [-1.5, 2, 0.25]
    assert [(n, a.range) for n, a in info.layers[0].arrays.items()] == [("weight", (64, 64)), ("bias", (-7, -7))]
    recurrent = info.layers[1].arrays
    assert (recurrent["weight_rec"].shape, recurrent["weight_rec"].range, recurrent["weight_rec"].bits) == ((2, 2), (-20, 5), 6)
    assert recurrent["bias"].range == (-1, 99) and recurrent["bias"].shape == (2,)
    assert info.layers[1].parameters["inFeatures"] == 3
    assert info.layers[2].arrays["weight/real"].range == (1, 6) and info.layers[2].arrays["weight/imag"].range == (-6, -1)
    assert info.layers[2].weight_shape == (2, 3)
    values = json.loads(json.dumps(info.to_dict()))["layers"]
    assert values[1]["arrays"]["bias"]["range"] == [-1, 99] and values[0]["parameters"]["vThMant"] == [-1.5, 2, 0.25]
    text = _text(path)
    for word in ("weight_rec", "-20 .. 5", "-1 .. 99", "weight/imag", "-6 .. -1", "vThMant -1.5 2 0.25", "inFeatures 3"):
        assert word in text


@pytest.mark.parametrize(("count", "listed"), [(9, True), (600, True), (5000, False)])
def test_a_setting_per_neuron_keeps_every_value_or_says_how_many(tmp_path: Path, count: int, listed: bool) -> None:
    values = [-0.5 + i for i in range(count)]
    layer = _dense(np.ones((1, 2)), neuron={**LIF, "vThMant": values})
    path = _write(tmp_path / "a.net", [layer])
    told = json.loads(json.dumps(describe(path).to_dict()))["layers"][0]["parameters"]["vThMant"]
    summary = {"count": count, "lowest": -0.5, "highest": count - 1.5, "first": values[:8]}
    assert told == (values if listed else summary)
    assert f"vThMant -0.5 0.5 1.5 2.5 3.5 4.5 5.5 6.5 ... ({count} values from -0.5 to {count - 1.5})" in _text(path)


def test_settings_have_room_on_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    layers = [{"type": b"input", "shape": [1, 8, 8]}, _conv(neuron={**LIF, "gradedSpike": 0, "scaleRho": 0.25}, stride=[2, 2])]
    print_table(inspect_net(_write(tmp_path / "a.net", layers)).table())
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for setting in ("vThMant 10", "iDecay 4096", "scaleRho 0.25", "stride 2 2", "dilation 1"):
        assert setting in printed  # on one line each


RAISED: list[tuple[dict[str, Any], str | None]] = [
    (_without(_conv(), "neuron"), "KeyError"),
    (_conv(neuron={"type": b"SDNN"}), "KeyError"),
    (_without(_conv(), "groups"), "KeyError"),
    (_conv(bias=np.ones(5)), "RuntimeError"),
    (_dense([[1, 2]], type=b"dense_rec"), "KeyError"),
    (_dense([[1, 2], [3, 4]], type=b"dense_rec", weight_rec=[[1, 2]]), "ValueError"),
    (_dense([[1, 2], [3, 4]], delay=[1, 2, 3]), "RuntimeError"),
    (_dense([[1, 2]], neuron={"type": b"SDNN"}), "KeyError"),
    (_dense([[1, 2]], neuron=RF), "AttributeError"),
    (_complex(neuron=LIF), "AttributeError"),
    (_without(_complex(), "weight/real"), "KeyError"),
    ({"type": b"input", "shape": [2], "neuron": LIF, "weight": [3, 4]}, "TypeError"),
    ({"type": b"flatten"}, "IndexError"),
    (_dense([[1, 2]], bias=[3], delay=[0, 5]), None),
    (_complex(), None),
    (_conv(), None),
]


@pytest.mark.lava
def test_lava_dl_raises_where_the_notes_say_so(tmp_path: Path) -> None:
    paths = [_write(tmp_path / f"{i}.net", [layer]) for i, (layer, _) in enumerate(RAISED)]
    assert run_job(load_foreign, [str(path) for path in paths]) == [error for _, error in RAISED]
    for path, (_, error) in zip(paths, RAISED, strict=True):
        raises = [note for note in describe(path).notes if ("raises" in note or "fails" in note) and "input_shape" not in note]
        assert bool(raises) == (error is not None), raises
        assert error is None or any(error in note or note.endswith("lava-dl raises") for note in raises)


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
