"""Runs one export again and again and kills it (SIGKILL) at moments that are spread over all it does to the disk.

    killed_exports.py MODEL FOLDER KILLS fresh | force | renames

`fresh` has no OUT, `force` an older bundle there, `renames` as well, on a system that cannot exchange two folders. Kills are
spread evenly over the export, and fall on every step of its publication. Prints JSON: how many moments there are, and for each
kill what was at OUT afterwards, how the next run ended, how many blocks it had to convert, and what was left then. The next run
has --resume in turns. A fork is enough to kill, and saves the imports.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kirin_lava.base.errors import UsageError
from kirin_lava.export import publish
from kirin_lava.export.bundle import Bundle
from tests.exports import export

EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile", "shutil.rmtree"}
INSIDE, NAMED = 6, ("manifest.json", ".lock")  # of the other files of an old bundle, every so manieth


def run(model: str, out: Path, seq_len: int = 8, **arguments: Any) -> int:
    """Export; returns the number of blocks that were converted."""
    seen = set()

    def watch(what: str, done: int, total: int) -> None:
        if what == "convert layers":
            seen.add(done)

    export(model, out, recipe="fast", num_samples=1, seq_len=seq_len, verify_with="none", progress=watch, **arguments)
    return max(0, len(seen) - 1)


def child(model: str, out: Path, kill_at: int | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """Export, and die just before the event `kill_at`; tells the moments of the publication, and what came of it."""
    seen, steps = 0, []
    publishes = False

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen
        inside = event in ("os.remove", "os.rmdir") and given[1] != -1
        if event in EVENTS and (inside or str(given[0]).startswith(str(out.parent))):
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            file = inside or (event != "os.rename" and ".out.replaced/" in str(given[0]) and Path(given[0]).name not in NAMED)
            if publishes and not (file and seen % INSIDE):
                steps.append(seen)
            seen += 1

    def noted(self: publish.Place) -> None:
        nonlocal publishes
        publishes = True
        original(self)
        publishes = False

    original = publish.Place.publish
    publish.Place.publish = noted  # type: ignore[method-assign]
    sys.addaudithook(hook)
    try:
        converted = run(model, out, **arguments)
        return {"code": 0, "converted": converted, "events": seen, "steps": steps}
    except UsageError as error:
        return {"code": error.exit_code, "said": str(error)}


def forked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a child says, or the signal that killed it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, json.dumps(work()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    _, status = os.waitpid(pid, 0)
    return {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else json.loads(said)


def contents(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def digest_at(out: Path) -> str:
    """Of a whole bundle; what is none, or damaged, has a word in its place."""
    if not out.exists():
        return "nothing"
    try:
        bundle = Bundle(out)
        return "damaged" if bundle.damaged_files() else bundle.digest()
    except UsageError:
        return "no bundle"


def empty(folder: Path, old: Path | None, out: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if old is not None:
        shutil.copytree(old, out)


def main() -> None:
    model, top, kills, kind = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    if kind == "renames":
        publish.exchange = lambda one, other: False
    folder, old = top / "work", top / "old"
    out = folder / "out"
    force = {} if kind == "fresh" else {"force": True}
    run(model, old, seq_len=9)  # and what is imported on the way is there for all children
    names = {digest_at(old): "old", "nothing": "nothing"}
    before = old if force else None
    empty(folder, before, out)
    undisturbed = forked(partial(child, model, out, None, force))
    names[digest_at(out)] = "new"
    whole, digest = contents(out), digest_at(out)
    moments = sorted({*(round(i * undisturbed["events"] / kills) for i in range(kills)), *undisturbed["steps"]})
    killed = []
    for i, moment in enumerate(moments):
        empty(folder, before, out)
        ended = forked(partial(child, model, out, moment, force))
        left, found = sorted(path.name for path in folder.iterdir()), digest_at(out)
        again = forked(partial(child, model, out, None, {**force, "resume": i % 2 == 0}))
        killed.append(
            {
                "moment": moment,
                "publishing": moment in undisturbed["steps"],
                "signal": ended.get("signal"),
                "left": left,
                "out": names.get(found, found),
                "resume": i % 2 == 0,
                "again": again,
                "at the end": sorted(path.name for path in folder.iterdir()),
                "same": contents(out) == whole and digest_at(out) == digest,
            }
        )
    print(json.dumps({"events": undisturbed["events"], "digest": digest, "killed": killed}))


if __name__ == "__main__":
    main()
