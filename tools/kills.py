"""Kills exports and verifications at random moments and looks whether anything half-finished looks whole, or anything is left.

Run: python -m tools.kills [--seed N] [--scale X] [--only KIND ...]

Two layers of the embedded model are exported and verified, and the process is killed (SIGKILL) after a random share of the time
that an undisturbed run takes, or, two times out of five, a random moment behind the beginning of the publication:

    fresh      export to a folder that does not exist
    force      export --force over an older bundle
    resume     export --resume behind an export that was killed before, and is killed again
    verify     verify on the reference
    lava       verify on Lava

After each kill OUT is nothing, the older bundle or the new one, whole; the next run of the same command ends well, without
help; then there is nothing but OUT, and OUT is byte for byte what an undisturbed run gives (a verification on Lava writes
times); no process and no segment of shared memory is left. Prints a line per kind and a total; exit 1 where something did not
hold.

A kind begins with one import for all of its runs: a run is a fork. Some kills come too late and hit nothing; they do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from kirin_lava.base.errors import KirinError
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.manifest import JOURNAL
from kirin_lava.processes.runtime import lava_versions
from kirin_lava.tasks.export import export
from kirin_lava.tasks.options import Output, Sample
from kirin_lava.tasks.verified import verify_and_tell

KILLS = {"fresh": 20, "force": 30, "resume": 20, "verify": 25, "lava": 5}
_PR_SET_CHILD_SUBREAPER, _CLONE_NEWNS = 36, 0x20000
_SHARED_MEMORY = Path("/dev/shm")
_LATE, _PUBLICATION = 0.4, 0.03  # so many of the kills fall within seconds of the publication's beginning
_LEAVE = 30.0  # seconds for the processes of a killed run to be gone


class Trial:
    """One kind of run, in a folder of its own. private: whether all shared memory is ours, and is looked at.

    Attributes:
        problems: what did not hold, a line each.
    """

    def __init__(self, kind: str, top: Path, private: bool):
        self.kind, self.out = kind, top / kind / "out"
        self.saved, self._private = top / "older", private
        self.problems: list[str] = []
        self.found: Counter[str] = Counter()
        self.kills = 0
        if not self.saved.exists():
            self._export(self.saved, seq_len=24)
        self.older = digest_at(self.saved)
        started = time.monotonic()
        self._prepare(None)
        assert fork(self._run) == 0, "an undisturbed run fails"
        self.seconds = time.monotonic() - started
        self.newer, self.whole = digest_at(self.out), contents(self.out)

    def kill(self, share: random.Random) -> None:
        """One run that is killed, and the next one."""
        self._prepare(share)
        moment, late = share.uniform(0, 1.05) * self.seconds, None
        if self.kind in ("fresh", "force", "resume") and share.random() < _LATE:
            # publication takes some milliseconds behind the model card
            moment, late = share.uniform(0, _PUBLICATION), self.out.with_name("out.partial") / "README.md"
        code = fork(self._run, moment, late)
        if code != -signal.SIGKILL:
            if late is None:
                self.seconds *= 0.9  # too late: the machine is quicker than it was
            return
        self.kills += 1
        self._orphans(f"killed after {moment:.2f} s")
        digest = digest_at(self.out)
        state = {self.older: "older", self.newer: "newer"}.get(digest, digest)
        self.found[state] += 1
        allowed = {"fresh": ("nothing", "newer"), "force": ("older", "newer"), "resume": ("nothing", "newer")}
        if state not in allowed.get(self.kind, ("newer",)):
            self.problems.append(f"killed after {moment:.2f} s: OUT is {state}")
        # killed behind its last step: there is nothing to run again, and an export would say that OUT exists
        finished = state == "newer" and self.kind in ("fresh", "resume") and not (self.out / JOURNAL).exists()
        if not finished and fork(self._again) != 0:
            self.problems.append(f"killed after {moment:.2f} s: the next run fails")
        beside = sorted(path.name for path in self.out.parent.iterdir())
        if beside != ["out"]:
            self.problems.append(f"killed after {moment:.2f} s: {', '.join(beside)} are left")
        elif digest_at(self.out) != self.newer or (self.kind != "lava" and contents(self.out) != self.whole):
            self.problems.append(f"killed after {moment:.2f} s: the next run gives other files")
        self._orphans("after the next run")

    def line(self) -> str:
        """What came of it."""
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.found.items()))
        return f"{self.kind:<8} {self.kills:>4} kills; OUT then: {states}; {len(self.problems)} problems"

    def _prepare(self, share: random.Random | None) -> None:
        shutil.rmtree(self.out.parent, ignore_errors=True)
        self.out.parent.mkdir(parents=True)
        if self.kind in ("force", "verify", "lava"):
            shutil.copytree(self.saved, self.out)
        elif self.kind == "resume" and share is not None:
            while not fork(lambda: self._export(self.out), share.uniform(0.2, 0.8) * self.seconds):
                shutil.rmtree(self.out)
                self.seconds *= 0.9

    def _run(self) -> None:
        if self.kind in ("verify", "lava"):
            verify_and_tell(self.out, backend="reference" if self.kind == "verify" else "lava").require()
        else:
            self._export(self.out, resume=self.kind == "resume", force=self.kind == "force")

    def _again(self) -> None:
        if self.kind == "fresh":
            self._export(self.out, resume=True)
        else:
            self._run()

    def _export(self, out: Path, seq_len: int = 32, resume: bool = False, force: bool = False) -> None:
        output = Output(layers=(0, 1), resume=resume, force=force)
        export("demo", out, "fast", Sample(rows=4, tokens=seq_len), output=output)

    def _orphans(self, when: str) -> None:
        """Nothing of a run outlives it by long: neither a process (they become ours) nor shared memory."""
        deadline = time.monotonic() + _LEAVE
        while (children() or self._segments()) and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.05)
        if children():
            self.problems.append(f"{when}: the processes {children()} live on")
        left = self._segments()
        if left:
            self.problems.append(f"{when}: {len(left)} segments of shared memory are left, {min(left)} among them")

    def _segments(self) -> list[str]:
        return os.listdir(_SHARED_MEMORY) if self._private else []


def fork(work: Callable[[], None], moment: float | None = None, behind: Path | None = None) -> int:
    """Run in a child and, if given, kill it after as many seconds, counted from when the file `behind` is there; returns its
    exit code, or the signal below zero."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    while behind is not None and not behind.exists() and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.0002)
    if moment is not None:
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def children() -> list[int]:
    """Processes below this one: those that lose their parent come here, too."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def private_shared_memory() -> bool:
    """Have shared memory of our own, so that all that is in it is ours; False where the system does not allow it."""
    if sys.platform != "linux" or ctypes.CDLL(None).unshare(_CLONE_NEWNS):
        return False
    mounts = (["--make-rprivate", "/"], ["-t", "tmpfs", "tmpfs", str(_SHARED_MEMORY)])
    return not any(subprocess.run(["mount", *mount], capture_output=True).returncode for mount in mounts)


def contents(out: Path) -> dict[str, str]:
    """Hash of every file."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def digest_at(out: Path) -> str:
    """Of a whole bundle; what is none has a word in its place."""
    if not out.exists():
        return "nothing"
    try:
        bundle = Bundle(out)
        return "damaged" if bundle.damaged_files() else bundle.digest()
    except KirinError:
        return "no bundle"


