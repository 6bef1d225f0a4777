"""How Lava is started here: never with fewer file descriptors than its network needs.

Lava forks one operating-system process per Process. One that cannot open what it needs dies without a word, and all others wait
for it for ever. So the network is compiled first, its Processes and channels are counted, the limit of this process is raised
where it may be, and only then the runtime is created.

    descriptors = open before + 12 + 10 per Process + 2 per channel

as measured with lava-nc 0.10.0, exactly, in the process that has most; and some to spare for what Python opens in passing.

This module imports nothing of Lava itself.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Any

from kirin_lava.base.errors import BackendError
from kirin_lava.processes.job import alive

__all__ = ["block_descriptors", "descriptors_needed", "largest_limit", "make_room", "start_runtime"]

_ALWAYS, _PER_PROCESS, _PER_CHANNEL = 12, 10, 2
_SPARE = 20
_OPEN_IN_A_JOB = 5  # before its first network
_BLOCK = 29, 48  # Processes and channels of a decoder block of a Llama, with its probes; more where a fan-in is split


def descriptors_needed(processes: int, channels: int) -> int:
    """Descriptors that a network opens in one of its processes, beside those that are open already, with some to spare."""
    return _ALWAYS + _SPARE + _PER_PROCESS * processes + _PER_CHANNEL * channels


def block_descriptors() -> int:
    """Descriptors that a job needs for a decoder block as `verify --level block` builds it."""
    return _OPEN_IN_A_JOB + descriptors_needed(*_BLOCK)


def largest_limit() -> float:
    """Descriptors that this process may have at most, its limit raised."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return float("inf") if hard == resource.RLIM_INFINITY else hard


def make_room(more: int, what: str) -> None:
    """Make sure that `more` descriptors can be opened, with a raised soft limit if need be.

    Args:
        what: needs them, for the error.

    Raises:
        BackendError: the hard limit is lower.
    """
    need = _open_now() + more
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return
    if largest_limit() >= need:
        with contextlib.suppress(ValueError, OSError):  # some systems have one more limit of their own
            resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
            return
    raise BackendError(
        f"{what} needs {need} open files and may have {soft} (hard limit {hard}): Lava would wait for ever; raise the limit, "
        f"`ulimit -n {need}` as root or in the settings of the system or container, or run something smaller"
    )


def start_runtime(process: Any, run_cfg: Any) -> None:
    """Compile the network that a Lava Process is part of and create its runtime.

    Raises:
        BackendError: there are too few descriptors for it.
    """
    alive()
    executable = process.compile(run_cfg)
    alive()
    processes, channels = len(executable.proc_builders), len(executable.channel_builders)
    make_room(descriptors_needed(processes, channels), f"a network of {processes} Lava processes and {channels} channels")
    process.create_runtime(run_cfg, executable)
    alive()


def _open_now() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            return len(os.listdir(folder)) - 1  # the listing itself is one
    return _OPEN_IN_A_JOB
