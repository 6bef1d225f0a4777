"""Lava in a child process: wall-clock limit, progress, and nothing left behind on any way out.

Lava's simulator forks one operating-system process per Lava process, each with descriptors and shared memory, and forces
the `fork` start method on whole programs. So a Lava job gets an interpreter of its own, in a session of its own:

    parent  --- request, result, progress over one socket --->  job  --- forks --->  Lava processes

* The job ends when the socket is closed, so it does not outlive its parent, whatever ended that. It also ends when one of its
  processes is killed.
* Every process that the job forks is ended by the kernel when the job ends, whatever ended that.
* A job that no longer gets on is ended, whatever its limit: see `kirin_lava.processes.watchdog`.
* Python's resource tracker of the job is spared until then: it removes the shared memory that killed processes leave.

This module imports nothing of Lava itself; the job's function does. The job's side of it is `kirin_lava.processes.job`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import IO, Any, TypeVar

from kirin_lava.base.errors import BackendError, KirinError, UsageError
from kirin_lava.processes.job import progress
from kirin_lava.processes.watchdog import PATIENCE_VARIABLE, Watchdog, patience

__all__ = ["Session", "lava_versions", "progress", "require_backend", "require_lava", "run_job"]

T = TypeVar("T")
Progress = Callable[[int, int], None]

_DISTRIBUTIONS = ("lava-nc", "lava-dl")
_BOOTSTRAP = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from kirin_lava.processes.job import serve
serve(int(sys.argv[1]))
"""
_GRACE = 5.0  # seconds for a job to leave
_TIDY = 30.0  # seconds for its resource tracker to remove what is left; far more than it needs on an idle machine
_POLL = 0.5  # seconds between looks at whether the job still lives
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def lava_versions() -> dict[str, str]:
    """Installed versions of the Lava distributions by name; those that are missing are left out."""
    found = {}
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def require_lava() -> None:
    """Raise `BackendError`, in one sentence, where Lava cannot run."""
    if sys.version_info[:2] != (3, 10):
        raise BackendError(
            f"Lava runs on Python 3.10 only and this is Python {sys.version_info[0]}.{sys.version_info[1]}: "
            "run and verify on Lava from an environment with Python 3.10"
        )
    missing = [name for name in _DISTRIBUTIONS if name not in lava_versions()]
    if missing:
        raise BackendError(f"{' and '.join(missing)} not installed: run `pip install lava-nc==0.10.0 lava-dl==0.6.0`")


def require_backend(backend: str) -> None:
    """Raise `BackendError`, in one sentence, where the backend `cpu` or `loihi2` cannot run on this machine.

    Lava finds Loihi 2 through the closed package lava-loihi, and a board through SLURM or an address in `NXSDKHOST`.
    """
    if backend not in ("cpu", "loihi2"):
        raise UsageError(f"unknown Lava backend {backend!r}: choose cpu or loihi2")
    require_lava()
    if backend == "cpu":
        return
    if importlib.util.find_spec("lava.utils.loihi2_profiler") is None:
        raise BackendError(
            "Loihi 2 needs lava-loihi, which Intel gives to members of its research community (INRC) only, and it is "
            "not installed: `--backend stock` runs the same files on the CPU simulator, to the same integers"
        )
    from lava.utils import slurm

    if not os.environ.get("NXSDKHOST") and not slurm.is_available():
        raise BackendError("no Loihi 2 board is within reach: set NXSDKHOST to its address, or run where SLURM offers one")


def run_job(function: Callable[..., T], *args: Any, timeout: float | None = None, on_progress: Progress | None = None) -> T:
    """Call `function(*args)` in a process of its own and return its result.

    Args:
        function: importable by name (top level of a module other than `__main__`), run in a fresh interpreter.
        args: picklable, as must be the result.
        timeout: wall-clock limit in seconds, the start of the interpreter included; None for no limit.
        on_progress: called with (done, total) time steps as the function reports them through `progress`.

    Raises:
        BackendError: Lava is missing, the limit has passed, the job stalled or died, or the function raised something that
            is no error of ours.
        KirinError: as the function raised it.
    """
    require_lava()
    with _Child(function, timeout) as child:
        child.send(("call", function, args))
        return child.result(timeout, on_progress)


