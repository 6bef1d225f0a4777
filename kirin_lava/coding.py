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

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.errors import UsageError

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


@dataclass(frozen=True)
class Encoding:
    """How one kind of activation code becomes spikes and messages.

    Attributes:
        name: key in `ENCODINGS`, the word used in files and recipes.
        window: T, steps per window.
        zero: z, added to a code before it is sent (`c = q + z`).
        spike_min, spike_max: codes q that travel as spikes, inclusive; `0 <= |q + z| < T`. `spike_min > spike_max`: none does.
        code_min, code_max: all codes q, outliers included.
    """

    name: str
    window: int
    zero: int
    spike_min: int
    spike_max: int
    code_min: int
    code_max: int

    @property
    def max_message(self) -> int:
        """Largest magnitude that can be sent, `max |q + z|`."""
        return max(abs(self.code_min + self.zero), abs(self.code_max + self.zero))

    @property
    def has_spikes(self) -> bool:
        """Whether any code travels as a spike."""
        return self.spike_min <= self.spike_max


OFFSET = Encoding("offset", window=16, zero=8, spike_min=-8, spike_max=7, code_min=-127, code_max=127)
SIGNED = Encoding("signed", window=8, zero=0, spike_min=-7, spike_max=7, code_min=-127, code_max=127)
UNSIGNED16 = Encoding("unsigned-16", window=16, zero=0, spike_min=0, spike_max=15, code_min=0, code_max=255)
UNSIGNED8 = Encoding("unsigned-8", window=8, zero=0, spike_min=0, spike_max=7, code_min=0, code_max=255)
INTEGER8 = Encoding("integer-8", window=1, zero=0, spike_min=1, spike_max=0, code_min=-127, code_max=127)
INTEGER4 = Encoding("integer-4", window=1, zero=0, spike_min=1, spike_max=0, code_min=-7, code_max=7)

ENCODINGS = {e.name: e for e in (OFFSET, SIGNED, UNSIGNED16, UNSIGNED8, INTEGER8, INTEGER4)}


def encoding(name: str) -> Encoding:
    """The encoding called `name`; `UsageError` where there is none."""
    try:
        return ENCODINGS[name]
    except KeyError:
        raise UsageError(f"unknown encoding {name!r}: choose one of {', '.join(ENCODINGS)}") from None


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
