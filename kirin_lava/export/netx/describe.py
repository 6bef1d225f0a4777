"""Describes any `.net` file, whoever wrote it, layer by layer, and says what stock lava-dl will make of it.

lava-dl drops what it does not know, rounds what it cannot hold without a word, and raises somewhere inside where something is
missing, so every such place gets a note: see `kirin_lava.export.netx.raises`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.export.netx.hdf5 import Container
from kirin_lava.export.netx.raises import DENSE, delay_note, layer_notes, network_notes
from kirin_lava.export.netx.read import StoredSegment, read_segment
from kirin_lava.export.netx.weights import stock_weights

__all__ = ["ArrayInfo", "LayerInfo", "NetInfo", "describe"]

Array = npt.NDArray[Any]

_NUMBERS = "i u f b"
_MAX_LAYERS = 4096
_SHOWN = 8
_MOST_VALUES = 4096
_ARRAYS = ("weight", "weight/real", "weight/imag", "weight_rec", "bias", "delay")

Parameter = int | float | str | list[int | float] | dict[str, Any]


@dataclass(frozen=True)
class ArrayInfo:
    """An array of a layer: weights, recurrent weights, biases, delays.

    Attributes:
        shape: as netx reads it.
        range: lowest and highest value.
        bits: of the narrowest signed integer that holds all values, None for fractions.
        density: share of values that are not zero.
    """

    shape: tuple[int, ...]
    range: tuple[float, float]
    bits: int | None
    density: float


@dataclass(frozen=True)
class LayerInfo:
    """One layer.

    Attributes:
        index: `layer/<index>`.
        type: as written.
        shape: of its output; empty where the file has none.
        neuron: type of the neuron, or None.
        parameters: settings of the neuron and the layer, by the names in the file; of more than 4096 values their count,
            lowest, highest and first ones.
        arrays: by name: weight (outputs first), weight/real and weight/imag, weight_rec, bias, delay.
        weight_shape, weight_range, weight_bits, density: of its weight once more, of the real part of complex ones.
        delay_max: longest synaptic delay in steps, or None.
        notes: what stock lava-dl does with it that a reader would not expect.
    """

    index: int
    type: str
    shape: tuple[int, ...]
    neuron: str | None
    parameters: dict[str, Parameter]
    arrays: dict[str, ArrayInfo] = field(default_factory=dict)
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
    notes += network_notes([n.type for n in layers], [n.shape for n in layers], [n.neuron for n in layers])
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
    members = file.keys(place)
    shape = _integers(file, f"{place}/shape") if "shape" in members else []
    neuron: str | None = None
    parameters: dict[str, Parameter] = {}
    notes: list[str] = []
    if "neuron" in members:
        neuron = file.text(f"{place}/neuron/type")
        parameters = _parameters(file, f"{place}/neuron", [k for k in file.keys(f"{place}/neuron") if k != "type"], notes)
    settings = dict(parameters)
    parameters |= _parameters(file, place, [k for k in members if k not in (*_ARRAYS, "type", "shape", "neuron")], notes)
    arrays: dict[str, ArrayInfo] = {}
    longest = None
    for name in _ARRAYS:
        # a member of its own, or one of the group of complex weights
        if not file.has(f"{place}/{name}") or (name == "weight" and file.keys(f"{place}/weight")):
            continue
        rows = math.prod(shape) if kind in DENSE and name.startswith("weight") else None
        array = _array(file, f"{place}/{name}", rows)
        arrays[name] = _array_info(array)
        if name == "delay":
            longest = int(array.max(initial=0))
        else:
            notes += _value_notes(name, array, kind in DENSE and name == "weight")
    if longest is not None and (cut := delay_note(longest)):
        notes.append(cut)
    shapes = {name: info.shape for name, info in arrays.items()}
    notes += layer_notes(kind, members, neuron, settings, shape, shapes)
    info: dict[str, Any] = {}
    if (main := arrays.get("weight", arrays.get("weight/real"))) is not None:
        info = {
            "weight_shape": main.shape,
            "weight_range": main.range,
            "weight_bits": main.bits,
            "density": main.density,
        }
    return LayerInfo(
        index, kind, tuple(shape), neuron, parameters, arrays, delay_max=longest, notes=tuple(dict.fromkeys(notes)), **info
    )


def _parameters(file: Container, place: str, keys: list[str], notes: list[str]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for key in keys:
        name = f"{place}/{key}"
        if file.keys(name):
            notes.append(f"{key} is a group, which lava-dl does not read")
        elif file.is_text(name):
            found[key] = file.text(name)
        else:
            found[key] = _plain(_array(file, name, None))
    return found


def _plain(array: Array) -> Parameter:
    """Values as they are, with their signs and fractions: a number, a list, or a summary of very many."""
    values = [_number(value) for value in array.reshape(-1)[:_MOST_VALUES].tolist()]
    if array.size == 1:
        return values[0]
    if array.size <= _MOST_VALUES:
        return values
    low, high = _number(array.min().item()), _number(array.max().item())
    return {"count": array.size, "lowest": low, "highest": high, "first": values[:_SHOWN]}


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else float(value)


def _array(file: Container, name: str, rows: int | None) -> Array:
    """Numbers; `rows`: neurons of a dense layer, in which netx arranges weights that lie in one row."""
    array = file.array(name, _NUMBERS)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise file.error(name, "holds values that are not finite")
    if rows is None:
        return array
    if rows and array.ndim == 1 and array.size % rows == 0:
        array = array.reshape(rows, -1)
    if not name.endswith("/weight"):  # its shape alone gets a note
        return array
    if not array.size or array.ndim < 2:
        raise file.error(name, f"has shape {array.shape}: a layer needs weights")
    if len(array) != rows:
        raise file.error(name, f"has shape {array.shape} in a layer of {rows} neurons")
    return array


def _array_info(array: Array) -> ArrayInfo:
    low, high = (array.min().item(), array.max().item()) if array.size else (0, 0)
    bits = None
    if not _has_fractions(array):
        bits = 1 + max((-int(low) - 1).bit_length() if low < 0 else 0, int(high).bit_length() if high > 0 else 0)
    return ArrayInfo(tuple(array.shape), (low, high), bits, float(np.count_nonzero(array) / max(array.size, 1)))


def _has_fractions(array: Array) -> bool:
    return array.dtype.kind == "f" and bool((array != np.trunc(array)).any())


def _value_notes(name: str, array: Array, simulated: bool) -> list[str]:
    """What lava-dl makes of the values; `simulated`: it chooses a shift and a sign for all of them, as for dense weights."""
    notes = []
    if _has_fractions(array):
        notes.append(f"{'weights' if name == 'weight' else name} have fractions, which lava-dl cuts off")
    if simulated:
        effective = stock_weights(array)
        if effective is None:
            notes.append("all weights are zero: lava-dl fails with an OverflowError")
        elif (changed := effective != np.trunc(array)).any():
            where = tuple(np.argwhere(changed)[0])
            one = f"{array[where]:g} becomes {effective[where]:g}"
            notes.append(f"{changed.sum()} of {changed.size} weights change in lava-dl's simulator, {one}")
    return notes


def _integers(file: Container, name: str) -> list[int]:
    return [int(v) for v in _array(file, name, None).reshape(-1)]
