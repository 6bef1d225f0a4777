"""Notices that a Lava job will never answer.

A job counts as stalled when none of its processes has used any processor time for the whole patience, which is how Lava waits
for a process that died; or when it works but reports nothing for `WORKING` times as long. A large network may compute on its
first time steps for minutes, on a busy machine for longer: it uses processor time, and has the longer limit.

Only time counts in which this process looked: while a laptop sleeps or the program is stopped nobody becomes impatient.
"""

from __future__ import annotations

import contextlib
import math
import os
import time

from kirin_lava.base.errors import UsageError

__all__ = ["PATIENCE_VARIABLE", "WORKING", "Watchdog", "patience"]

PATIENCE_VARIABLE = "KIRIN_LAVA_PATIENCE"
"""Environment variable: seconds without any sign of life after which a job is ended."""
WORKING = 10
"""A job that works may be silent for so many times the patience."""
_PATIENCE = 120.0
_LOOKS = 24  # at the processor time, while the patience lasts
_BLINK = 2.0  # seconds: more between two looks were spent asleep


def patience() -> float:
    """Seconds, from the environment or 120.

    Raises:
        UsageError: the environment holds no positive number.
    """
    text = os.environ.get(PATIENCE_VARIABLE, "")
    if not text:
        return _PATIENCE
    with contextlib.suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < math.inf:
            return seconds
    raise UsageError(f"{PATIENCE_VARIABLE} is {text!r}, not a number of seconds above 0")


class Watchdog:
    """Watches one job while somebody waits for its answer.

    Args:
        group: process group of the job.
        patience: seconds, see the module.
    """

    def __init__(self, group: int, patience: float) -> None:
        self._group, self._patience = group, patience
        self.heard()

    def heard(self) -> None:
        """The job said something."""
        self._last = time.monotonic()
        self._silent = self._idle = self._unseen = 0.0
        self._used: int | None = None

    def stalled(self) -> str | None:
        """To be called again and again while the job is silent: what is wrong with it, or None."""
        now = time.monotonic()
        passed = min(now - self._last, _BLINK)
        self._last = now
        self._silent += passed
        self._unseen += passed
        if self._unseen >= self._patience / _LOOKS:
            used = processor_time(self._group)
            still = used is not None and used == self._used
            self._idle = self._idle + self._unseen if still else 0.0
            self._used, self._unseen = used, 0.0
        if self._idle >= self._patience * (_LOOKS - 1) / _LOOKS:
            return f"has made no time step and used no processor time for {self._patience:g} s"
        if self._silent >= self._patience * WORKING:
            return f"has worked for {self._patience * WORKING:g} s without a time step"
        return None


def processor_time(group: int) -> int | None:
    """Clock ticks that the processes of a group have used, their buried children included; None where nobody tells."""
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return None
    total, found = 0, False
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
            if int(fields[2]) == group:
                found = True
                total += sum(int(ticks) for ticks in fields[11:15])
    return total if found else None