class Session:
    """An object that lives in a Lava job of its own, for work that comes bit by bit.

    `Session(factory, *args)` builds the object there; `call("method", ...)` calls it. Use as a context manager.

    Args:
        factory: importable by name; builds the object from picklable `args`.
        timeout: wall-clock limit in seconds for building it and for each call; None for no limit. The attribute of this name
            may be changed between calls.

    Raises:
        BackendError, KirinError: as `run_job`. A `BackendError` closes the session, other errors of ours leave it open.
    """

    def __init__(self, factory: Callable[..., Any], *args: Any, timeout: float | None = None) -> None:
        require_lava()
        self.timeout = timeout
        self._child = _Child(factory, timeout)
        try:
            self._child.send(("open", factory, args))
            self._child.result(timeout, None)
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *args: Any, on_progress: Progress | None = None) -> Any:
        """Result of `object.method(*args)`, computed in the job."""
        if self._child.closed:
            raise BackendError(f"the Lava session is closed, {method} cannot be called: open a new one")
        with self._closed_on_failure():
            self._child.send(("method", method, args))
            return self._child.result(self.timeout, on_progress)

    def close(self) -> None:
        """End the job. May be called twice."""
        self._child.close()

    @contextlib.contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if isinstance(error, BackendError) or not isinstance(error, KirinError):
                self.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _RemoteError(Exception):
    """The traceback of a job, shown as the cause of the error in the parent."""


class _Child:
    """Parent's side of one job."""

    def __init__(self, function: Callable[..., Any], timeout: float | None) -> None:
        if function.__module__ == "__main__":
            raise UsageError(f"a Lava job must be importable: move {function.__qualname__} from the script to a module")
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._name = function.__qualname__
        self._patience = patience()
        self.closed = False
        here, there = socket.socketpair()
        environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1")}
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close(); a pipe could fill up and block
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, str(there.fileno()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(there.fileno(),),
                start_new_session=True,
                env=environment,
            )
        except BaseException:
            here.close()
            self._output.close()
            raise
        finally:
            there.close()
        self._link = Connection(here.detach())

    def send(self, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a death is told by result()
            self._link.send(message)

    def result(self, timeout: float | None, on_progress: Progress | None) -> Any:
        """Wait for the answer to the message sent last."""
        deadline = self._deadline if self._deadline is not None or timeout is None else time.monotonic() + timeout
        self._deadline = None  # the first answer's limit counts from the start of the process
        done = total = 0
        watchdog = Watchdog(self._process.pid, self._patience)
        while True:
            if not self._link.poll(_POLL if deadline is None else min(_POLL, max(0.0, deadline - time.monotonic()))):
                if self._process.poll() is not None and not self._link.poll(0):
                    raise self._death()
                if deadline is not None and time.monotonic() >= deadline:
                    limit = f"Lava job {self._name} passed its limit of {timeout:g} s ({_so_far(done, total)})"
                    raise BackendError(f"{limit}: raise --timeout or give it less to do")
                wrong = watchdog.stalled()
                if wrong is not None:
                    raise BackendError(
                        f"Lava job {self._name} {wrong} ({_so_far(done, total)}) and was ended: `kirin-lava doctor` checks "
                        f"what Lava needs; {PATIENCE_VARIABLE}=SECONDS waits longer; its last words: {self._last_words()}"
                    )
                continue
            try:
                kind, *content = self._link.recv()
            except (EOFError, ConnectionResetError):
                raise self._death() from None
            watchdog.heard()
            if kind == "alive":
                continue
            if kind == "progress":
                done, total = content
                if on_progress is not None:
                    on_progress(done, total)
            elif kind == "result":
                return content[0]
            else:
                error, text = content
                raise error from _RemoteError(text)

    def _death(self) -> BackendError:
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:  # it closed the socket and lives on
            return BackendError(f"Lava job {self._name} closed its socket without a result: {self._last_words()}")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return BackendError(f"Lava job {self._name} {how} before it had a result: {self._last_words()}")

    def _last_words(self, lines: int = 5) -> str:
        self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, self._output.tell() - 4000))
        text = self._output.read().decode(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in text[-lines:]) or "it wrote nothing"

    def close(self) -> None:
        """End the job and wait until nothing of it is left."""
        if self.closed:
            return
        self.closed = True
        group = self._process.pid
        try:
            self._link.close()  # the job ends by this, and with it all that it forked
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            deadline = time.monotonic() + _TIDY
            while _group_lives(group) and time.monotonic() < deadline:
                time.sleep(0.005)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
            self._output.close()

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _so_far(done: int, total: int) -> str:
    return f"{done} of {total} time steps done" if total else "no time step done"


def _group_lives(group: int) -> bool:
    """Whether a process of the group still runs; one that has ended and waits for its parent to ask does not."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return True  # no /proc: trust killpg
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            state, _, pgrp = file.read().rpartition(b")")[2].split()[:3]
            if int(pgrp) == group and state not in b"ZX":
                return True
    return False
