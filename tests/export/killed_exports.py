"""Runs one export again and again and kills it (SIGKILL) at moments that are spread over all it does to the disk.

    killed_exports.py MODEL FOLDER KILLS

Prints JSON: how many moments there are, and for each kill whether something was left at OUT and the digest and files of the
bundle after the export was run again, with and without --resume in turns. A fork is enough to kill, and saves the imports.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from kirin_lava.export.bundle import Bundle
from tests.exports import export

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "shutil.copyfile", "shutil.rmtree"}
LAST = 4  # the moments around the final rename


def run(model: str, out: Path, resume: bool = False) -> None:
    export(model, out, recipe="fast", num_samples=1, seq_len=8, verify_with="none", resume=resume)


def child(model: str, out: Path, kill_at: int | None, resume: bool, counter: int) -> None:
    """Export, and die just before the event `kill_at`; the number of events is written to a descriptor."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in EVENTS and str(arguments[0]).startswith(str(out)):
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(hook)
    try:
        run(model, out, resume)
        os.write(counter, seen.to_bytes(4, "big"))
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)


def forked(model: str, out: Path, kill_at: int | None = None, resume: bool = False) -> tuple[int, int]:
    """Status of the child and the number of its events."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(model, out, kill_at, resume, write)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    events = int.from_bytes(os.read(read, 4), "big")
    os.close(read)
    return status, events


def contents(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> None:
    model, folder, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    out = folder / "out"
    run(model, folder / "first")  # what is imported on the way is there for all children
    shutil.rmtree(folder / "first")
    status, events = forked(model, out)
    assert status == 0
    whole = {"digest": Bundle(out).digest(), "files": contents(out)}
    moments = sorted({*(round(i * events / kills) for i in range(kills)), *range(events - LAST, events)})
    killed = []
    for i, moment in enumerate(moments):
        for path in folder.iterdir():
            shutil.rmtree(path)
        status, _ = forked(model, out, moment)
        left = sorted(path.name for path in folder.iterdir())
        finished = out.exists() and not Bundle(out).damaged_files()
        again = 0 if finished else forked(model, out, resume=i % 2 == 0)[0]
        digest, files = Bundle(out).digest(), contents(out)
        files.pop(".lock", None)  # an export that dies between its last two calls leaves it
        same = files == whole["files"]
        killed.append({"moment": moment, "signal": status, "left": left, "finished": finished, "again": again, "same": same})
        killed[-1]["digest"] = digest
    print(json.dumps({"events": events, "digest": whole["digest"], "killed": killed}))


if __name__ == "__main__":
    main()
