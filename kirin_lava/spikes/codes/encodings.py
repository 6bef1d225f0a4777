"""The encodings of activation codes: which codes are spikes, which messages, and how long a window lasts.

What a code, its spike and its message mean is said in `kirin_lava.spikes.codes.coding`. Imports nothing heavy: the help
reads it, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from kirin_lava.base.errors import UsageError

__all__ = [
    "ENCODINGS",
    "INTEGER4",
    "INTEGER8",
    "OFFSET",
    "SIGNED",
    "UNSIGNED8",
    "UNSIGNED16",
    "Encoding",
    "encoding",
]


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
