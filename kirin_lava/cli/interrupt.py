"""Ctrl-C: one word and exit code 130, whatever the program is doing. Imports nothing that takes time.

Python raises KeyboardInterrupt wherever it is. While a library is imported that may be in the middle of compiled code, which
drops the exception, makes another of it or aborts; in a destructor it is lost as well. So:

    before a command works     nothing needs to be tidied up: the program leaves at once
    in an import of the work   it waits until the import is done
    in the work                KeyboardInterrupt, raised again as long as somebody swallows it
    after the work             the program leaves at once
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

TYPE_CHECKING = False  # `typing` itself would take a while
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

__all__ = ["CODE", "WORD", "Interrupt", "interrupt"]

CODE, WORD = 130, "interrupted"
_AGAIN = 0.05  # seconds until a swallowed interrupt is raised once more
_IMPORTS = "<frozen importlib"


class Interrupt:
    """The state of Ctrl-C. A context manager around the work of a command.

    Attributes:
        pressed: whether it was pressed, since the work began.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._program = False  # whether this is the program itself, and not a library that another one uses
        self._listening = False
        self._work: FrameType | None = None
        self._doors: tuple[str, ...] = ()
        self._before: dict[int, Any] = {}
        self._hook: Any = None

    def own(self) -> None:
        """The first thing that the program does: from now on Ctrl-C ends it."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # where it is switched off, leave it so
            self._program = True
            signal.signal(signal.SIGINT, self._hear)

    def __enter__(self) -> Interrupt:
        self.pressed, self._listening = False, self._program
        if not self._program and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            try:
                self._before = {signal.SIGINT: signal.signal(signal.SIGINT, self._hear)}
                self._listening = True
            except ValueError:  # in a thread that hears no signals
                self._listening = False
        self._work = sys._getframe(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._work = None
        if self.pressed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.unraisablehook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def imports_of(self, *files: str) -> None:
        """Say which files import what a command needs before it works: there the program may leave at once."""
        self._doors = files

    def _hear(self, number: int, frame: FrameType | None) -> None:
        importer = self._importer(frame)
        if self._program and (self._work is None or importer in self._doors):
            _leave()
        if not self.pressed:
            self.pressed = True
            self._hook, sys.unraisablehook = sys.unraisablehook, self._ignore
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._repeat)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
        if importer is None:
            raise KeyboardInterrupt

    def _repeat(self, number: int, frame: FrameType | None) -> None:
        if self._work is None or self._importer(frame) is not None or _on_its_way():
            return
        raise KeyboardInterrupt

    def _importer(self, frame: FrameType | None) -> str | None:
        """The file of the work whose import, outermost of all, is going on; None where nothing is imported."""
        found, importing = None, False
        while frame is not None and frame is not self._work:
            file = frame.f_code.co_filename
            if file.startswith(_IMPORTS) or file == importlib.__file__:
                importing = True
            elif importing:
                found, importing = file, False
            frame = frame.f_back
        return found

    def _ignore(self, what: sys.UnraisableHookArgs) -> None:
        """An interrupt that a destructor lost is raised again: nothing is to be said about it."""
        if what.exc_type is not KeyboardInterrupt:
            self._hook(what)


interrupt = Interrupt()
"""That of this program: signals belong to a process."""


def _on_its_way() -> bool:
    """Whether a KeyboardInterrupt is going up, through somebody who tidies up."""
    error: BaseException | None = sys.exc_info()[1]
    for _ in range(100):
        if error is None or isinstance(error, KeyboardInterrupt):
            break
        error = error.__context__
    return error is not None


def _leave() -> None:
    try:
        os.write(2, f"{WORD}\n".encode())
    finally:  # whether anybody reads it or not
        os._exit(CODE)