def campaign(kills: dict[str, int], seed: int, top: Path, tell: Callable[[str], None]) -> list[Trial]:
    """So many kills of each kind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    private = private_shared_memory()
    if not private:
        tell("shared memory is not looked at: it is that of all programs (root could have some of its own)")
    trials = []
    for kind, count in kills.items():
        if kind == "lava" and len(lava_versions()) < 2:
            tell("lava: not installed, left out")
            continue
        moments, trial = random.Random(f"{seed} {kind}"), Trial(kind, top, private)
        for _ in range(10 * count):
            if trial.kills < count:
                trial.kill(moments)
        tell(trial.line())
        for problem in trial.problems:
            tell(f"    {problem}")
        trials.append(trial)
    return trials


def main() -> None:
    """Print a line per kind and a total."""
    parser = argparse.ArgumentParser(description="Exports and verifications, killed at random moments.")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--scale", type=float, default=1.0, help="so many times the usual number of kills")
    parser.add_argument("--only", nargs="+", choices=list(KILLS), default=list(KILLS), help="these kinds of runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kills = {kind: max(1, round(arguments.scale * KILLS[kind])) for kind in arguments.only}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trials = campaign(kills, arguments.seed, Path(folder), lambda line: print(line, flush=True))
    problems = sum(len(trial.problems) for trial in trials)
    total = sum(trial.kills for trial in trials)
    print(f"{total} kills with seed {arguments.seed} in {time.monotonic() - started:.0f} s, {problems} problems")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
