"""Arithmetic of integer operations: int64 tensors, shifts that round, and nothing that rounds otherwise.

A fixed-point value is an integer in units of `2^-fraction`, with a fraction that never changes. Its magnitude stays below
`2^23`: it fits a graded message of 24 bits. Sums and products on the way take up to 62 bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import MESSAGE_BITS

__all__ = [
    "HEADROOM_BITS",
    "MESSAGE_LIMIT",
    "beyond_message",
    "bit_length",
    "bounded",
    "divided",
    "fraction_of",
    "rescaled",
    "shifted",
    "to_fixed",
    "to_real",
    "whole",
]

MESSAGE_LIMIT = 1 << MESSAGE_BITS - 1
"""Magnitudes of fixed-point values lie below it."""

HEADROOM_BITS = 2
"""A value may become four times as large as on the calibration text before it passes `MESSAGE_LIMIT`."""

_WORD = 62  # a shift by more leaves nothing of any number here
_HALF_WORD = 31
_LEAST, _MOST = -16, 40  # fractions


def whole(x: Tensor) -> Tensor:
    """Integers that a tensor of any kind holds, as int64."""
    return x if x.dtype == torch.int64 else x.to(torch.int64)


def shifted(x: Tensor, bits: int | Tensor) -> Tensor:
    """`round(x / 2^bits)`, half up, of int64; negative bits multiply. `bits` may be a tensor that broadcasts."""
    if isinstance(bits, int):
        if bits <= 0:
            return x << -bits if bits else x
        return (x + (1 << bits - 1)) >> bits if bits <= _WORD else torch.zeros_like(x)
    down, up = bits.clamp(1, _WORD), (-bits).clamp(0, _WORD)
    one = torch.ones_like(down)
    right = torch.where(bits > _WORD, 0, (x + (one << down - 1)) >> down)
    return torch.where(bits > 0, right, x << up)


def divided(x: Tensor, y: Tensor | int) -> Tensor:
    """`round(x / y)`, half up, exactly; y is positive."""
    return torch.div(2 * x + y, 2 * y, rounding_mode="floor")


def bit_length(x: Tensor) -> Tensor:
    """Binary digits of integers from 0 to 2^62, 0 for 0: a count of leading zeros. Exponents of float64 numbers below 2^53 are
    exact."""
    high = x >> _HALF_WORD
    low = torch.frexp(x.double()).exponent
    return torch.where(high > 0, torch.frexp(high.double()).exponent + _HALF_WORD, low).to(torch.int64)


def bounded(x: Tensor, name: str, fraction: int) -> Tensor:
    """The value itself.

    Raises:
        FitError: it does not fit a message; names the operation, the number, and what can be done.
    """
    low, high = (int(n) for n in x.aminmax()) if x.numel() else (0, 0)
    if max(-low, high) >= MESSAGE_LIMIT:
        raise beyond_message(low if -low > high else high, name, fraction)
    return x


def beyond_message(number: int, name: str, fraction: int) -> FitError:
    """The error of a value, in units of 2^-fraction, that does not fit a message; `name` is the operation."""
    return FitError(
        f"{name}: {number} in units of 2^{-fraction} (that is {number * 2.0**-fraction:.4g}) does not fit a message of "
        f"{MESSAGE_BITS} bits, whose magnitude is below {MESSAGE_LIMIT}: the text reaches further beyond the calibration "
        f"text than its {2**HEADROOM_BITS}-fold headroom; calibrate on more of such text, or export with `host: float`"
    )


def fraction_of(peak: float, headroom: int = HEADROOM_BITS) -> int:
    """The finest unit `2^-fraction` in which a value of this magnitude, times `2^headroom`, fits a message.

    Raises:
        FitError: a peak that is not finite, or beyond what any unit holds.
    """
    if not math.isfinite(peak):
        raise FitError(f"an activation is {peak}; the checkpoint or the text is broken")
    exponent = math.frexp(peak)[1] if peak > 0 else 0  # peak < 2^exponent
    fraction = MESSAGE_BITS - 1 - headroom - exponent
    if fraction < _LEAST:
        raise FitError(f"an activation of {peak:.4g} is too large for units from 2^{-_LEAST} on; export with `host: float`")
    return min(fraction, _MOST)


def to_fixed(x: Tensor, fraction: int) -> Tensor:
    """Real numbers as the nearest integers in units of 2^-fraction, half to even; for constants and tests."""
    return torch.ldexp(x.double(), torch.tensor(fraction)).round().to(torch.int64)


def to_real(x: Tensor, fraction: int) -> Tensor:
    """float64 of fixed-point values: exact."""
    return torch.ldexp(x.double(), torch.tensor(-fraction))


def rescaled(x: Tensor, fraction: int, wanted: int) -> Tensor:
    """A fixed-point value in units of 2^-wanted."""
    return shifted(x, fraction - wanted)
