"""Describes any `.net` file, whoever wrote it, layer by layer, and says what stock lava-dl will make of it.

lava-dl drops what it does not know and rounds what it cannot hold without a word, so every such place gets a note. Source:
`lava.lib.dl.netx.hdf5.Network` and `lava.lib.dl.netx.utils` of lava-dl 0.6.0.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.loihi2 import DELAY_MAX
from kirin_lava.export.netx.hdf5 import Container
from kirin_lava.export.netx.read import StoredSegment, read_segment
from kirin_lava.export.netx.weights import stock_weights

__all__ = ["LayerInfo", "NetInfo", "describe"]

Array = npt.NDArray[Any]

_NUMBERS = "i u f b"
_MAX_LAYERS = 4096
_DENSE = ("dense", "dense_rec")
_WITH_WEIGHTS = ("conv", *_DENSE)
_NO_WEIGHTS = ("input", "flatten")
_RAISES = ("pool", "convT", "unpool", "average", "concat", "dense_comp")
_SETTINGS = ("stride", "padding", "dilation", "groups")
_TYPE_LENGTH = 10


@dataclass(frozen=True)
class LayerInfo:
    """One layer.

    Attributes:
        index: `layer/<index>`.
        type: as written.
        shape: of its output; empty where the file has none.
        neuron: type of the neuron, or None.
        parameters: settings of the neuron and the layer, by the names in the file.
        weight_shape: outputs first; empty for a layer without weights.
        weight_range: lowest and highest.
        weight_bits: of the narrowest signed integer that holds them, None for fractions.
        density: share of weights that are not zero.
        delay_max: longest synaptic delay in steps, or None.
        notes: what stock lava-dl does with it that a reader would not expect.
    """

    index: int
    type: str
    shape: tuple[int, ...]
    neuron: str | None
    parameters: dict[str, int | float | str | list[int]]
    weight_shape: tuple[int, ...] = ()
    weight_range: tuple[float, float] | None = None
    weight_bits: int | None = None
    density: float | None = None
    delay_max: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NetInfo:
    """A `.net` file.

    Attributes:
        path: the file.
        size: bytes.
        layers: in order.
        segment: plain values about a segment of ours, None for a file of another writer.
        notes: about the file as a whole.
    """

    path: str
    size: int
    layers: tuple[LayerInfo, ...]
    segment: dict[str, Any] | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def describe(path: Path) -> NetInfo:
    """Describe a file.

    Raises:
        UsageError: it is missing, no `.net`, or damaged; the message names file, dataset and problem.
    """
    path = Path(path)
    with Container(path) as file:
        names = file.keys("layer")
        if not names:
            raise file.error("layer", "is missing or empty: this is no .net file")
        if len(names) > _MAX_LAYERS or set(names) != {str(i) for i in range(len(names))}:
            raise file.error("layer", f"must hold layers numbered from 0 without a gap, it holds {', '.join(names[:8])}")
        layers = tuple(_layer(file, i) for i in range(len(names)))
        ours = file.has("kirin")
    notes = [f"layer {n.index}: {note}" for n in layers for note in n.notes]
    return NetInfo(str(path), path.stat().st_size, layers, _segment_values(read_segment(path)) if ours else None, tuple(notes))


def _segment_values(segment: StoredSegment) -> dict[str, Any]:
    linear, layer = segment.linear, segment.layer
    return {
        "name": linear.name,
        "kind": layer.layout.kind,
        "inputs": layer.layout.inputs,
        "outputs": layer.layout.outputs,
        "bits": linear.bits,
        "encoding": linear.code.name,
        "fires": None if linear.fires is None else linear.fires.name,
        "period": layer.layout.period,
        "control_lines": len(layer.layout.control),
        "group_shifts": linear.group_shift is not None,
        "scales": segment.scale is not None,
        "guarantee": layer.guarantee,
        "refused": segment.refused,
        "network": layer.layout.network,
        "weight_sha256": segment.metadata["weight_sha256"],
        "provenance": segment.provenance,
    }


def _layer(file: Container, index: int) -> LayerInfo:
    place = f"layer/{index}"
    kind = file.text(f"{place}/type")
    shape = _integers(file, f"{place}/shape") if file.has(f"{place}/shape") else []
    notes = _type_notes(kind)
    neuron, parameters = None, {}
    if file.has(f"{place}/neuron"):
        neuron = file.text(f"{place}/neuron/type")
        parameters = _parameters(file, f"{place}/neuron", [k for k in file.keys(f"{place}/neuron") if k != "type"])
        notes += _neuron_notes(neuron, parameters)
    elif kind in _DENSE:
        notes.append("has no neuron: lava-dl takes a LIF that never fires")
    parameters |= _parameters(file, place, [k for k in _SETTINGS if file.has(f"{place}/{k}")])
    info: dict[str, Any] = {}
    if kind in _WITH_WEIGHTS and not file.has(f"{place}/weight/real"):
        info, weight_notes = _weights(file, f"{place}/weight", math.prod(shape) if kind in _DENSE else None)
        notes += weight_notes
    if file.has(f"{place}/delay"):
        longest = max(_integers(file, f"{place}/delay"), default=0)
        info["delay_max"] = longest
        if longest > DELAY_MAX:
            notes.append(f"delays up to {longest} are cut to {DELAY_MAX}")
    return LayerInfo(index, kind, tuple(shape), neuron, parameters, notes=tuple(notes), **info)


def _type_notes(kind: str) -> list[str]:
    if kind in _WITH_WEIGHTS or kind in _NO_WEIGHTS:
        return []
    if kind in _RAISES:
        return [f"lava-dl cannot build layers of type {kind!r} and raises"]
    cut = f", perhaps cut to {_TYPE_LENGTH} characters by its writer," if len(kind) == _TYPE_LENGTH else ""
    return [f"lava-dl does not know type {kind!r}{cut} and drops the layer silently"]


def _neuron_notes(neuron: str, parameters: dict[str, Any]) -> list[str]:
    if neuron not in ("LOIHI", "CUBA", "SDNN") and "RF" not in neuron:
        return [f"lava-dl does not know neuron type {neuron!r} and fails with an AttributeError"]
    if neuron in ("LOIHI", "CUBA"):
        missing = [key for key in ("vThMant", "iDecay", "vDecay") if key not in parameters]
        return [f"lava-dl needs neuron/{key}, which is missing" for key in missing]
    return []


def _parameters(file: Container, place: str, keys: list[str]) -> dict[str, int | float | str | list[int]]:
    found: dict[str, int | float | str | list[int]] = {}
    for key in keys:
        if file.is_text(f"{place}/{key}"):
            found[key] = file.text(f"{place}/{key}")
            continue
        array = file.array(f"{place}/{key}", _NUMBERS)
        _check_finite(file, f"{place}/{key}", array)
        if array.size == 1:
            value = array.reshape(-1)[0].item()
            found[key] = int(value) if value == int(value) else float(value)
        else:
            found[key] = [int(v) for v in array.reshape(-1)[:8]]
    return found


def _weights(file: Container, name: str, neurons: int | None) -> tuple[dict[str, Any], list[str]]:
    """What is to be said of weights; `neurons` of a dense layer, None for a convolution."""
    weight = file.array(name, _NUMBERS)
    if neurons and weight.ndim == 1 and weight.size % neurons == 0:
        weight = weight.reshape(neurons, -1)  # as netx does
    if not weight.size or weight.ndim < 2:
        raise file.error(name, f"has shape {weight.shape}: a layer needs weights")
    if neurons is not None and len(weight) != neurons:
        raise file.error(name, f"has shape {weight.shape} in a layer of {neurons} neurons")
    _check_finite(file, name, weight)
    low, high = weight.min().item(), weight.max().item()
    bits = None
    notes = []
    if weight.dtype.kind == "f" and (weight != np.trunc(weight)).any():
        notes.append("weights have fractions, which lava-dl cuts off")
    else:
        bits = 1 + max((-int(low) - 1).bit_length() if low < 0 else 0, int(high).bit_length() if high > 0 else 0)
    if neurons is not None:
        effective = stock_weights(weight)
        if effective is None:
            notes.append("all weights are zero: lava-dl fails with an OverflowError")
        elif (changed := effective != np.trunc(weight)).any():
            where = tuple(np.argwhere(changed)[0])
            one = f"{weight[where]:g} becomes {effective[where]:g}"
            notes.append(f"{changed.sum()} of {changed.size} weights change in lava-dl's simulator, {one}")
    values = {
        "weight_shape": tuple(weight.shape),
        "weight_range": (low, high),
        "weight_bits": bits,
        "density": float(np.count_nonzero(weight) / weight.size),
    }
    return values, notes


def _integers(file: Container, name: str) -> list[int]:
    array = file.array(name, _NUMBERS)
    _check_finite(file, name, array)
    return [int(v) for v in array.reshape(-1)]


def _check_finite(file: Container, name: str, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise file.error(name, "holds values that are not finite")
