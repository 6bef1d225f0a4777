"""Reading: nothing damaged, edited or foreign gets through, and every refusal names file, dataset and problem."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kirin_lava.base.errors import UsageError
from kirin_lava.export.netx.describe import describe
from kirin_lava.export.netx.read import read_segment
from kirin_lava.export.netx.write import write_segment
from kirin_lava.spikes.codes import OFFSET, SIGNED
from tests.export.netx.cases import expected, some_codes, some_linear, with_fire

Edit = Callable[[h5py.File], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fire segment with everything a file can hold."""
    rng = np.random.default_rng(0)
    linear = some_linear(rng, 12, 5, OFFSET)
    codes = some_codes(rng, OFFSET, 4, 12)
    linear = with_fire(rng, linear, SIGNED, expected(linear, codes), 2)
    path = tmp_path_factory.mktemp("good") / "good.net"
    write_segment(path, linear, codes=codes, scale=np.ones(5, np.float32))
    return path


@pytest.fixture
def edited(good: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """A copy of the good file, edited."""

    def edit(change: Edit) -> Path:
        path = tmp_path / "edited.net"
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return edit


def _replace(name: str, value: Any) -> Edit:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


def _flip(name: str) -> Edit:
    def change(file: h5py.File) -> None:
        file[name][0, 0] ^= 1

    return change


def _metadata(change: Callable[[dict[str, Any]], None]) -> Edit:
    """An edit of the metadata by someone who mends the hash as well."""

    def edit(file: h5py.File) -> None:
        facts = json.loads(file["kirin/metadata"][()])
        change(facts)
        text = json.dumps(facts).encode()
        _replace("kirin/metadata", np.bytes_(text))(file)
        file["kirin"].attrs["sha256"] = np.bytes_(hashlib.sha256(text).hexdigest().encode())

    return edit


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(5,), dtype="f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", shape=(5,))
    del file["kirin/scale"]
    file.create_virtual_dataset("kirin/scale", layout)


def _external(file: h5py.File) -> None:
    del file["kirin/scale"]
    file["kirin"].create_dataset("scale", shape=(5,), dtype="f4", external=[("elsewhere.bin", 0, 20)])


def _bomb(file: h5py.File) -> None:
    del file["kirin/sample_codes"]
    file["kirin"].create_dataset("sample_codes", shape=(1 << 40, 12), dtype="i4", chunks=(1 << 12, 12), compression="gzip")


def _huge_chunk(file: h5py.File) -> None:
    del file["kirin/sample_codes"]
    file["kirin"].create_dataset("sample_codes", shape=(4, 12), maxshape=(None, 12), dtype="i4", chunks=(1 << 25, 12))


