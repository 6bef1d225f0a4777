"""The inside of a Lava job: answers the calls of `kirin_lava.processes.runtime`, and ends, with all that it forked, when it
must."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from kirin_lava.base.errors import BackendError, KirinError

__all__ = ["alive", "progress", "serve"]

_PR_SET_PDEATHSIG = 1

_link: Connection | None = None  # in a job: the socket to its parent


def progress(done: int, total: int) -> None:
    """Called inside a job: report `done` of `total` time steps. Does nothing outside a job."""
    if _link is not None:
        _link.send(("progress", done, total))


def alive() -> None:
    """Called inside a job: say that work without time steps goes on, such as building a network. Does nothing elsewhere."""
    if _link is not None:
        _link.send(("alive",))


def serve(descriptor: int) -> None:
    """Main of a job: answer the parent's messages until it closes the socket."""
    global _link
    _link = link = Connection(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if sys.platform == "linux":
        signal.signal(signal.SIGCHLD, _leave_with_child)
    threading.Thread(target=_leave_with_parent, args=(descriptor,), daemon=True).start()
    os.register_at_fork(after_in_child=_leave_with_job())
    state: Any = None
    while True:
        try:
            kind, *content = link.recv()
        except (EOFError, OSError):
            os._exit(0)  # skip the exit handlers of a hundred libraries; what must go goes with this process
        try:
            result = None
            if kind == "call":
                function, args = content
                result = function(*args)
            elif kind == "open":
                function, args = content
                state = function(*args)
            else:
                method, args = content
                result = getattr(state, method)(*args)
            answer = pickle.dumps(("result", result))
        except Exception as error:
            answer = pickle.dumps(("error", _portable(error), traceback.format_exc()))
        link.send_bytes(answer)


def _portable(error: Exception) -> KirinError:
    """An error of ours as it is, anything else as a `BackendError`; only what survives pickling leaves the job."""
    if isinstance(error, KirinError):
        with contextlib.suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    return BackendError(f"the Lava job raised {type(error).__name__}: {error}")


def _leave_with_parent(descriptor: int) -> None:
    """Watch the socket from a thread: when the other end is gone, so is the job."""
    watch = select.poll()
    watch.register(descriptor, 0)  # only hang-ups and errors
    watch.poll()
    os._exit(0)


def _leave_with_child(*_: object) -> None:
    """Called when a child ends: where something killed it, as the kernel does without memory, Lava would wait for ever."""
    children = ""
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as file:  # not in every kernel
        children = file.read()
    for pid in map(int, children.split()):
        with contextlib.suppress(ChildProcessError):
            end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            # SIGTERM is how Python ends the server of its shared memory
            if end is not None and end.si_code != os.CLD_EXITED and end.si_status != signal.SIGTERM:
                name = signal.Signals(end.si_status).name
                sys.stderr.write(f"a Lava process was killed by {name}; if nobody did, memory may be short\n")
                sys.stderr.flush()
                os._exit(1)


def _leave_with_job() -> Callable[[], None]:
    """What every process that the job forks does first: let go of the socket, have the kernel end it with the job."""
    prctl: Any = None
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl

    def after_fork() -> None:
        global _link
        if _link is not None:
            _link.close()
            _link = None
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return after_fork
