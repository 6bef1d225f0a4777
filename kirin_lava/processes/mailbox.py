"""The mailbox of a block network: what its processes share beside their messages."""

from __future__ import annotations

import traceback

import numpy as np

from kirin_lava.base import errors
from kirin_lava.base.errors import BackendError, KirinError
from kirin_lava.graph.values import Array
from kirin_lava.processes.pipeline import HostStagePlan
from kirin_lava.processes.shared import TEXT_BYTES, read_text, shared_zeros, write_text

__all__ = ["Mailbox"]


class Mailbox:
    """Where tokens wait for a block network, where results are put, and what went wrong. Shared by all its processes.

    Parameters
    ----------
    capacity : int
        Most positions.

    width, result_width : int
        Numbers per token at the block's input and output.

    integers : bool
        Whether they are fixed-point values instead of float32.
    """

    def __init__(self, capacity: int, width: int, result_width: int, integers: bool = False) -> None:
        kind = np.int32 if integers else np.float32
        self.tokens = shared_zeros((capacity, width), kind)
        self.results = shared_zeros((capacity, result_width), kind)
        self.entry = shared_zeros((3,), np.int64)  # window in which the first token enters, its position, how many follow
        self._trouble = shared_zeros((TEXT_BYTES,), np.uint8)

    def put(self, x: Array, window: int, position: int) -> None:
        """Tokens (L, width) that enter one per window from `window` on, at positions from `position` on."""
        self.tokens[position : position + len(x)] = x
        self.entry[:] = window, position, len(x)

    def position_at(self, window: int) -> int | None:
        """Position of the token that enters in a window, None where none does."""
        first, position, count = (int(n) for n in self.entry)
        return position + window - first if first <= window < first + count else None

    @property
    def length(self) -> int:
        """Tokens of the sequence that is under way, of a block that takes it whole."""
        return int(self.entry[2])

    def report(self, stage: HostStagePlan, error: Exception) -> None:
        """Note the first error of a host stage."""
        name = type(error).__name__ if isinstance(error, KirinError) else BackendError.__name__
        text = str(error) if isinstance(error, KirinError) else traceback.format_exc(limit=-3)
        write_text(self._trouble, f"{name}\nhost stage {stage.index}: {text}")

    def check(self) -> None:
        """Raise the error that a host stage has reported, if there is one."""
        name, _, text = read_text(self._trouble).partition("\n")
        if name:
            raise getattr(errors, name)(text)
