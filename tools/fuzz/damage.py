"""Kinds of damage. Each takes a random generator and a file, changes the file, and says in a few words what it did."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from tools.fuzz.arrays import hdf5_item, tensor_header, tensor_length, tensor_values
from tools.fuzz.gguf_files import gguf_number, gguf_values, gguf_word
from tools.fuzz.structure import json_leaf, odd_word, other_text, yaml_leaf

__all__ = ["Damage", "copy_of", "damages_of"]

Damage = Callable[[Random, Path], str]


def flip(rng: Random, path: Path) -> str:
    """One to eight bits."""
    data = bytearray(path.read_bytes() or b"\0")
    places = [rng.randrange(len(data)) for _ in range(rng.choice([1, 1, 2, 8]))]
    for place in places:
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))
    return f"bits at {places}"


def overwrite(rng: Random, path: Path) -> str:
    """A stretch of zeros, of ones, of anything."""
    data = bytearray(path.read_bytes() or b"\0")
    start = rng.choice([0, rng.randrange(len(data))])
    length = min(len(data) - start, rng.choice([1, 8, 64, 4096, len(data)]))
    fill = rng.choice([b"\0", b"\xff", None])
    data[start : start + length] = rng.randbytes(length) if fill is None else fill * length
    path.write_bytes(bytes(data))
    return f"{length} bytes at {start} set to {'anything' if fill is None else fill.hex()}"


def truncate(rng: Random, path: Path) -> str:
    """Cut off at the end, or at the front, or made longer."""
    data = path.read_bytes()
    place = rng.choice([0, 1, len(data) // 2, max(0, len(data) - 1), rng.randrange(len(data) + 1)])
    how = rng.choice(["end", "front", "longer", "twice"])
    changed = {"end": data[:place], "front": data[place:], "longer": data + rng.randbytes(1 + place), "twice": data + data}[how]
    path.write_bytes(changed)
    return f"{how} at {place} of {len(data)} bytes"


def swap(rng: Random, path: Path) -> str:
    """Exchanged with another file of the same folder."""
    others = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path) or [path]
    other = rng.choice(others)
    mine, its = path.read_bytes(), other.read_bytes()
    path.write_bytes(its)
    other.write_bytes(mine)
    return f"exchanged with {other.name}"


def odd_file(rng: Random, path: Path) -> str:
    """No file at all, or one of another nature."""
    kind = rng.choice(["missing", "folder", "pipe", "endless", "loop", "dangling", "elsewhere", "unreadable", "huge"])
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "unreadable":
        path.symlink_to("/proc/self/mem")
    elif kind != "missing":
        path.symlink_to({"endless": "/dev/zero", "loop": path.name, "dangling": "nowhere", "elsewhere": "/etc/passwd"}[kind])
    return kind


def encoding(rng: Random, path: Path) -> str:
    """The same text in another encoding, or with marks in it."""
    text = path.read_bytes().decode("utf-8", "replace")
    name = rng.choice(
        ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "latin-1", "cp037", "crlf", "nul", "lone", "surrogate"]
    )
    if name == "crlf":
        data = text.replace("\n", "\r\n").encode()
    elif name in ("nul", "lone", "surrogate"):
        place = rng.randrange(len(text) + 1)
        mark = {"nul": b"\0", "lone": b"\xff", "surrogate": b"\xed\xa0\x80"}[name]
        data = text[:place].encode() + mark + text[place:].encode()
    else:
        data = text.encode(name, "replace")
    path.write_bytes(data)
    return f"as {name}"


ANY: list[Damage] = [flip, overwrite, truncate, swap, odd_file]


def damages_of(path: Path) -> list[Damage]:
    """Kinds that suit a file; those that know its format count more."""
    if path.suffix == ".json":
        return [*ANY, encoding, *[json_leaf] * 10]
    if path.suffix in (".yaml", ".yml"):
        return [*ANY, encoding, *[yaml_leaf] * 10]
    if path.suffix == ".safetensors":
        return [*ANY, *[tensor_header] * 5, tensor_length, *[tensor_values] * 4]
    if path.suffix == ".gguf":
        return [*ANY, *[gguf_number] * 8, *[gguf_word] * 3, *[gguf_values] * 2]
    if path.suffix in (".net", ".h5", ".hdf5"):
        return [*ANY, *[hdf5_item] * 10]
    return [*ANY, encoding, *[other_text] * 5, *[odd_word] * 3]


def copy_of(source: Path, target: Path) -> Path:
    """A folder or a file to damage."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return target
