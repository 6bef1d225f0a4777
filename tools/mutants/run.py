"""Tests as forked children, several at a time: each in a copy of the repository, with limits of its own."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Limits", "Running", "load", "run_tests"]

_OPTIONS = "-x -q --no-header --tb=no -p no:cacheprovider -p tools.mutants.plugin --hypothesis-profile first-failure".split()
_CODES = {0: "passed", 4: "broken", 5: "broken"}
_PATIENCE, _MORE = 2, 10  # times what the tests take without a mutant, and so many seconds more
_BUSY = 3  # times that by the clock, because others may use the machine


@dataclass(frozen=True)
class Limits:
    """What tests may take: seconds of one process, and by the clock. A mutant that exceeds either hangs."""

    cpu: float
    wall: float

    @classmethod
    def after(cls, cpu: float, wall: float) -> Limits:
        """For a mutant, when the tests took so much without one."""
        return cls(_PATIENCE * cpu + _MORE, _BUSY * (_PATIENCE * wall + _MORE))


@dataclass
class Running:
    """Tests that run in a child, the leader of a group of its own.

    Attributes:
        outcome: None until they ended; then "passed", "failed", "hung" or "broken" (nothing was collected).
        cpu, wall: seconds, when they ended.
    """

    copy: Path
    tests: list[str]
    limits: Limits
    outcome: str | None = None
    cpu: float = 0.0
    wall: float = 0.0
    pid: int = field(init=False)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _child(self.copy, self.tests, self.limits.cpu)

    def poll(self) -> bool:
        """Whether they ended; ends them where they take too long."""
        if self.outcome is None:
            found, status, used = os.wait4(self.pid, os.WNOHANG)
            self.wall = time.monotonic() - self.started
            if found:
                code = os.waitstatus_to_exitcode(status)
                self.outcome = "hung" if code == -signal.SIGXCPU else _CODES.get(code, "failed")
                self.cpu = used.ru_utime + used.ru_stime
                self._end_group()
            elif self.wall > self.limits.wall:
                self.stop()
        return self.outcome is not None

    def stop(self) -> None:
        """End them now: they hang."""
        if self.outcome is None:
            self._end_group()
            os.waitpid(self.pid, 0)
            self.outcome = "hung"

    def _end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def run_tests(copy: Path, tests: list[str], limit: float) -> str:
    """The outcome of tests that run alone, within so many seconds by the clock."""
    running = Running(copy, tests, Limits(limit, limit))
    try:
        while not running.poll():
            time.sleep(0.02)
    finally:
        running.stop()
    return str(running.outcome)


def load() -> None:
    """Import what tests need besides the core, once for all children."""
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True  # a mutant may have the size and, to the second, the age of the one before
    import h5py  # noqa: F401
    import pytest  # noqa: F401
    import safetensors.torch  # noqa: F401
    import tokenizers  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)


def _child(copy: Path, tests: list[str], seconds: float) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        os.environ["PYTHONPATH"] = str(copy)
        import pytest

        code = int(pytest.main([*_OPTIONS, *tests]))
    finally:
        os._exit(code)
