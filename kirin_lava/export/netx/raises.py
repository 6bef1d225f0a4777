"""Where unmodified lava-dl raises, or leaves something out, on a layer of a `.net`: what a reader of the file would not expect.

Source: `lava.lib.dl.netx.hdf5.Network`, `netx.utils` and `netx.blocks.process` of lava-dl 0.6.0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from kirin_lava.base.loihi2 import DELAY_MAX

__all__ = ["DENSE", "NEVER_BUILT", "WITH_WEIGHTS", "layer_notes", "network_notes"]

DENSE = ("dense", "dense_rec")
WITH_WEIGHTS = ("conv", *DENSE)
NEVER_BUILT = ("pool", "convT", "unpool", "average", "concat", "dense_comp")
_NO_WEIGHTS = ("input", "flatten")
_TYPE_LENGTH = 10
_NEEDS = {
    "LOIHI": ("vThMant", "iDecay", "vDecay"),
    "CUBA": ("vThMant", "iDecay", "vDecay"),
    "SDNN": ("vThMant",),
    "RF": ("vThMant", "sinDecay", "cosDecay"),
}
_CONV = ("stride", "padding", "dilation", "groups")

Shapes = Mapping[str, tuple[int, ...]]


def layer_notes(
    kind: str, members: Collection[str], neuron: str | None, settings: Mapping[str, Any], shape: Sequence[int], arrays: Shapes
) -> Iterator[str]:
    """Notes on one layer.

    Args:
        kind: its type as written. members: what its group holds.
        neuron: type of its neuron, None where it has none. settings: those of the neuron.
        shape: of its output, empty where the file has none.
        arrays: shape of each array by name: weight, weight/real, weight/imag, weight_rec, bias, delay.
    """
    if kind not in WITH_WEIGHTS and kind not in _NO_WEIGHTS:
        if kind in NEVER_BUILT:
            yield f"lava-dl cannot build layers of type {kind!r} and raises"
        else:
            cut = f", perhaps cut to {_TYPE_LENGTH} characters by its writer," if len(kind) == _TYPE_LENGTH else ""
            yield f"lava-dl does not know type {kind!r}{cut} and drops the layer silently"
        return
    if kind == "flatten" or (kind == "input" and neuron is None):
        return
    if not shape:
        yield "has no shape: lava-dl raises a KeyError"
    compound = "weight/imag" in arrays
    yield from _neuron_notes(kind, neuron, settings, compound)
    if kind == "input":
        yield from _input_notes(arrays)
        return
    if kind == "conv":
        yield from _conv_notes(members, shape, arrays)
        return
    yield from _dense_notes(kind, arrays, compound)


def network_notes(kinds: Sequence[str], shapes: Sequence[Sequence[int]], neurons: Sequence[str | None]) -> Iterator[str]:
    """Notes on all layers together: types, shapes of their outputs and types of their neurons, in order."""
    built = [
        kind in WITH_WEIGHTS or (kind == "input" and neuron is not None) for kind, neuron in zip(kinds, neurons, strict=True)
    ]
    if not any(built):
        yield "lava-dl finds no layer to build and raises an IndexError"
        return
    first = built.index(True)
    if kinds[first] == "conv" and not any(
        kind == "input" and shape for kind, shape in zip(kinds[:first], shapes, strict=False)
    ):
        yield f"layer {first}: no input layer comes before this convolution: lava-dl raises unless it is given input_shape"


def _neuron_notes(kind: str, neuron: str | None, settings: Mapping[str, Any], compound: bool) -> Iterator[str]:
    if neuron is None:
        if kind == "conv":
            yield "has no neuron: lava-dl raises a KeyError"
        elif compound:
            yield "has complex weights and no neuron of type RF: lava-dl raises an AttributeError"
        else:
            yield "has no neuron: lava-dl takes a LIF that never fires"
        return
    resonates = "RF" in neuron
    if neuron not in _NEEDS and not resonates:
        yield f"lava-dl does not know neuron type {neuron!r} and fails with an AttributeError"
        return
    sums = neuron == "SDNN" and kind != "input" and "sigma_output" in settings
    for key in _NEEDS["RF" if resonates else neuron]:
        if key not in settings and not sums:
            yield f"lava-dl needs neuron/{key}, which is missing, and raises a KeyError"
    if compound and not resonates:
        yield f"has complex weights and neurons of type {neuron!r}, not RF: lava-dl raises an AttributeError"
    if resonates and not compound:
        yield f"has real inputs and neurons of type {neuron!r}, which take complex ones: lava-dl raises an AttributeError"
    refractory = settings.get("refDelay")
    if neuron in ("LOIHI", "CUBA") and isinstance(refractory, (int, float)) and refractory > 1:
        yield f"a refractory period of {refractory:g} steps (neuron/refDelay) is left out: the LIF of Lava has none"


def _input_notes(arrays: Shapes) -> Iterator[str]:
    for name in ("weight", "bias"):
        if name in arrays and math.prod(arrays[name]) != 1:
            yield f"{name} of the input transform has shape {arrays[name]}: lava-dl takes one number and raises a TypeError"
    if "weight" in arrays or "bias" in arrays:
        yield "the input transform (weight, bias) is kept but never applied by lava-dl: whoever sends the input must apply it"


def _conv_notes(members: Collection[str], shape: Sequence[int], arrays: Shapes) -> Iterator[str]:
    missing = [key for key in _CONV if key not in members]
    if missing:
        yield f"lava-dl needs {', '.join(missing)} of a convolution and raises a KeyError"
    if "weight" not in arrays:
        yield "has no weight: lava-dl raises a KeyError"
    elif len(arrays["weight"]) < 4 or math.prod(arrays["weight"][4:]) != 1:
        yield f"its weight has shape {arrays['weight']}, not (out, in, height, width, 1): lava-dl raises"
    bias = arrays.get("bias")
    if bias is not None and shape and bias != tuple(reversed(shape)) and bias[:1] != tuple(shape[:1]):
        yield f"its bias has shape {bias} and its output {tuple(shape)}: lava-dl raises a RuntimeError"
    if "delay" in members:
        yield "delays of a convolution are left out by lava-dl"


def _dense_notes(kind: str, arrays: Shapes, compound: bool) -> Iterator[str]:
    if compound:
        if "weight/real" not in arrays:
            yield "has no weight/real beside weight/imag: lava-dl raises a KeyError"
        for name in ("bias", "delay", "weight_rec"):
            if name in arrays:
                yield f"{name} of a layer with complex weights is left out by lava-dl"
        return
    if "weight/real" in arrays:
        yield "has no weight/imag beside weight/real: lava-dl raises"
        return
    weight = arrays.get("weight")
    if weight is None:
        yield "has no weight: lava-dl raises a KeyError"
        return
    recurrent = arrays.get("weight_rec")
    if kind == "dense_rec" and recurrent is None:
        yield "is recurrent and has no weight_rec: lava-dl raises a KeyError"
    if kind == "dense_rec" and recurrent is not None and recurrent != (weight[0], weight[0]):
        yield f"its weight_rec has shape {recurrent}, not {(weight[0], weight[0])}: lava-dl raises"
    if kind == "dense" and recurrent is not None:
        yield "weight_rec of a layer of type 'dense' is left out by lava-dl"
    delay = arrays.get("delay")
    if delay is not None and delay != () and delay not in ((weight[0],), (weight[1],), weight):
        yield f"its delay has shape {delay} for a weight of shape {weight}: lava-dl raises a RuntimeError"


def delay_note(longest: int) -> str | None:
    """What becomes of the longest delay."""
    return f"delays up to {longest} are cut to {DELAY_MAX}" if longest > DELAY_MAX else None
