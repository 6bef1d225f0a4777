"""Writes a linear segment as a `.net`, the HDF5 format that unmodified lava-dl loads.

    layer/0/type, shape, weight, neuron/*    all that `lava.lib.dl.netx.hdf5.Network` reads: integers, stored as they are meant
    kirin/metadata                           everything netx cannot say, as JSON (see `segment_metadata`)
    kirin/scale                              (N,) float32 of the consumer's `Decode`: real value = v * input step * scale
    kirin/constant                           (N,) int64, see `kirin_lava.spikes.stock.layout.read_sums`
    kirin/ramp, kirin/offset                 (N,) int64 of a neuron that fires, see `kirin_lava.spikes.neurons`
    kirin/sample_codes, kirin/sample_result  windows of codes (windows, K) and the integers they give (windows, N)

Attributes of `kirin`: `schema`, the version of this layout, and `sha256` of the metadata, which hold the sha256 of every
other dataset. Versions of the schema: 1, the first; 2, a neuron by its name instead of a fire phase.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

import kirin_lava
from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.files import disk_errors, whole_file
from kirin_lava.export.netx.hdf5 import save
from kirin_lava.export.netx.read import SCHEMA, StoredSegment, digest, read_segment
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.neurons import Neuron
from kirin_lava.spikes.stock.layer import StockLayer, read_layer
from kirin_lava.spikes.stock.layout import Layout
from kirin_lava.spikes.stock.ranges import exact_sums

__all__ = ["Written", "write_segment"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer[Any]]
Int64 = npt.NDArray[np.int64]

_SAMPLES = 3


@dataclass(frozen=True)
class Written:
    """What became of a segment.

    Attributes:
        path: the file.
        kind: `read`, or `fire` where the neurons of the file fire.
        guarantee: `proved` or `calibrated`.
        refused: why a linear with a fire phase got a read segment all the same, else None.
        weight_sha256: of the logical weights, int8 in C order.
        size: bytes.
    """

    path: Path
    kind: str
    guarantee: str
    refused: str | None
    weight_sha256: str
    size: int


def write_segment(
    path: Path,
    linear: Linear,
    *,
    codes: Integers | None = None,
    peak: Integers | None = None,
    scale: Float32 | None = None,
    provenance: Mapping[str, str] | None = None,
) -> Written:
    """Write one segment, reopen it and compare, and only then give it its name.

    A linear with a fire phase becomes a fire segment where stock neurons can hold it, else a read segment.

    Args:
        path: the file to write or replace.
        linear: the segment.
        codes: (windows, K) codes seen in calibration, on which every column is followed; needed where the worst case does
            not fit. The first few are kept in the file as a sample.
        peak: (N,) largest |v| over the whole calibration, which may be more than `codes`.
        scale: (N,) float32 of the `Decode` that reads it, if one does.
        provenance: where the segment comes from (model, revision, recipe), kept as it is.

    Raises:
        FitError: not even the read segment fits stock neurons.
        UsageError: the file cannot be written.
    """
    refused = None
    try:
        layer = linear.neuron.stock(linear.name, linear.weight, linear.code, codes, peak)
    except FitError as error:
        if linear.fires is None:
            raise
        refused = str(error)
        layer = read_layer(linear.name, linear.weight, linear.code, codes)
    samples = _sample_codes(linear, codes)
    datasets = _stock_datasets(layer)
    datasets |= _kirin_datasets(linear, layer, scale, samples)
    weight_sha256 = hashlib.sha256(np.ascontiguousarray(linear.weight).tobytes()).hexdigest()
    metadata = segment_metadata(linear, layer, refused, weight_sha256, dict(provenance or {}))
    metadata["sha256"] = {name: digest(array) for name, array in datasets.items()}
    text = json.dumps(metadata, indent=1, allow_nan=False).encode()
    datasets["kirin/metadata"] = np.array(text)
    with disk_errors(path), whole_file(path) as partial:
        save(partial, datasets, {"kirin": {"schema": SCHEMA, "sha256": hashlib.sha256(text).hexdigest()}})
        _check_stock_view(partial, layer)
        _check_same(read_segment(partial), linear, layer)
        size = partial.stat().st_size
    return Written(path, layer.layout.kind, layer.guarantee, refused, weight_sha256, size)


def segment_metadata(
    linear: Linear, layer: StockLayer, refused: str | None, weight_sha256: str, provenance: dict[str, str]
) -> dict[str, Any]:
    """The JSON of `kirin/metadata`: plain values, in words a stranger can follow."""
    layout = layer.layout
    return {
        "about": "a linear segment of a language model converted to spikes; layer/0 is all that lava-dl needs",
        "writer": f"kirin-lava {kirin_lava.__version__}",
        "name": linear.name,
        "input": linear.input,
        "output": linear.output,
        "kind": layout.kind,
        "inputs": layout.inputs,
        "outputs": layout.outputs,
        "bits": linear.bits,
        "logical": "weight[n, k] = layer/0/weight[n, k] for n < outputs and k < inputs, as it stands",
        "weight_sha256": weight_sha256,
        "code": _code(layout.code),
        "network": layout.network,
        "stimulus": _stimulus(layout),
        "answer": _answer(layout),
        "neuron": _neuron(linear.neuron),
        "fires": None if layout.fires is None else _code(layout.fires),
        "refused": refused,
        "guarantee": layer.guarantee,
        "ranges": [asdict(r) | {"guarantee": r.guarantee} for r in layer.ranges],
        "provenance": provenance,
    }


def _code(code: SpikeCode) -> dict[str, Any]:
    """A code in numbers, so that nobody needs this program to understand it."""
    plain = asdict(code)
    channels = plain.pop("channels")
    return {"family": code.family, **plain, "kernel": list(code.kernel)} | ({"channels": channels} if channels else {})


def _neuron(neuron: Neuron) -> dict[str, Any]:
    """The kind of a neuron and its plain fields; arrays are datasets of their own."""
    plain = {f.name: getattr(neuron, f.name) for f in fields(neuron) if not isinstance(getattr(neuron, f.name), np.ndarray)}
    return {"name": neuron.name, **{key: value.name if isinstance(value, SpikeCode) else value for key, value in plain.items()}}


def _stimulus(layout: Layout) -> dict[str, Any]:
    window = layout.code.window
    return {
        "period": layout.period,
        "columns": f"code q of input k: c = q + zero, sent as payloads in columns 0 .. {window - 1}, where one in column t"
        f" counts kernel[t]: {layout.code.meaning}; in column {window} every input sends minus what it has sent",
        "control": [
            {"line": layout.inputs + i, "means": line.means, "events": [list(event) for event in line.events]}
            for i, line in enumerate(layout.control)
        ],
    }


def _answer(layout: Layout) -> str:
    if layout.fires is None:
        return (
            f"column c is answered in sample c + 1; v[n] = the sum of (kernel[c] - kernel[c + 1]) times the answer to column c,"
            f" for c = 0 .. {layout.code.window - 1} of a window, kernel[{layout.code.window}] = 0, minus kirin/constant[n]"
        )
    start, levels = layout.code.window, layout.fires.window
    level = f"a spike that answers column {start} + j is level {levels - 1} - j, no spike level 0"
    if layout.mirrored:
        return f"column c is answered in sample c + 1; {level}; q[n] = level of neuron n - level of neuron {layout.outputs} + n"
    return f"column c is answered in sample c + 1; {level}; q[n] = level of neuron n - {layout.fires.zero}"


def _stock_datasets(layer: StockLayer) -> dict[str, Array]:
    datasets = {
        "layer/0/type": np.array([b"dense"], "S10"),
        "layer/0/shape": np.array([layer.layout.neurons], np.int64),
        "layer/0/weight": layer.synapses,
    }
    for key, value in layer.neuron.items():
        datasets[f"layer/0/neuron/{key}"] = np.array(value.encode() if isinstance(value, str) else np.int64(value))
    return datasets


def _kirin_datasets(linear: Linear, layer: StockLayer, scale: Float32 | None, samples: Int64) -> dict[str, Array]:
    v = exact_sums(linear.weight, samples)
    # A refused fire phase is left to the host: the file then answers, and the sample shows, the sums.
    fired = layer.layout.fires is not None
    datasets: dict[str, Array] = {
        "kirin/constant": layer.constant,
        "kirin/sample_codes": samples.astype(np.int32),
        "kirin/sample_result": linear.neuron.closed(v) if fired else v,
    }
    for field in fields(linear.neuron):
        if isinstance(value := getattr(linear.neuron, field.name), np.ndarray):
            datasets[f"kirin/{field.name}"] = value
    if scale is not None:
        if scale.shape != (len(linear.weight),) or scale.dtype != np.float32 or not np.isfinite(scale).all():
            raise UsageError(f"{linear.name}: scales must be finite float32, one for each of {len(linear.weight)} outputs")
        datasets["kirin/scale"] = scale
    return datasets


def _sample_codes(linear: Linear, calibration: Integers | None) -> Int64:
    """(windows, K) codes for anyone who wants to try the file: seen in calibration, or any where all are proved to fit."""
    if calibration is not None and len(calibration):
        return calibration[:_SAMPLES].astype(np.int64)
    code, shape = linear.code, (_SAMPLES, linear.weight.shape[1])
    rng = np.random.default_rng(0)
    codes = rng.integers(code.code_min, code.code_max + 1, shape)
    if code.spike_codes is not None:
        low, high = code.spike_codes
        codes = np.where(rng.random(shape) < 0.05, codes, rng.integers(low, high + 1, shape))
    return code.admitted(codes).astype(np.int64)


def _check_stock_view(path: Path, layer: StockLayer) -> None:
    """Read the file as netx does (`lava.lib.dl.netx.utils.NetDict`) and compare with what was meant."""
    with h5py.File(path, "r") as file:
        stored = file["layer"]
        entry = stored["0"]
        same = (
            list(stored) == ["0"]
            and entry["type"][0].decode("ascii") == "dense"
            and np.array_equal(np.prod(entry["shape"][()]), layer.layout.neurons)
            and np.array_equal(entry["weight"][()].astype(int), layer.synapses)
            and set(entry["neuron"]) == set(layer.neuron)
            and all(
                (entry["neuron"][key][()].decode("ascii") if isinstance(value, str) else entry["neuron"][key][()]) == value
                for key, value in layer.neuron.items()
            )
        )
    if not same:
        raise RuntimeError(f"{path}: reads back differently from what was written")


def _check_same(segment: StoredSegment, linear: Linear, layer: StockLayer) -> None:
    """Our own reader must give back the segment that was written."""
    again = segment.linear
    pairs: list[tuple[Any, Any]] = [
        (again.weight, linear.weight),
        (segment.layer.synapses, layer.synapses),
        (segment.layer.constant, layer.constant),
    ]
    for field in fields(linear.neuron):
        value, stored = getattr(linear.neuron, field.name), getattr(again.neuron, field.name, None)
        if isinstance(value, np.ndarray):
            pairs.append((stored, value))
        elif value != stored:
            raise RuntimeError(f"{linear.name}: the reader does not give back {field.name} of its neurons")
    same = type(again.neuron) is type(linear.neuron) and all(
        np.array_equal(a, b) if a is not None and b is not None else a is b for a, b in pairs
    )
    if not same or segment.layer.layout != layer.layout or segment.layer.ranges != layer.ranges:
        raise RuntimeError(f"{linear.name}: the reader does not give back what was written")
