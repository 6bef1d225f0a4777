"""Codes and spikes: the one definition of every integer code, its spike time and its message.

An activation code `q` is an integer that stands for the value `step * q`. Inside the spike range it travels as a single
spike whose *time* is its value; outside it is an *outlier* and travels as one graded message. A window has `T` steps,
numbered 0..T-1, and whatever arrives at step `t` with payload `p` counts `(T - t) * p` in a two-state neuron
(`u += w p; v += u` at every step), so

    spike    payload sign(c), step T - |c|     counts c
    outlier  payload c,       step T - 1       counts c
    silent   c = 0                             counts 0

where `c = q + zero`. The constant `zero * sum_k w[n, k]` is taken off in the neuron. Source: Kirin, arXiv 2602.08817
(single spikes, long-bit outliers); the two encodings are defined in the project's design notes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import UsageError
from kirin_lava.spikes.codes.encodings import (
    ENCODINGS,
    INTEGER4,
    INTEGER8,
    OFFSET,
    SIGNED,
    UNSIGNED8,
    UNSIGNED16,
    Encoding,
    encoding,
)

__all__ = [
    "ENCODINGS",
    "INTEGER4",
    "INTEGER8",
    "OFFSET",
    "SIGNED",
    "UNSIGNED8",
    "UNSIGNED16",
    "Encoding",
    "decode_raster",
    "encode_raster",
    "encoding",
    "is_outlier",
    "is_silent",
]

Integers = npt.NDArray[np.integer[Any]]


def is_outlier(codes: Integers, enc: Encoding) -> npt.NDArray[np.bool_]:
    """Which codes (any shape) travel as messages instead of spikes. A silent code is never an outlier."""
    return ((codes < enc.spike_min) | (codes > enc.spike_max)) & (codes + enc.zero != 0)


def is_silent(codes: Integers, enc: Encoding) -> npt.NDArray[np.bool_]:
    """Which codes (any shape) send nothing."""
    return codes + enc.zero == 0


def encode_raster(
    codes: Integers, enc: Encoding, window: int | None = None
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Codes as two dense rasters, spikes and outlier messages.

    Args:
        codes: (..., K) codes q in `code_min..code_max`.
        enc: their encoding.
        window: steps of the raster, at least `enc.window`; a longer window starts with empty steps, so that every payload keeps
            its distance to the window's end and with it its value.

    Returns:
        spikes: (..., K, window) int32, -1, 0 or +1, at most one non-zero per code.
        outliers: (..., K, window) int32, payload c at the last step.

    Raises:
        UsageError: a code outside the encoding, or a window that is too short.
    """
    steps = enc.window if window is None else window
    if steps < enc.window:
        raise UsageError(f"a window of {steps} steps cannot hold {enc.name} codes: they need {enc.window}")
    codes = np.asarray(codes)
    if codes.size and (codes.min() < enc.code_min or codes.max() > enc.code_max):
        span = f"codes span {codes.min()}..{codes.max()}, outside {enc.name} ({enc.code_min}..{enc.code_max})"
        raise UsageError(f"{span}: quantise them with a larger step")
    sent = (codes + enc.zero).astype(np.int32)
    outlier = is_outlier(codes, enc)
    spikes = np.zeros((*codes.shape, steps), np.int32)
    outliers = np.zeros((*codes.shape, steps), np.int32)
    where = np.nonzero(~outlier & (sent != 0))
    times = (*where, steps - np.abs(sent[where]))
    spikes[times] = np.sign(sent[where])
    outliers[..., steps - 1] = np.where(outlier, sent, 0)
    return spikes, outliers


def decode_raster(payload: Integers, enc: Encoding) -> npt.NDArray[np.int64]:
    """Codes q (..., K) that a raster (..., K, T) of payloads stands for: `sum_t (T - t) p[t] - zero`."""
    steps = payload.shape[-1]
    weight = np.arange(steps, 0, -1, dtype=np.int64)
    return payload.astype(np.int64) @ weight - enc.zero
