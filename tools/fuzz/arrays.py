"""Damage to files of arrays: safetensors and HDF5."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from tools.fuzz.structure import edited_json

__all__ = ["hdf5_item", "tensor_header", "tensor_length", "tensor_values"]


def tensor_header(rng: Random, path: Path) -> str:
    """One entry of the header: types, shapes, places of the data."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, words = edited_json(rng, data[8 : 8 + length])
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    return words


def tensor_length(rng: Random, path: Path) -> str:
    """The length of the header."""
    data = path.read_bytes()
    length = rng.choice([0, 1, 2, len(data), len(data) - 8, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 100_000_000])
    path.write_bytes(struct.pack("<Q", length) + data[8:])
    return f"header of {length} bytes"


def tensor_values(rng: Random, path: Path) -> str:
    """Numbers of one tensor."""
    data = bytearray(path.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    header = {name: entry for name, entry in json.loads(data[8 : 8 + length]).items() if name != "__metadata__"}
    name = rng.choice(sorted(header))
    start, stop = (8 + length + offset for offset in header[name]["data_offsets"])
    kind = {"F32": "<f4", "F16": "<f2", "I16": "<i2", "I32": "<i4"}.get(header[name]["dtype"], "<u1")
    values = np.frombuffer(bytes(data[start:stop]), kind).copy()
    odd: list[float] = [0, 1, -1] + (
        [np.nan, np.inf, -np.inf, 1e30, 1e-40, 6e4] if "f" in kind else [127, -128, 255 if "u" in kind else 32767]
    )
    value = rng.choice(odd)
    with np.errstate(all="ignore"):
        many = rng.choice([1, 1, max(1, len(values) // 2), len(values)])
        for place in rng.sample(range(len(values)), many) if len(values) else ():
            values[place] = np.array(value).astype(kind)
    data[start:stop] = values.tobytes()
    path.write_bytes(bytes(data))
    return f"{many} of {name} set to {value}"


def _new_array(rng: Random, old: Any) -> Any:
    array = np.asarray(old)
    numbers: list[Any] = [
        np.int64(-1),
        np.int64(2**62),
        np.float64("nan"),
        np.float32(0.5),
        np.bool_(True),
        np.bytes_(b"x"),
        "text",
    ]
    numbers += [
        np.zeros(0),
        np.zeros((2, 0, 3)),
        np.zeros((1,) * 20),
        h5py.Empty("f4"),
        np.zeros(3, "c16"),
        np.zeros(2, "i4,f8"),
    ]
    numbers += [np.array([b"\x1b[31m"], "S10"), np.array([b"conv"], "S10"), np.full(4, 1e300)]
    if array.dtype.kind in "iuf" and array.size:
        same = array.copy()
        if array.dtype.kind in "iu":
            same.reshape(-1)[rng.randrange(array.size)] ^= 1
        numbers += 4 * [
            same,
            array.astype(np.float64),
            array.T,
            array.reshape(-1),
            array[..., :-1] if array.ndim else array + 1,
            -array,
        ]
    return rng.choice(numbers)


def hdf5_item(rng: Random, path: Path) -> str:
    """One data set, group or attribute: other values, types, shapes, links, claims."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        item, parent = file[name], file[name].parent
        how = rng.choice(
            [
                "value",
                "value",
                "value",
                "delete",
                "rename",
                "soft",
                "external",
                "huge",
                "virtual",
                "group",
                "attribute",
                "cycle",
            ]
        )
        words = f"{how} {name}"
        if how == "attribute" or (how == "value" and isinstance(item, h5py.Group)):
            holder = rng.choice([item, file.get("kirin", item)])
            key = rng.choice([*holder.attrs, "schema", "sha256", "new"])
            if rng.random() < 0.3 and key in holder.attrs:
                del holder.attrs[key]
            else:
                holder.attrs[key] = _new_array(rng, holder.attrs.get(key, 0))
            return f"attribute {key} of {holder.name}"
        old = item[()] if isinstance(item, h5py.Dataset) else 0
        if how == "rename":
            file.move(name, f"{name}x")
            return words
        if how == "cycle":
            parent[f"{rng.choice('0x')}{rng.randrange(9)}"] = file["/"]
            return words
        del file[name]
        if how == "value":
            file[name] = _new_array(rng, old)
        elif how == "soft":
            file[name] = h5py.SoftLink(rng.choice(["/", f"/{name}", "/layer", "/nowhere"]))
        elif how == "external":
            file[name] = h5py.ExternalLink(rng.choice([path.name, "/etc/passwd", "/dev/zero"]), "/layer/0/weight")
        elif how == "huge":
            shape = rng.choice([(2**40,), (2**20, 2**20), (2**62,)])
            file.create_dataset(name, shape, "i1", chunks=tuple(min(64, n) for n in shape), fillvalue=1)
        elif how == "virtual":
            layout = h5py.VirtualLayout((4,), "i1")
            layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
            file.create_virtual_dataset(name, layout)
        elif how == "group":
            file.create_group(name)
        return words
