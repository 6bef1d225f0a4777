"""Reads the `.net` files that `kirin_lava.export.netx.write` writes, and believes nothing in them before it is checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import KirinError, UsageError
from kirin_lava.base.readers import parse_json
from kirin_lava.export.netx.hdf5 import Container
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import Channels, SpikeCode, code_named
from kirin_lava.spikes.neurons import NEURONS, Neuron
from kirin_lava.spikes.stock.layer import StockLayer
from kirin_lava.spikes.stock.layout import ControlLine, Layout
from kirin_lava.spikes.stock.ranges import Range

__all__ = ["SCHEMA", "StoredSegment", "digest", "read_segment"]

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]

SCHEMA = 2
_MAX_LINES = 1 << 20
_METADATA = "kirin/metadata"


@dataclass(frozen=True, eq=False)
class StoredSegment:
    """A segment as its file has it.

    Attributes:
        path: the file.
        linear: the logical segment.
        layer: the stock layer that computes it.
        scale: (N,) float32 of the consumer's `Decode`, or None.
        refused: why the file's neurons are read out though those of `linear` fire, else None.
        sample: codes (windows, K) and the integers they give (windows, N), to try the file with.
        provenance: where it comes from, as it was given to the writer.
        metadata: the whole of `kirin/metadata`.
    """

    path: Path
    linear: Linear
    layer: StockLayer
    scale: npt.NDArray[np.float32] | None
    refused: str | None
    sample: tuple[Int64, Int64]
    provenance: dict[str, str]
    metadata: dict[str, Any]


def digest(array: Array) -> str:
    """sha256 of an array's type, shape and bytes in C order."""
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def read_segment(path: Path, intact: bool = True) -> StoredSegment:
    """The segment of a `.net` of ours.

    Args:
        path: the file.
        intact: whether every dataset must have the sha256 that the writer noted. Without it a file that was edited can be
            run, to see what its integers have become.

    Raises:
        UsageError: the file is missing, damaged, of another writer or of another schema.
    """
    path = Path(path)
    with Container(path) as file:
        if not file.has("kirin"):
            raise UsageError(f"{path}: was not written by kirin-lava (it has no group kirin): `inspect` shows what it holds")
        schema = file.attribute("kirin", "schema")
        if schema != SCHEMA:
            raise UsageError(f"{path}: has schema {schema}, this version reads {SCHEMA}: export again, or update kirin-lava")
        text = bytes(file.array(_METADATA, "S", ()).item())
        if hashlib.sha256(text).hexdigest() != file.attribute("kirin", "sha256"):
            raise file.error(_METADATA, "is not what was written: the file is damaged or was edited, export again")
        try:
            metadata = parse_json(text, f"{path}: {_METADATA}")
            return _Reader(file, metadata, intact).segment()
        except KirinError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
            raise file.error(_METADATA, f"does not describe a segment ({type(error).__name__}: {error})") from error