DAMAGE: dict[str, tuple[Edit, str]] = {
    "a weight flipped": (_flip("layer/0/weight"), "layer/0/weight: is not what was written"),
    "a sample flipped": (_flip("kirin/sample_result"), "kirin/sample_result: is not what was written"),
    "no weights": (lambda f: f.pop("layer/0/weight"), "layer/0/weight: is missing"),
    "no neuron type": (lambda f: f.pop("layer/0/neuron/type"), "layer/0/neuron/type: is missing"),
    "weights in float": (_replace("layer/0/weight", np.ones((10, 25), np.float32)), "layer/0/weight: has type float32, not i1"),
    "weights are NaN": (_replace("layer/0/weight", np.full((10, 25), np.nan)), "layer/0/weight: has type float64"),
    "weights of another shape": (_replace("layer/0/weight", np.ones((10, 3), np.int8)), r"has shape \(10, 3\), not \(10, "),
    "weights in a row": (_replace("layer/0/weight", np.ones(250, np.int8)), r"layer/0/weight: has shape \(250,\)"),
    "weights are text": (_replace("layer/0/weight", np.bytes_(b"w")), "layer/0/weight: has type"),
    "weights are a group": (lambda f: (f.pop("layer/0/weight"), f.create_group("layer/0/weight")), "is no dataset"),
    "weights are empty": (_replace("layer/0/weight", h5py.Empty("i1")), "layer/0/weight: has shape None"),
    "a threshold edited": (_replace("layer/0/neuron/vThMant", 5), "neuron/vThMant: is not what was written"),
    "a threshold in float": (_replace("layer/0/neuron/vThMant", 5.0), "neuron/vThMant: has type float64"),
    "another layer type": (_replace("layer/0/type", np.array([b"conv"], "S10")), "layer/0/type: is not what was written"),
    "a type that is a number": (_replace("layer/0/type", np.array([1])), "layer/0/type: has type int64"),
    "another neuron": (_replace("layer/0/neuron/type", np.bytes_(b"SDNN")), "layer/0/neuron/type: is not what was written"),
    "a second layer": (lambda f: f.copy("layer/0", "layer/1"), "layer: holds"),
    "no layer": (lambda f: f.pop("layer"), "layer: holds"),
    "scale of another type": (_replace("kirin/scale", np.ones(5)), "kirin/scale: has type float64, not f4"),
    "scale of another length": (_replace("kirin/scale", np.ones(4, np.float32)), r"kirin/scale: has shape \(4,\)"),
    "scale is NaN": (_replace("kirin/scale", np.full(5, np.nan, np.float32)), "kirin/scale: is not what was written"),
    "scale is gone": (lambda f: f.pop("kirin/scale"), "kirin/scale: is missing"),
    "ramp edited": (_replace("kirin/ramp", np.ones(5, np.int64)), "kirin/ramp: is not what was written"),
    "a soft link": (
        lambda f: (f.move("kirin/ramp", "ramp"), f.__setitem__("kirin/ramp", h5py.SoftLink("/ramp"))),
        "kirin/ramp: ramp is a link to somewhere else",
    ),
    "an external link": (
        lambda f: (f.pop("kirin/ramp"), f.__setitem__("kirin/ramp", h5py.ExternalLink("other.h5", "/ramp"))),
        "kirin/ramp: ramp is a link to somewhere else",
    ),
    "the layer is a link": (
        lambda f: (f.move("layer/0", "zero"), f.__setitem__("layer/0", h5py.SoftLink("/zero"))),
        "layer/0/type: 0 is a link",
    ),
    "a virtual dataset": (_virtual, "kirin/scale: keeps its data in another file"),
    "an external dataset": (_external, "kirin/scale: keeps its data in another file"),
    "a bomb": (_bomb, r"kirin/sample_codes: claims \d+ bytes .* with 0 stored"),
    "a bomb of a chunk": (_huge_chunk, r"kirin/sample_codes: claims 1610612736 bytes"),
    "no metadata": (lambda f: f.pop("kirin/metadata"), "kirin/metadata: is missing"),
    "metadata edited": (_replace("kirin/metadata", np.bytes_(b"{}")), "kirin/metadata: is not what was written"),
    "metadata is a number": (_replace("kirin/metadata", 3), "kirin/metadata: has type int64"),
    "metadata of any length": (_replace("kirin/metadata", "{}"), "kirin/metadata: has type object"),
    "no schema": (lambda f: f["kirin"].attrs.pop("schema"), "kirin attribute schema: is missing"),
    "a newer schema": (lambda f: f["kirin"].attrs.__setitem__("schema", 3), "has schema 3, this version reads 2"),
    "a schema in words": (lambda f: f["kirin"].attrs.__setitem__("schema", "one"), "has schema one"),
    "a schema of two": (lambda f: f["kirin"].attrs.__setitem__("schema", [1, 1]), "kirin attribute schema: has type int64"),
    "a hash that is a number": (lambda f: f["kirin"].attrs.__setitem__("sha256", 1.5), "kirin attribute sha256: has type"),
    "kirin is a dataset": (lambda f: (f.pop("kirin"), f.__setitem__("kirin", 1)), "kirin attribute schema: is missing"),
    "facts: a list": (_metadata(lambda m: m.clear()), "does not describe a segment .KeyError"),
    "facts: no lines": (_metadata(lambda m: m.update(inputs=0)), "does not describe a segment .ValueError: 0 lines"),
    "facts: absurd lines": (_metadata(lambda m: m.update(outputs=1 << 60)), "lines"),
    "facts: another code": (_metadata(lambda m: m["code"].update(name="base-3")), "unknown code 'base-3'"),
    "facts: another window": (_metadata(lambda m: m["code"].update(window=9)), "offset codes are not those"),
    "facts: another kind": (_metadata(lambda m: m.update(kind="leak")), "'leak' is none of"),
    "facts: no fire": (_metadata(lambda m: m.update(neuron={"name": "read out"})), "a fire segment without a fire phase"),
    "facts: negative shift": (_metadata(lambda m: m["neuron"].update(exponent=-1)), "-1 is none of"),
    "facts: ranges in words": (_metadata(lambda m: m["ranges"][0].update(limit="wide")), "does not describe a segment"),
    "facts: range to infinity": (_metadata(lambda m: m["ranges"][0].update(limit=[0, 1e999])), "limit.1 is Infinity"),
    "facts: events beyond": (
        _metadata(lambda m: m["stimulus"]["control"][0].update(events=[[99, 1]])),
        "a control line sends outside the window",
    ),
    "facts: events before": (
        _metadata(lambda m: m["stimulus"]["control"][0].update(events=[[-1, 1]])),
        "a control line sends outside the window",
    ),
    "facts: other weights": (_metadata(lambda m: m.update(weight_sha256="0")), "does not hold the logical weights"),
    "facts: no hash of the ramp": (_metadata(lambda m: m["sha256"].pop("kirin/ramp")), "KeyError: 'kirin/ramp'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(case: str, edited: Callable[[Edit], Path]) -> None:
    change, message = DAMAGE[case]
    path = edited(change)
    with pytest.raises(UsageError, match=message) as error:
        read_segment(path)
    assert str(error.value).startswith(f"{path}: ")


def test_an_edited_file_can_be_read_on_purpose(good: Path, edited: Callable[[Edit], Path]) -> None:
    segment = read_segment(edited(_flip("layer/0/weight")), intact=False)
    assert (segment.linear.weight != read_segment(good).linear.weight).sum() == 1


def test_a_control_line_may_send_in_any_step_of_the_window(edited: Callable[[Edit], Path]) -> None:
    period = read_segment(edited(lambda f: None)).layer.layout.period
    events = [[0, 1], [period - 1, 1]]
    segment = read_segment(edited(_metadata(lambda m: m["stimulus"]["control"][0].update(events=events))))
    assert [list(event) for event in segment.layer.layout.control[0].events] == events


def test_without_hashes_the_structure_still_counts(edited: Callable[[Edit], Path]) -> None:
    for change, message in (
        (_replace("layer/0/weight", np.zeros((10, 3), np.int8)), "has shape"),
        (_replace("layer/0/type", np.array([b"mysterious"], "S10")), "is 'mysterious', not dense: stock netx would drop it"),
        (_replace("layer/0/neuron/type", np.bytes_(b"IZHI")), "is 'IZHI', not LOIHI"),
        (_replace("layer/0/shape", np.array([7])), "is 7, the segment has 10 neurons"),
        (_replace("kirin/ramp", np.zeros(5, np.int64)), "ramp of neuron 0 is 0, not 1 or more"),
        (_replace("kirin/scale", np.full(5, np.inf, np.float32)), "kirin/scale: holds values that are not finite"),
    ):
        with pytest.raises(UsageError, match=message):
            read_segment(edited(change), intact=False)
    path = edited(lambda f: f["layer/0/weight"].write_direct(np.full(f["layer/0/weight"].shape, -1, np.int8)))
    with pytest.raises(UsageError, match="has no positive weight: stock netx would fail"):
        read_segment(path, intact=False)


def test_what_is_no_file_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_segment(tmp_path / "none.net")
    with pytest.raises(UsageError, match="is a folder, not a regular file"):
        read_segment(tmp_path)
    for content in (b"", b"text", b"\x89HDF\r\n\x1a\n" + b"\0" * 90):
        (tmp_path / "a.net").write_bytes(content)
        with pytest.raises(UsageError, match="is no HDF5 file"):
            read_segment(tmp_path / "a.net")
    with h5py.File(tmp_path / "b.net", "w") as file:
        file["layer/0/type"] = np.array([b"dense"])
    with pytest.raises(UsageError, match="was not written by kirin-lava"):
        read_segment(tmp_path / "b.net")


def _attempt(function: Callable[[Path], Any], path: Path) -> tuple[Any, str | None]:
    """The result, or what a UsageError says."""
    try:
        return function(path), None
    except UsageError as error:
        return None, str(error)


@pytest.mark.parametrize("kind", ["cut", "bit", "byte", "burst"])
def test_random_damage_is_refused_or_harmless(good: Path, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(["cut", "bit", "byte", "burst"].index(kind))
    whole = good.read_bytes()
    before = read_segment(good)
    path = tmp_path / "damaged.net"
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        places = rng.integers(0, len(data), rng.integers(2, 30) if kind == "burst" else 1)
        if kind == "cut":
            del data[places[0] :]
        for place in places if kind != "cut" else ():
            data[place] = data[place] ^ (1 << rng.integers(8)) if kind == "bit" else rng.integers(256)
        path.write_bytes(bytes(data))
        after, problem = _attempt(read_segment, path)
        if problem is not None:
            refused += 1
        else:  # the damage hit padding
            assert after.metadata == before.metadata
            for a, b in (
                (after.layer.synapses, before.layer.synapses),
                (after.linear.weight, before.linear.weight),
                (after.layer.constant, before.layer.constant),
                (after.sample[1], before.sample[1]),
            ):
                np.testing.assert_array_equal(a, b)
        for said in (problem, _attempt(describe, path)[1]):
            assert said is None or (said.startswith(f"{path}: ") and "\n" not in said)
    assert refused > (140 if kind in ("cut", "burst") else 50)
