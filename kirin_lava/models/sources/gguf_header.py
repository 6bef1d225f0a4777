"""The head of a GGUF file: metadata, and where each tensor lies.

    magic "GGUF", version (uint32), number of tensors, number of entries (uint64 each)
    entries: key (string), type (uint32), value; an array is its items' type (uint32), their number (uint64) and the items
    tensors: name (string), number of axes (uint32), sizes (uint64 each, the fastest axis first), type (uint32), offset (uint64)
    the tensors' bytes, from the next multiple of the alignment; offsets count from there

A string is its length in bytes (uint64) and UTF-8. The library `gguf` takes such a file at its word: a count of 2^60 is a loop
without end there. So the head is read here, every count and length is held against the bytes that are left, and the library
gets no more than the bytes of one tensor at a time.
"""

from __future__ import annotations

import os
import reprlib
import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.base.readers import open_file
from kirin_lava.base.terminal import plain_line

__all__ = ["GgufHeader", "GgufTensor", "Value", "read_gguf"]

Value = int | float | bool | str | list
"""Of an entry; a list holds ints, floats, bools or strings."""

MAGIC, VERSIONS = b"GGUF", (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_ENTRIES, _MOST_TENSORS, _MOST_ITEMS = 1 << 12, 1 << 14, 1 << 21  # items of all arrays together
_MOST_NAME, _MOST_AXES, _MOST_ALIGNMENT = 1 << 10, 4, 1 << 20


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in the file. shape: slowest axis first, as in PyTorch. dtype: as the library names it. start, size: in bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    size: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself."""

    path: Path
    values: dict[str, Value]
    tensors: dict[str, GgufTensor]

    def text(self, key: str, default: str = "") -> str:
        """An entry that is a string."""
        return self._typed(key, str, "a string", default)

    def count(self, key: str, default: int | None = None) -> int | None:
        """An entry that is an integer; None where it is missing and has no default."""
        return self._typed(key, int, "an integer", default)

    def real(self, key: str, default: float) -> float:
        """An entry that is a number."""
        return float(self._typed(key, (int, float), "a number", default))

    def flag(self, key: str, default: bool) -> bool:
        """An entry that is true or false."""
        return self._typed(key, bool, "true or false", default)

    def items(self, key: str, kind: type) -> list:
        """An entry that is an array of one kind; empty where it is missing."""
        found = self._typed(key, list, "an array", [])
        if not all(type(item) is kind for item in found):
            raise UsageError(f"{self.path}: {key} is no array of {kind.__name__}: the file is damaged, fetch it again")
        return found

    def _typed(self, key: str, kind: type | tuple[type, ...], words: str, default: Any) -> Any:
        value = self.values.get(key, default)
        if key in self.values and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise UsageError(f"{self.path}: {key} is {reprlib.repr(value)}, not {words}: the file is damaged, fetch it again")
        return value


def read_gguf(path: Path) -> GgufHeader:
    """Read and check the head of a GGUF file.

    Raises:
        UsageError: no regular file, no GGUF, damaged, truncated; names the place.
        UnsupportedError: big-endian, another version, one of several parts, a type of tensor that is not known.
    """
    with open_file(path) as file:
        return _Head(file, path).read()


class _Head:
    """A file read from front to back; nothing is taken that is not there."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path = file, path
        self.size = os.fstat(file.fileno()).st_size
        self.at = 0
        self.items = 0  # of all arrays so far

    def read(self) -> GgufHeader:
        if self.file.read(4) != MAGIC:
            raise UsageError(f"{self.path} is no GGUF file: it does not begin with the letters GGUF")
        self.at = 4
        (version,) = self.unpack("I", "the version")
        if version & 0xFFFF == 0 and version:
            raise UnsupportedError(f"{self.path} is a big-endian GGUF file; supported are: little-endian ones")
        if version not in VERSIONS:
            raise UnsupportedError(f"{self.path} has version {version} of GGUF; supported are: 2, 3")
        tensors, entries = self.unpack("QQ", "the counts")
        self.require(tensors <= _MOST_TENSORS, f"it claims {tensors} tensors, at most {_MOST_TENSORS} are read")
        self.require(entries <= _MOST_ENTRIES, f"it claims {entries} entries, at most {_MOST_ENTRIES} are read")
        values: dict[str, Value] = {}
        for _ in range(entries):
            key = self.name("the key of an entry")
            self.require(key not in values, f"the entry {key} is there twice")
            values[key] = self.value(key)
        rows = [self.tensor() for _ in range(tensors)]
        alignment = values.get("general.alignment", 32)
        fine = type(alignment) is int and 0 < alignment <= _MOST_ALIGNMENT and not alignment & (alignment - 1)
        self.require(fine, f"general.alignment is {reprlib.repr(alignment)}, not a power of two")
        assert isinstance(alignment, int)
        found = self.placed(rows, -(-self.at // alignment) * alignment, alignment)
        parts = values.get("split.count", 1)
        if parts not in (0, 1):
            raise UnsupportedError(
                f"{self.path} is one of {reprlib.repr(parts)} parts of a model; supported are: models in one file; merge the "
                "parts with `llama-gguf-split --merge`"
            )
        return GgufHeader(self.path, values, found)

    # ---- pieces -------------------------------------------------------------------------------------------------------

    def require(self, fine: bool, problem: str) -> None:
        if not fine:
            raise UsageError(
                f"{self.path} cannot be read as GGUF: {plain_line(problem)} (byte {self.at} of {self.size}): it is damaged or "
                "cut off, fetch it again"
            )

    def take(self, count: int, what: str) -> bytes:
        self.require(count <= self.size - self.at, f"{what} would take {count} bytes, {self.size - self.at} are left")
        data = self.file.read(count)
        self.require(len(data) == count, f"{what} ends early")
        self.at += count
        return data

    def unpack(self, layout: str, what: str) -> tuple[int, ...]:
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}"), what))

    def name(self, what: str) -> str:
        """A string that names something."""
        found = self.string(what, _MOST_NAME)
        self.require(found.isprintable() and bool(found), f"{what} is {reprlib.repr(found)}")
        return found

    def string(self, what: str, most: int | None = None) -> str:
        (length,) = self.unpack("Q", f"the length of {what}")
        self.require(most is None or length <= most, f"{what} would have {length} bytes, at most {most} are read")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            self.require(False, f"{what} is no UTF-8")
            raise

    def strings(self, key: str, count: int) -> list[str]:
        """Items of an array, hundreds of thousands in a vocabulary: checked as a string is, with no word until one is wrong."""
        found, left, read = [], self.size - self.at, self.file.read
        try:
            for _ in range(count):
                length = int.from_bytes(read(8), "little")
                left -= 8 + length
                if left < 0:
                    break
                found.append(read(length).decode())
        except UnicodeDecodeError:
            self.require(False, f"item {len(found)} of {key} is no UTF-8")
        self.require(left >= 0, f"item {len(found)} of {key} would take {length} bytes, {left + length} are left")
        self.at = self.size - left
        return found

    def value(self, key: str) -> Value:
        (kind,) = self.unpack("I", f"the type of {key}")
        if kind == _STRING:
            return self.string(key)
        if kind != _ARRAY:
            self.require(kind in _SCALARS, f"{key} has the unknown type {kind}")
            return self.unpack(_SCALARS[kind], key)[0]
        kind, count = self.unpack("IQ", f"the head of {key}")
        self.require(kind == _STRING or kind in _SCALARS, f"{key} is an array of the unknown type {kind}")
        width = 8 if kind == _STRING else struct.calcsize(_SCALARS[kind])
        self.require(
            count * width <= self.size - self.at, f"{key} would hold {count} items, {self.size - self.at} bytes are left"
        )
        self.items += count
        self.require(self.items <= _MOST_ITEMS, f"with {key} arrays hold {self.items} items, at most {_MOST_ITEMS} are read")
        if kind == _STRING:
            return self.strings(key, count)
        return np.frombuffer(self.take(count * width, key), f"<{_SCALARS[kind]}".replace("<?", "?")).tolist()

    def tensor(self) -> tuple[str, tuple[int, ...], str, int, int]:
        """Name, shape, type, offset and size of the next tensor."""
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self.name("the name of a tensor")
        (axes,) = self.unpack("I", f"the axes of {name}")
        self.require(0 < axes <= _MOST_AXES, f"the tensor {name} has {axes} axes")
        shape = tuple(reversed(self.unpack(f"{axes}Q", f"the shape of {name}")))
        kind, offset = self.unpack("IQ", f"the place of {name}")
        try:
            known = GGMLQuantizationType(kind)
        except ValueError:
            raise UnsupportedError(
                f"{self.path}: the tensor {plain_line(name)} has type {kind}, which is not known; supported are: the types of "
                "the library gguf: get a newer one, or another file of the model"
            ) from None
        block, width = GGML_QUANT_SIZES[known]
        self.require(min(shape) > 0, f"the tensor {name} has shape {shape}")
        self.require(shape[-1] % block == 0, f"rows of {name} have {shape[-1]} values, which {known.name} packs by {block}")
        return name, shape, known.name, offset, prod(shape) // block * width

    def placed(
        self, rows: list[tuple[str, tuple[int, ...], str, int, int]], start: int, alignment: int
    ) -> dict[str, GgufTensor]:
        """Tensors by name: each within the file, none twice, none over another."""
        found: dict[str, GgufTensor] = {}
        for name, shape, dtype, offset, size in rows:
            self.require(name not in found, f"the tensor {name} is there twice")
            self.require(offset % alignment == 0, f"the tensor {name} begins at {offset}, no multiple of {alignment}")
            left = self.size - start - offset
            self.require(size <= left, f"the tensor {name} of shape {shape} takes {size} bytes, {max(left, 0)} are left for it")
            found[name] = GgufTensor(name, shape, dtype, start + offset, size)
        ordered = sorted(found.values(), key=lambda tensor: tensor.start)
        for one, other in pairwise(ordered):
            self.require(one.start + one.size <= other.start, f"the tensors {one.name} and {other.name} overlap")
        return found
