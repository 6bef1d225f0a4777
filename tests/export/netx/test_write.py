"""Writing a segment: what is in the file, that it is the same every time, and that failures leave nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.export.netx.read import SCHEMA, read_segment
from kirin_lava.export.netx.write import _check_same, _check_stock_view, write_segment
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import INTEGER8, OFFSET, SIGNED, UNSIGNED16, SpikeCode
from kirin_lava.spikes.neurons import READ_OUT, Silence
from tests.export.netx.cases import INPUTS, OUTPUTS, WIDE, expected, some_codes, some_linear, with_fire


def _fire_linear(seed: int = 0, enc: SpikeCode = OFFSET, out: SpikeCode = UNSIGNED16) -> tuple[Linear, np.ndarray]:
    rng = np.random.default_rng(seed)
    linear = some_linear(rng, 20, 6, enc)
    codes = some_codes(rng, enc, 5, 20)
    return with_fire(rng, linear, out, expected(linear, codes), 2), codes


@pytest.mark.parametrize("enc", [*INPUTS, *WIDE], ids=lambda enc: enc.name)
def test_a_read_segment_comes_back_as_it_was(tmp_path: Path, enc: SpikeCode) -> None:
    linear = some_linear(np.random.default_rng(1), 7, 5, enc)
    scale = np.arange(1, 6, dtype=np.float32) / 3
    provenance = {"model": "m", "recipe": "r"}
    written = write_segment(tmp_path / "a.net", linear, scale=scale, provenance=provenance)
    segment = read_segment(tmp_path / "a.net")
    assert (written.kind, written.guarantee, written.refused) == ("read", "proved", None)
    assert written.size == (tmp_path / "a.net").stat().st_size
    assert written.weight_sha256 == hashlib.sha256(linear.weight.tobytes()).hexdigest()
    np.testing.assert_array_equal(segment.linear.weight, linear.weight)
    assert segment.scale is not None
    np.testing.assert_array_equal(segment.scale, scale)
    for name in ("name", "input", "output", "bits", "code", "neuron"):
        assert getattr(segment.linear, name) == getattr(linear, name)
    assert segment.provenance == provenance
    np.testing.assert_array_equal(segment.sample[1], expected(linear, segment.sample[0]))
    assert len(np.unique(segment.sample[0])) > 3


@pytest.mark.parametrize("weight", [[[1, 0]], [[-1, 1]], [[-128, 1]], [[-1, 0]], [[0, 0]], [[127, -128]]])
def test_weights_at_their_edges_come_back(tmp_path: Path, weight: list[list[int]]) -> None:
    linear = Linear("s", "x", "y", np.array(weight, np.int8), 8, SIGNED)
    write_segment(tmp_path / "a.net", linear)
    assert read_segment(tmp_path / "a.net").linear.weight.tolist() == weight


@pytest.mark.parametrize("out", OUTPUTS, ids=lambda enc: enc.name)
def test_a_fire_segment_comes_back_as_it_was(tmp_path: Path, out: SpikeCode) -> None:
    linear, codes = _fire_linear(out=out)
    assert isinstance(linear.neuron, Silence)
    linear = replace(linear, neuron=replace(linear.neuron))
    assert write_segment(tmp_path / "a.net", linear, codes=codes).kind == "fire"
    segment = read_segment(tmp_path / "a.net")
    again, meant = segment.linear.neuron, linear.neuron
    assert isinstance(again, Silence) and isinstance(meant, Silence)
    assert (again.code, again.exponent) == (out, meant.exponent)
    np.testing.assert_array_equal(again.ramp, meant.ramp)
    np.testing.assert_array_equal(again.offset, meant.offset)
    np.testing.assert_array_equal(segment.sample[0], codes[:3])
    np.testing.assert_array_equal(segment.sample[1], expected(linear, codes[:3]))


def test_netx_finds_what_it_reads_and_integers_as_they_are_meant(tmp_path: Path) -> None:
    linear, codes = _fire_linear()
    write_segment(tmp_path / "a.net", linear, codes=codes)
    with h5py.File(tmp_path / "a.net", "r") as file:
        layer = file["layer/0"]
        assert list(file["layer"]) == ["0"]
        assert layer["type"][0] == b"dense" and layer["type"].dtype == "S10"
        assert layer["neuron/type"][()] == b"LOIHI"
        assert layer["shape"][()].tolist() == [6]
        assert layer["weight"].dtype == np.int8
        np.testing.assert_array_equal(layer["weight"][:, :20], linear.weight)
        assert layer["neuron/iDecay"][()] == 0


def replaced(file: h5py.File, name: str, value: object) -> None:
    del file[name]
    file[name] = value


def test_a_file_with_more_in_its_neuron_than_was_meant_is_not_taken_for_what_was_written(tmp_path: Path) -> None:
    linear, codes = _fire_linear()
    write_segment(tmp_path / "a.net", linear, codes=codes)
    layer = read_segment(tmp_path / "a.net").layer
    changes: list[Callable[[h5py.File], object]] = [
        lambda file: file.__setitem__("layer/0/neuron/vDelay", 1),
        lambda file: file.copy("layer/0", "layer/1"),
        *(lambda file, key=key: file["layer/0/neuron"].pop(key) for key in layer.neuron),
        *(lambda file, key=key: replaced(file, f"layer/0/neuron/{key}", np.int64(7)) for key in layer.neuron if key != "type"),
        *(lambda file, word=word: replaced(file, "layer/0/neuron/type", word) for word in (b"LOIH", b"LOIHJ", b"SDNN")),
        *(lambda file, word=word: replaced(file, "layer/0/type", [word]) for word in (b"conv1", b"zense")),
        *(lambda file, more=more: file["layer/0/shape"].__setitem__(0, layer.layout.neurons + more) for more in (-1, 1)),
        *(lambda file, more=more: file["layer/0/weight"].__setitem__((0, 0), layer.synapses[0, 0] + more) for more in (-1, 1)),
    ]
    for change in changes:
        write_segment(tmp_path / "a.net", linear, codes=codes)
        _check_stock_view(tmp_path / "a.net", layer)
        with h5py.File(tmp_path / "a.net", "r+") as file:
            change(file)
        with pytest.raises(RuntimeError, match="reads back differently"):
            _check_stock_view(tmp_path / "a.net", layer)


def test_a_segment_that_our_reader_gives_back_differently_is_noticed(tmp_path: Path) -> None:
    linear, codes = _fire_linear()
    write_segment(tmp_path / "a.net", linear, codes=codes)
    segment = read_segment(tmp_path / "a.net")
    layer = segment.layer
    _check_same(segment, linear, layer)
    neuron = linear.neuron
    assert isinstance(neuron, Silence)
    others = (
        (replace(linear, weight=linear.weight + 1), layer),
        (replace(linear, neuron=replace(neuron, ramp=neuron.ramp + 1)), layer),
        (replace(linear, neuron=replace(neuron, exponent=neuron.exponent + 1)), layer),
        (linear, replace(layer, synapses=layer.synapses + 1)),
        (linear, replace(layer, constant=layer.constant + 1)),
        (linear, replace(layer, ranges=layer.ranges[1:])),
    )
    for other in others:
        with pytest.raises(RuntimeError, match="the reader does not give back"):
            _check_same(segment, *other)


def test_the_answer_of_a_read_segment_is_described_step_by_step(tmp_path: Path) -> None:
    write_segment(tmp_path / "a.net", some_linear(np.random.default_rng(0), 4, 3, OFFSET))
    answer = read_segment(tmp_path / "a.net").metadata["answer"]
    assert "for c = 0 .. 15 of a window, kernel[16] = 0" in answer


def test_a_large_matrix_is_compressed(tmp_path: Path) -> None:
    linear = some_linear(np.random.default_rng(0), 512, 256, SIGNED)
    written = write_segment(tmp_path / "a.net", linear)
    with h5py.File(tmp_path / "a.net", "r") as file:
        assert file["layer/0/weight"].chunks is not None and file["layer/0/weight"].compression == "gzip"
    assert written.size < 0.8 * linear.weight.size


def test_the_same_segment_gives_the_same_bytes(tmp_path: Path) -> None:
    linear, codes = _fire_linear()
    for name in ("a.net", "b.net"):
        write_segment(tmp_path / name, linear, codes=codes, provenance={"model": "m"})
    assert (tmp_path / "a.net").read_bytes() == (tmp_path / "b.net").read_bytes()


def test_the_metadata_says_in_words_what_to_do(tmp_path: Path) -> None:
    linear, codes = _fire_linear()
    write_segment(tmp_path / "a.net", linear, codes=codes)
    with h5py.File(tmp_path / "a.net", "r") as file:
        facts = json.loads(file["kirin/metadata"][()])
        assert file["kirin"].attrs["schema"] == SCHEMA
    assert facts["network"] == {"input_message_bits": 24, "reset_interval": 32, "reset_offset": 1}
    assert facts["code"]["zero"] == 8 and facts["neuron"]["code"] == "unsigned-16"
    control = facts["stimulus"]["control"]
    assert len(control) > 2 and [line["line"] for line in control] == list(range(20, 20 + len(control)))
    assert "sent as payloads in columns 0 .. 15, " in facts["stimulus"]["columns"]
    assert "in column 16 every input sends minus what it has sent" in facts["stimulus"]["columns"]
    assert "column 16 + j is level 15 - j" in facts["answer"]
    assert {r["quantity"] for r in facts["ranges"]} >= {"u while inputs arrive", "v while inputs arrive", "vth"}
    assert all(r["guarantee"] == "proved" for r in facts["ranges"])


def answers(tmp_path: Path, linear: Linear, codes: np.ndarray | None = None) -> str:
    write_segment(tmp_path / "a.net", linear, codes=codes)
    with h5py.File(tmp_path / "a.net", "r") as file:
        return str(json.loads(file["kirin/metadata"][()])["answer"])


def test_the_answer_is_described_with_its_columns_levels_and_neurons(tmp_path: Path) -> None:
    weight = np.array([[3, -5], [1, 2], [0, 1]], np.int8)
    read = Linear("l", "x", "y", weight, 4, OFFSET)
    assert answers(tmp_path, read) == (
        "column c is answered in sample c + 1; v[n] = the sum of (kernel[c] - kernel[c + 1]) times the answer to column c,"
        " for c = 0 .. 15 of a window, kernel[16] = 0, minus kirin/constant[n]"
    )
    ramp, offset = np.full(3, 40), np.zeros(3, np.int64)
    start = "column c is answered in sample c + 1; a spike that answers column 16 + j is level "
    for code, words in (
        (SIGNED, "7 - j, no spike level 0; q[n] = level of neuron n - level of neuron 3 + n"),
        (OFFSET, "15 - j, no spike level 0; q[n] = level of neuron n - 8"),
        (UNSIGNED16, "15 - j, no spike level 0; q[n] = level of neuron n - 0"),
    ):
        assert answers(tmp_path, replace(read, neuron=Silence(code, ramp, offset))) == start + words


def test_a_fire_phase_that_does_not_fit_leaves_a_read_segment_that_says_so(tmp_path: Path) -> None:
    linear, codes = _fire_linear()
    assert isinstance(linear.neuron, Silence)
    linear = replace(linear, neuron=replace(linear.neuron, ramp=np.full(6, 10**6), offset=np.full(6, 10**7)))
    written = write_segment(tmp_path / "a.net", linear, codes=codes)
    segment = read_segment(tmp_path / "a.net")
    assert written.kind == "read" and written.refused is not None and "u in the fire phase reaches" in written.refused
    assert segment.refused == written.refused and segment.layer.layout.fires is None
    assert isinstance(segment.linear.neuron, Silence) and segment.linear.neuron.ramp[0] == 10**6
    np.testing.assert_array_equal(segment.sample[1], expected(replace(linear, neuron=READ_OUT), codes[:3]))


def test_what_fits_no_stock_neuron_is_not_written(tmp_path: Path) -> None:
    linear = Linear("wide", "x", "y", np.full((2, 2000), 127, np.int8), 8, INTEGER8)
    with pytest.raises(FitError, match="wide: u while inputs arrive"):
        write_segment(tmp_path / "a.net", linear)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scale", [np.ones(5, np.float32), np.ones(6), np.full(6, np.nan, np.float32)])
def test_scales_must_be_one_finite_float32_per_output(tmp_path: Path, scale: np.ndarray) -> None:
    with pytest.raises(UsageError, match="finite float32"):
        write_segment(tmp_path / "a.net", _fire_linear()[0], scale=scale)
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    first, codes = _fire_linear(0)
    second, _ = _fire_linear(1)
    write_segment(tmp_path / "a.net", first, codes=codes)
    assert isinstance(second.neuron, Silence)
    bad = replace(second, neuron=replace(second.neuron, ramp=np.zeros(6, np.int64)))
    with pytest.raises(UsageError, match="ramp of neuron 0 is 0"):
        write_segment(tmp_path / "a.net", bad)
    np.testing.assert_array_equal(read_segment(tmp_path / "a.net").linear.weight, first.weight)
    write_segment(tmp_path / "a.net", second)
    np.testing.assert_array_equal(read_segment(tmp_path / "a.net").linear.weight, second.weight)
    assert [p.name for p in tmp_path.iterdir()] == ["a.net"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.*No such file"):
        write_segment(tmp_path / "nowhere" / "a.net", _fire_linear()[0])


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write fails half-way, as it does there."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from kirin_lava.spikes.codes import SIGNED
from kirin_lava.base.errors import UsageError
from kirin_lava.export.netx.write import write_segment
from kirin_lava.graph.ops import Linear

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
weight = np.random.default_rng(0).integers(-8, 8, (64, 64)).astype(np.int8)
try:
    write_segment(Path(sys.argv[1]), Linear("s", "x", "y", weight, 4, SIGNED))
except UsageError as error:
    print(error)
"""
    # stdout is a pipe, which the limit does not concern
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.net")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    assert "a.net failed: File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []
