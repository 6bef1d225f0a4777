"""Arrays that Lava's forked processes share with the process that built the network.

Lava moves a Var between processes number by number. What comes in bulk (tokens, results, probes) lies in anonymous shared
memory instead: allocated before the network starts, inherited by every process that Lava forks, gone when the last of them is.
"""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["read_text", "shared_zeros", "write_text"]

TEXT_BYTES = 4000


def shared_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array of zeros in memory that later forks share. Pages are used only once they are written."""
    count = math.prod(shape)
    memory = mmap.mmap(-1, max(1, count * np.dtype(dtype).itemsize))
    return np.frombuffer(memory, dtype, count).reshape(shape)


def write_text(buffer: npt.NDArray[np.uint8], text: str) -> None:
    """Store a text in a shared buffer of `TEXT_BYTES`, cut to what fits; only the first one is kept."""
    if not buffer.any():
        data = text.encode()[: len(buffer)]
        buffer[: len(data)] = np.frombuffer(data, np.uint8)


def read_text(buffer: npt.NDArray[np.uint8]) -> str:
    """The stored text, "" where there is none."""
    return bytes(buffer).rstrip(b"\0").decode(errors="ignore")
