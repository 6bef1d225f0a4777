"""One arithmetic for PyTorch's tensors and NumPy's arrays.

A call of NumPy costs a fraction of one of PyTorch, and of calls, not of arithmetic, the operations of a single token consist.
Both round every operation as IEEE 754 says, so the bits are the same. What is written with operators (`+`, `*=`, `/`, `abs`)
and with the functions here takes either.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Numbers",
    "add_shifted_",
    "amax",
    "clamp_",
    "float32",
    "float64",
    "floor_",
    "int_bits",
    "light",
    "like",
    "maximum",
    "quiet",
    "round_",
    "sqrt_",
    "tensor",
    "total",
]

Numbers: TypeAlias = Any
"""A tensor or an array."""

_FEW = 2**14  # elements


def quiet() -> np.errstate:
    """In here NumPy says no more of NaN and infinity than PyTorch does: they are looked for where they would come out."""
    return np.errstate(all="ignore")


def light(x: Tensor) -> Numbers:
    """The same memory as an array where that is faster: on a CPU, and few elements."""
    return x.numpy() if x.is_cpu and x.numel() <= _FEW else x


def like(x: Tensor, other: Numbers) -> Numbers:
    """A tensor in the kind of another value, in the same memory."""
    return x.numpy() if isinstance(other, np.ndarray) else x


def tensor(x: Numbers) -> Tensor:
    """Either as a tensor, in the same memory."""
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x


def amax(x: Numbers) -> Numbers:
    """Largest of the last axis, (..., 1)."""
    return np.maximum.reduce(x, -1, keepdims=True) if isinstance(x, np.ndarray) else x.amax(-1, keepdim=True)


def total(x: Numbers, integers: bool = False) -> Numbers:
    """Sum over the last axis, (..., 1); `integers`: of int32, which wraps around."""
    if isinstance(x, np.ndarray):
        return np.add.reduce(x, -1, dtype=np.int32 if integers else None, keepdims=True)
    return x.sum(-1, keepdim=True, dtype=torch.int32 if integers else None)


def maximum(x: Numbers, y: Numbers) -> Numbers:
    """The larger, element by element; NaN where one is."""
    return np.maximum(x, y) if isinstance(x, np.ndarray) else torch.maximum(x, y)


def clamp_(x: Numbers, low: float, high: float | None = None) -> Numbers:
    """In place."""
    if isinstance(x, np.ndarray):
        np.maximum(x, low, out=x)
        return x if high is None else np.minimum(x, high, out=x)
    return x.clamp_(low, high)


def round_(x: Numbers) -> Numbers:
    """To the nearest integer, half to even, in place."""
    return np.rint(x, out=x) if isinstance(x, np.ndarray) else x.round_()


def floor_(x: Numbers) -> Numbers:
    """To the integer below, in place."""
    return np.floor(x, out=x) if isinstance(x, np.ndarray) else x.floor_()


def sqrt_(x: Numbers) -> Numbers:
    """In place."""
    return np.sqrt(x, out=x) if isinstance(x, np.ndarray) else x.sqrt_()


def float32(x: Numbers) -> Numbers:
    """As float32; the value itself where it is."""
    return x.astype(np.float32, copy=False) if isinstance(x, np.ndarray) else x.to(torch.float32)


def float64(x: Numbers) -> Numbers:
    """As float64."""
    return x.astype(np.float64) if isinstance(x, np.ndarray) else x.to(torch.float64)


def int_bits(x: Numbers) -> Numbers:
    """The bits of float32 numbers as int32, in the same memory."""
    return x.view(np.int32) if isinstance(x, np.ndarray) else x.view(torch.int32)


def add_shifted_(x: Numbers, y: Numbers, bits: int) -> None:
    """`x += y << bits` of int32, which wraps around. Overwrites y."""
    if isinstance(x, np.ndarray):
        y <<= bits
        x += y
    else:
        x.add_(y, alpha=1 << bits)