class _Reader:
    """Reads one open file by its metadata."""

    def __init__(self, file: Container, metadata: dict[str, Any], intact: bool) -> None:
        self._file, self._metadata, self._intact = file, metadata, intact
        self._digests = metadata["sha256"]

    def segment(self) -> StoredSegment:
        meta = self._metadata
        n, k = self._count(meta["outputs"]), self._count(meta["inputs"])
        neuron = self._neuron(n)
        kind = self._one_of(meta["kind"], ("read", "fire"))
        if kind == "fire" and neuron.fires is None:
            raise ValueError("a fire segment without a fire phase")
        control = tuple(
            ControlLine(str(line["means"]), tuple((int(c), int(p)) for c, p in line["events"]))
            for line in meta["stimulus"]["control"]
        )
        code = self._code(meta["code"])
        if code.channels is not None and code.channels.width != k:
            raise ValueError(f"codes of {code.channels.width} channels in a segment of {k} inputs")
        layout = Layout(code, k, n, neuron.fires if kind == "fire" else None, control)
        if any(not 0 <= column < layout.period for line in control for column, _ in line.events):
            raise ValueError("a control line sends outside the window")
        layer = self._layer(layout)
        linear = Linear(
            str(meta["name"]),
            str(meta["input"]),
            str(meta["output"]),
            np.ascontiguousarray(layer.synapses[:n, :k]),
            self._one_of(meta["bits"], (4, 8)),
            layout.code,
            neuron,
        )
        if self._intact and hashlib.sha256(linear.weight.tobytes()).hexdigest() != meta["weight_sha256"]:
            raise self._file.error("layer/0/weight", "does not hold the logical weights whose sha256 is noted")
        scale = self._optional("kirin/scale", "f4", (n,))
        if scale is not None and not np.isfinite(scale).all():
            raise self._file.error("kirin/scale", "holds values that are not finite")
        sample_codes = self._array("kirin/sample_codes", "i4", (None, k)).astype(np.int64)
        sample = (sample_codes, self._array("kirin/sample_result", "i8", (len(sample_codes), n)))
        refused = meta["refused"] if meta["refused"] is None else str(meta["refused"])
        provenance = {str(key): str(value) for key, value in meta["provenance"].items()}
        return StoredSegment(self._file.path, linear, layer, scale, refused, sample, provenance, meta)

    def _layer(self, layout: Layout) -> StockLayer:
        """What stock netx reads; anything it would drop or misread is refused."""
        if self._file.keys("layer") != ["0"]:
            raise self._file.error("layer", f"holds {self._file.keys('layer')}, not the one dense layer of a segment")
        self._check_text("layer/0/type", ("dense",), scalar=False)
        shape = self._array("layer/0/shape", "i8", (1,))
        if shape[0] != layout.neurons:
            raise self._file.error("layer/0/shape", f"is {shape[0]}, the segment has {layout.neurons} neurons")
        neuron: dict[str, str | int] = {
            "type": self._check_text("layer/0/neuron/type", ("SDNN",) if layout.fires is None else ("LOIHI",), scalar=True)
        }
        numbers = ("vThMant", "sigma_output") if layout.fires is None else ("vThMant", "refDelay", "iDecay", "vDecay")
        if self._file.keys("layer/0/neuron") != sorted((*numbers, "type")):
            raise self._file.error("layer/0/neuron", f"holds {self._file.keys('layer/0/neuron')}")
        for key in numbers:
            neuron[key] = int(self._array(f"layer/0/neuron/{key}", "i8", ()))
        synapses = self._array("layer/0/weight", "i1", (layout.neurons, layout.lines))
        if synapses.max() <= 0:
            raise self._file.error("layer/0/weight", "has no positive weight: stock netx would fail on it or clip it")
        constant = self._array("kirin/constant", "i8", (layout.outputs,))
        return StockLayer(layout, synapses, neuron, constant, tuple(self._range(r) for r in self._metadata["ranges"]))

    def _neuron(self, n: int) -> Neuron:
        stored = self._metadata["neuron"]
        kind = {neuron.name: neuron for neuron in NEURONS}[self._one_of(stored["name"], [k.name for k in NEURONS])]
        values: dict[str, Any] = {}
        for entry in fields(kind):
            if str(entry.type) == "Int64":
                values[entry.name] = self._array(f"kirin/{entry.name}", "i8", (n,))
            elif str(entry.type) == "SpikeCode":
                values[entry.name] = self._code_named(stored[entry.name])
            else:
                values[entry.name] = self._one_of(stored[entry.name], range(1 << 24))
        neuron = kind(**values)
        problem = neuron.problem(n)
        if problem is not None:
            raise self._file.error("kirin", f"describes a neuron that is none: {problem}")
        return neuron

    @staticmethod
    def _code_named(name: Any) -> SpikeCode:
        try:
            return code_named(name)
        except UsageError as error:
            raise ValueError(str(error)) from None

    def _code(self, stored: dict[str, Any]) -> SpikeCode:
        known = self._code_named(stored["name"])
        plain = [entry.name for entry in fields(known) if entry.name != "channels"]
        if any(stored[name] != getattr(known, name) for name in plain):
            raise ValueError(f"{known.name} codes are not those of this version")
        channels = stored.get("channels")
        if channels is None:
            return known
        if not known.per_channel:
            raise ValueError(f"{known.name} codes do not differ between channels")
        return known.bound(Channels(int(channels["width"]), tuple(int(i) for i in channels["fine"])))

    def _range(self, stored: dict[str, Any]) -> Range:
        measured = stored["measured"]
        return Range(
            str(stored["quantity"]),
            _pair(stored["limit"]),
            _pair(stored["worst"]),
            None if measured is None else _pair(measured),
            int(stored["neuron"]),
        )

    def _array(self, name: str, kind: str, shape: tuple[int | None, ...]) -> Array:
        array = self._file.array(name, kind, shape)
        if self._intact and digest(array) != self._digests[name]:
            raise self._file.error(name, "is not what was written: the file is damaged or was edited, export again")
        return array

    def _optional(self, name: str, kind: str, shape: tuple[int | None, ...]) -> Array | None:
        if name not in self._digests and not self._file.has(name):
            return None
        return self._array(name, kind, shape)

    def _check_text(self, name: str, allowed: tuple[str, ...], scalar: bool) -> str:
        array = self._array(name, "S", () if scalar else (1,))
        text = array.reshape(-1)[0].decode("ascii", "replace")
        if text not in allowed:
            raise self._file.error(name, f"is {text!r}, not {' or '.join(allowed)}: stock netx would drop it or fail")
        return text

    @staticmethod
    def _count(value: Any) -> int:
        if not isinstance(value, int) or not 0 < value <= _MAX_LINES:
            raise ValueError(f"{value!r} lines")
        return value

    @staticmethod
    def _one_of(value: Any, allowed: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {list(allowed)}")
        return value


def _pair(values: Any) -> tuple[int, int]:
    low, high = values
    return int(low), int(high)
