"""What the tests of the runtime let a job do. No Lava needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any, NoReturn

from kirin_lava.base.errors import FitError
from kirin_lava.processes.job import alive
from kirin_lava.processes.runtime import progress


def add(a: int, b: int) -> int:
    """The simplest job."""
    return a + b


def where() -> tuple[int, int, int]:
    """Process, group and session of the job."""
    return os.getpid(), os.getpgid(0), os.getsid(0)


def steps(count: int, seconds: float) -> None:
    """Reports every step."""
    for done in range(count):
        progress(done + 1, count)
        time.sleep(seconds)


def misfit() -> NoReturn:
    """Raises an error of ours."""
    raise FitError("layer: neuron 3 is too large")


def fault() -> NoReturn:
    """Raises somebody else's error."""
    raise KeyError("nowhere")


def vanish(by: signal.Signals = signal.SIGKILL) -> None:
    """Is killed, after some last words."""
    print("these are my last words", file=sys.stderr, flush=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [by])
    if by != signal.SIGKILL:
        signal.signal(by, signal.SIG_DFL)
    os.kill(os.getpid(), by)


def leave() -> None:
    """Ends without a result."""
    os._exit(7)


def stop() -> None:
    """Tells its process id and stops, so that it hears nothing of its parent: only a kill ends it."""
    progress(os.getpid(), os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)


def leave_a_program() -> int:
    """Starts a program that has nothing to do with Python and leaves it alone; returns its process id."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL).pid


def unpicklable() -> Any:
    """A result that cannot travel."""
    return lambda: None


class Counter:
    """State that lives in a session."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise FitError("a counter cannot start below 0")
        self.count = start

    def add(self, more: int) -> int:
        """Counts and returns the sum."""
        progress(1, 1)
        self.count += more
        return self.count

    def fail(self) -> NoReturn:
        """Raises an error of ours."""
        raise FitError("not this one")

    def add_slowly(self, times: int) -> None:
        """Counts in steps of 10 ms."""
        for done in range(times):
            time.sleep(0.01)
            self.count += 1
            progress(done + 1, times)


def sleep_for_ever() -> None:
    """Does nothing and says nothing."""
    time.sleep(10**6)


def work(seconds: float) -> str:
    """Uses the processor and says nothing."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))
    return "done"


def speak(times: int, seconds: float) -> str:
    """Does nothing but to say now and then that it is alive."""
    for _ in range(times):
        time.sleep(seconds)
        alive()
    return "done"
