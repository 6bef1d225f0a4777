"""One command in a forked child with a limit of time and of memory, and the judgement of what it did."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

from kirin_lava.cli.main import main

__all__ = ["MEMORY", "SECONDS", "Ran", "fault_of", "run"]

SECONDS = 30
MEMORY = 4 * 2**30
_LONGEST = 2_000  # characters of an error
_KILL_AFTER = SECONDS + 5
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NO_FILE = re.compile(
    r"Usage: .*\nTry .*\n\nError: Invalid value for '[^\n]*' does not exist\.\n"
)  # an argument's file is gone
_VARYING = re.compile(r"\b\d[\d.,]* ?(?:s|ms|MB|GB|kB|tokens/s)\b")


@dataclass(frozen=True)
class Ran:
    """What a command did. code: its exit code, or minus the signal that ended it; memory in bytes, the libraries included."""

    code: int
    out: str
    err: str
    seconds: float
    memory: int


def run(arguments: list[str], folder: Path) -> Ran:
    """Run `kirin-lava ARGUMENTS` in a child, in a folder of its own; whatever it starts ends with it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(arguments, folder, out.fileno(), err.fileno())
        try:
            status, usage = _wait(pid, start + _KILL_AFTER)
        finally:
            _end_group(pid)
        seconds = time.monotonic() - start
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(1 << 22).decode("utf-8", "replace"))
        code = os.waitstatus_to_exitcode(status)
        return Ran(
            code, texts[0].replace(str(folder), "DIR"), texts[1].replace(str(folder), "DIR"), seconds, usage.ru_maxrss * 1024
        )


def _wait(pid: int, deadline: float) -> tuple[int, resource.struct_rusage]:
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() > deadline:  # the alarm is the first limit; a child that blocks it meets this one
            os.kill(pid, signal.SIGKILL)
            deadline += 3600
        time.sleep(0.005)


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _child(arguments: list[str], folder: Path, out: int, err: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
        os.chdir(folder)
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
        warnings.resetwarnings()  # as a fresh interpreter has them, whatever runs this
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(SECONDS)
        main(args=arguments, prog_name="kirin-lava")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def plain(text: str) -> str:
    """A text without what differs from run to run: times, memory."""
    return re.sub(r"[ \u2500]+", " ", _VARYING.sub("#", text))


def fault_of(arguments: list[str], ran: Ran, expected: Ran | None) -> str | None:
    """What is wrong with what a command did, or None.

    Args:
        expected: what it does with the undamaged files, where an exit code of 0 must mean the same result.
    """
    last = (ran.err.strip().splitlines() or ["(no word)"])[-1][:200]
    if ran.code == -signal.SIGALRM or ran.seconds > SECONDS:
        return f"took more than {SECONDS} s"
    if ran.code < 0:
        return f"was ended by {signal.Signals(-ran.code).name}: {last}"
    if "Traceback (most recent call last)" in ran.err + ran.out:
        return f"a traceback: {last}"
    if ran.memory > MEMORY:
        return f"took {ran.memory / 2**30:.1f} GB"
    control = _CONTROL.search(ran.err if arguments[0] == "run" else ran.out + ran.err)  # a model may say anything
    if control:
        return f"printed the control character {control[0]!r}"
    if ran.code == 0:
        if expected is not None and plain(ran.out) != plain(expected.out):
            return f"another result without a word: {_first_difference(expected.out, ran.out)}"
        return None
    if not 2 <= ran.code <= 6:
        return f"exit code {ran.code}: {last}"
    if not re.fullmatch(r"error: [^\n]+\n", ran.err) and not (ran.code == 2 and _NO_FILE.fullmatch(ran.err)):
        return f"{ran.err.count(chr(10))} lines for exit code {ran.code}: {ran.err[:300]!r}"
    if len(ran.err) > _LONGEST:
        return f"an error of {len(ran.err)} characters: {ran.err[:100]!r}"
    return None


def _first_difference(expected: str, found: str) -> str:
    for old, new in zip(expected.splitlines(), found.splitlines(), strict=False):
        if plain(old) != plain(new):
            return f"{old.strip()[:80]!r} became {new.strip()[:80]!r}"
    return f"{len(expected.splitlines())} lines became {len(found.splitlines())}"
