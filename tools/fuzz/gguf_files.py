"""Damage to GGUF files: numbers and words of the head, and the values behind it."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from random import Random

__all__ = ["gguf_number", "gguf_values", "gguf_word"]

_ODD = (0, 1, 2, 3, 7, 8, 9, 31, 33, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 60, (1 << 63) - 1, (1 << 64) - 1)


def _head(data: bytes) -> int:
    """About where the head ends: behind the last name of a tensor, with its shape, type and place."""
    names = [found.end() for found in re.finditer(rb"(blk\.\d+\.\w+|output\w*|token_embd)\.(weight|bias)", data)]
    return min(len(data), max(names, default=len(data)) + 40)


def gguf_number(rng: Random, path: Path) -> str:
    """A count, length, type, shape or offset: a number of four or eight bytes, at the front or beside a name."""
    data = bytearray(path.read_bytes())
    end = _head(bytes(data))
    names = [found.span() for found in re.finditer(rb"[A-Za-z][\w.]{4,}", bytes(data[:end]))]
    places = [4, 8, 16, *(start - 8 for start, _ in names), *(stop + skip for _, stop in names for skip in (0, 4, 12, 20))]
    place = rng.choice([place for place in places if 0 <= place <= end - 8])
    layout = rng.choice(["<I", "<Q"])
    width = struct.calcsize(layout)
    old = struct.unpack(layout, data[place : place + width])[0]
    value = rng.choice([*_ODD, old + 1, max(0, old - 1), 2 * old]) % (1 << 8 * width)
    data[place : place + width] = struct.pack(layout, value)
    path.write_bytes(bytes(data))
    return f"{width} bytes at {place}: {old} becomes {value}"


def gguf_word(rng: Random, path: Path) -> str:
    """A name of an entry or of a tensor: another of the same length, an odd letter in it, bytes that are no text."""
    data = bytearray(path.read_bytes())
    names = [found.span() for found in re.finditer(rb"[A-Za-z][\w.]{2,}", bytes(data[: _head(bytes(data))]))]
    start, stop = rng.choice(names)
    others = [(a, b) for a, b in names if b - a == stop - start]
    how = rng.choice(["another", "letter", "bytes", "zeros"])
    if how == "another":
        a, b = rng.choice(others)
        data[start:stop] = data[a:b]
    elif how == "letter":
        data[rng.randrange(start, stop)] = rng.choice(b'x0. \n"')
    else:
        data[start:stop] = rng.randbytes(stop - start) if how == "bytes" else bytes(stop - start)
    path.write_bytes(bytes(data))
    return f"the word at {start}: {how}"


def gguf_values(rng: Random, path: Path) -> str:
    """A stretch of weights: what NaN, infinity and the largest are as floats, or as scales of a block."""
    data = bytearray(path.read_bytes())
    start = rng.randrange(_head(bytes(data)), len(data))
    fill = rng.choice([b"\xff\xff", b"\x00\x7c", b"\xff\x7b", b"\x00\x00\xc0\x7f", b"\xff\xff\x7f\x7f"])
    count = rng.choice([1, 8, 200, len(data)])
    stop = min(len(data), start + count * len(fill))
    data[start:stop] = (fill * count)[: stop - start]
    path.write_bytes(bytes(data))
    return f"{stop - start} bytes at {start} filled with {fill.hex()}"
