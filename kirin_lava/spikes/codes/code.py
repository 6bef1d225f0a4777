"""What a spike code is: which integers there are, which of them travel as spikes and which as messages, and what each counts.

An activation code `q` is an integer that stands for the value `step * q`. It is sent as `c = q + zero` in a window of T steps,
numbered 0..T-1, as payloads; a payload p at step t counts `kernel[t] * p`, so that over the window

    sum_t kernel[t] * payload[t] = c

and a neuron that sums weighted payloads ends with `sum_k w[n, k] * c[k]`, from which `zero * sum_k w[n, k]` is taken off. With
u the running sum of what arrived, the same is `v = sum_t gain[t] * u[t]` with `gain[t] = kernel[t] - kernel[t + 1]` and
kernel[T] = 0: one two-state neuron (`u += current; v += gain * u`) reads every code.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import UsageError
from kirin_lava.spikes.codes.channels import Channels

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Events", "Integers", "SpikeCode"]

Integers = npt.NDArray[np.integer[Any]]
_COUNTED_BITS = 16
_Self = TypeVar("_Self", bound="SpikeCode")
_Codes = TypeVar("_Codes", npt.NDArray[Any], "Tensor")


class Events(NamedTuple):
    """What some codes send: spikes, graded messages; and how many codes send nothing."""

    spikes: int
    messages: int
    silent: int


@dataclass(frozen=True)
class SpikeCode(ABC):
    """One code. Instances are in `kirin_lava.spikes.codes.CODES`.

    Attributes:
        family, meaning: what kind of code it is, and how a code is sent, for people.
        name: in files, recipes and tables.
        window: T, steps per window.
        zero: z, added to a code before it is sent (`c = q + z`).
        code_min, code_max: all codes q, messages included.
        spike_codes: lowest and highest code q that travels as spikes, None where all are messages.
        repeats: whether a code may take several spikes without payload.
        per_channel: whether codes differ between the channels of a value.
        by_plane: whether the sums of every step are read on their own, because they fit a membrane where the sum of a window
            does not.
        channels: of a value that was calibrated, the fine ones; None for a code that belongs to no value yet.
    """

    family: ClassVar[str]
    meaning: ClassVar[str]
    repeats: ClassVar[bool] = False
    per_channel: ClassVar[bool] = False
    by_plane: ClassVar[bool] = False
    name: str
    window: int
    zero: int
    code_min: int
    code_max: int
    channels: Channels | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def spike_codes(self) -> tuple[int, int] | None:
        """Lowest and highest code q that travels as spikes, inclusive; None where all travel as messages."""

    @property
    @abstractmethod
    def kernel(self) -> tuple[int, ...]:
        """(T,) what a payload of 1 counts at each step; the last is 1."""

    @property
    def graded(self) -> bool:
        """Whether a spike carries a payload of several bits, which a synapse multiplies instead of adding its weight."""
        return False

    @abstractmethod
    def spikes(self, sent: npt.NDArray[np.int64], steps: int) -> npt.NDArray[np.int32]:
        """Payloads (..., steps) of codes `c = q + zero` (...) that travel as spikes; those of others are not looked at."""

    # ---- where channels differ -------------------------------------------------------------------------------------------

    def bound(self: _Self, channels: Channels | None) -> _Self:
        """The same code for a value whose fine channels are known; as it is where channels do not matter."""
        return replace(self, channels=channels) if self.per_channel else self

    def part(self: _Self, start: int, stop: int) -> _Self:
        """The code of the channels from start to stop of a value."""
        return self if self.channels is None else replace(self, channels=self.channels.part(start, stop))

    def fine(self, width: int) -> npt.NDArray[np.bool_]:
        """(width,) whether a channel is fine; without channels all are.

        Raises:
            UsageError: channels of another width.
        """
        if self.channels is None:
            return np.ones(width, np.bool_)
        if self.channels.width != width:
            raise UsageError(f"{self.name} codes of {self.channels.width} channels meet a value of {width}; export again")
        return self.channels.mask

    def fine_like(self, q: _Codes) -> Any:
        """`fine` of codes (..., width), as an array where they are one, else as a tensor on their device."""
        mask = self.fine(q.shape[-1])
        device: Any = getattr(q, "device", None)
        if device is None:
            return mask
        import torch  # the help reads this module without it

        return torch.from_numpy(mask).to(device)

    def admitted(self, codes: Integers) -> Integers:
        """Codes (..., K) within `code_min..code_max` as their channels can send them, the nearest below."""
        return codes

    def check_codes(self, codes: Integers) -> None:  # noqa: B027 (nothing to check is the rule)
        """Raise `UsageError` for codes (..., K) within `code_min..code_max` that their channels cannot send."""

    # ---- from these follows ----------------------------------------------------------------------------------------------

    def gains(self, period: int | None = None) -> tuple[int, ...]:
        """(period,) what the running sum u counts in each step of a window; see the module. A longer window starts empty."""
        ends = (*self.kernel, 0)
        own = tuple(a - b for a, b in pairwise(ends))
        return (own[0],) * ((period or self.window) - self.window) + own

    @cached_property
    def max_message(self) -> int:
        """Largest magnitude that can be sent, `max |q + z|`."""
        return max(abs(self.code_min + self.zero), abs(self.code_max + self.zero))

    @property
    def largest(self) -> int:
        """Largest magnitude of a code, `max |q|`."""
        return max(-self.code_min, self.code_max)

    @property
    def message_bits(self) -> int:
        """Bits that hold every code: those of a message."""
        return (self.code_max - self.code_min).bit_length()

    @property
    def wide(self) -> bool:
        """Whether there are too many codes to count each of them."""
        return self.message_bits > _COUNTED_BITS

    @property
    def payload_bits(self) -> int:
        """Bits of what a spike carries: 1, a sign, unless it is graded."""
        return 1

    @property
    def spike_bits(self) -> int:
        """Bits that hold every code that travels as a spike, 0 where none does: what a network without spikes would keep."""
        return 0 if self.spike_codes is None else (self.spike_codes[1] - self.spike_codes[0]).bit_length()

    @property
    def signed(self) -> bool:
        """Whether codes can be negative."""
        return self.code_min < 0

    @property
    def has_spikes(self) -> bool:
        """Whether any code travels as a spike."""
        return self.spike_codes is not None

    @property
    def mirrored(self) -> bool:
        """Whether neurons that fire this code need a ladder for each sign: some spikes are sent with a negative sign."""
        return self.spike_codes is not None and self.spike_codes[0] + self.zero < 0

    def is_silent(self, q: _Codes) -> Any:
        """Which codes (any shape) send nothing."""
        return q + self.zero == 0

    def is_message(self, q: _Codes) -> Any:
        """Which codes (any shape) travel as messages instead of spikes. A silent code is neither."""
        sent = q + self.zero != 0
        if self.spike_codes is None:
            return sent
        low, high = self.spike_codes
        return ((q < low) | (q > high)) & sent

    def split(self, q: _Codes) -> tuple[Any, Any]:
        """Masks (any shape) of the codes that travel as spikes and of those that travel as messages."""
        message = self.is_message(q)
        return ~(self.is_silent(q) | message), message

    def spike_count(self, q: _Codes) -> Any:
        """How many spikes each code (any shape) sends; one where it travels as a spike, unless a code sends more."""
        return self.split(q)[0]

    def graded_count(self, q: _Codes) -> Any:
        """How many of the spikes of each code (any shape) a synapse multiplies."""
        return self.spike_count(q) * self.graded

    def events(self, q: Integers) -> Events:
        """What a number of codes (any shape) sends, and how many send nothing."""
        codes = np.asarray(q)
        return Events(*(int(part.sum()) for part in (self.spike_count(codes), self.is_message(codes), self.is_silent(codes))))

    def payload_span(self, messages: bool = True) -> tuple[int, int]:
        """Lowest and highest value `c = q + z` that is sent, 0 included; `messages` False: by spikes alone."""
        low, high = (self.code_min, self.code_max) if messages else (self.spike_codes or (-self.zero, -self.zero))
        return min(0, low + self.zero), max(0, high + self.zero)

    @property
    def step_span(self) -> tuple[int, int]:
        """Lowest and highest payload of one step, 0 included."""
        return self.payload_span()

    @property
    def running_span(self) -> tuple[int, int]:
        """Lowest and highest sum of the payloads of a code up to any step, 0 included."""
        return self.payload_span()

    def code_span(self, messages: bool = True) -> tuple[int, int]:
        """Lowest and highest code q; `messages` False: of those that travel as spikes, (0, 0) where none does."""
        return (self.code_min, self.code_max) if messages else (self.spike_codes or (0, 0))

    def raster(self, codes: Integers, window: int | None = None) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Codes as two dense rasters, spikes and messages.

        Args:
            codes: (..., K) codes q in `code_min..code_max`.
            window: steps of the raster, at least T; a longer window starts with empty steps, so that every payload keeps its
                distance to the window's end and with it what it counts.

        Returns:
            spikes: (..., K, window) int32 payloads. messages: (..., K, window) int32, payload c at the last step.

        Raises:
            UsageError: a code outside `code_min..code_max`, or a window that is too short.
        """
        steps = self.window if window is None else window
        if steps < self.window:
            raise UsageError(f"a window of {steps} steps cannot hold {self.name} codes: they need {self.window}")
        codes = np.asarray(codes)
        if codes.size and (codes.min() < self.code_min or codes.max() > self.code_max):
            span = f"codes span {codes.min()}..{codes.max()}, outside {self.name} ({self.code_min}..{self.code_max})"
            raise UsageError(f"{span}: quantise them with a larger step")
        self.check_codes(codes)
        sent = codes.astype(np.int64) + self.zero
        message = self.is_message(codes)
        spikes = self.spikes(np.where(message, 0, sent), steps)
        messages = np.zeros((*codes.shape, steps), np.int32)
        messages[..., steps - 1] = np.where(message, sent, 0)
        return spikes, messages

    def payloads(self, codes: Integers, window: int | None = None) -> npt.NDArray[np.int32]:
        """(..., K, window) int32, spikes and messages in one raster."""
        spikes, messages = self.raster(codes, window)
        return spikes + messages

    def decode(self, payload: Integers) -> npt.NDArray[np.int64]:
        """Codes q (..., K) that a raster (..., K, steps) of payloads stands for: `sum_t kernel[t] p[t] - zero`."""
        weight = np.asarray(self.weights(payload.shape[-1]), np.int64)
        return payload.astype(np.int64) @ weight - self.zero

    def weights(self, period: int) -> tuple[int, ...]:
        """(period,) what a payload counts in a window of `period` steps: the kernel at its end, its first entry before."""
        return (self.kernel[0],) * (period - self.window) + self.kernel
