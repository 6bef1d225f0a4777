"""Change one line of the core at a time and see whether a test notices.

    python -m tools.mutants                            8 places of every module of modules.yaml (or: make mutants)
    python -m tools.mutants --only gptq --sample 50    more of the modules whose path has this in it

The modules, and which tests see each, are in modules.yaml; survivors.yaml says of each that lived why it may. Works on copies
of the repository, as many at a time as there are processors. Exit code 1 where less than 90 % died, or one lives that
survivors.yaml does not know.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import yaml

from tools.mutants.places import Mutant, sample
from tools.mutants.run import Limits, Running, load

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
LEAST = 0.9
EQUAL = "equal: "  # so begins the explanation of a mutant that computes the same
_LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "shared")
_UNCHANGED = Limits(600, 1800)


@dataclass(frozen=True)
class Job:
    """Tests to run: of a module as it is, or of one of its mutants."""

    tests: list[str]
    limits: Limits
    mutant: Mutant | None = None


def known_survivors() -> dict[tuple[str, str, str], str]:
    """Why a change may live, by module and by the line before and after it; "*" for any change of that line, or any module."""
    entries = yaml.safe_load((HERE / "survivors.yaml").read_text(encoding="utf-8")) or []
    return {(entry["module"], entry["before"], entry["after"]): entry["why"] for entry in entries}


def main() -> int:
    """Sample, run, tell; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sample", type=int, default=8, metavar="N", help="places of each module (8); 0: all, which takes hours"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--only", default="", metavar="WORD", help="modules with this word in their path")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="at a time (processors)")
    parser.add_argument("--list", action="store_true", help="show the sample and run nothing")
    options = parser.parse_args()
    tests_of: dict[str, list[str]] = yaml.safe_load((HERE / "modules.yaml").read_text(encoding="utf-8"))
    modules = [module for module in tests_of if options.only in module]
    mutants, total = sample(ROOT, modules, options.sample or 10**9, options.seed)
    print(
        f"{len(mutants)} places, one change each, of {total} mutants in {len(modules)} modules; seed {options.seed}, "
        f"{options.sample or 'all'} places of a module",
        flush=True,
    )
    if options.list:
        print("\n".join(mutant.words for mutant in mutants))
        return 0
    load()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kirin-mutants-") as folder:
        copies = [Path(folder) / str(number) for number in range(max(1, options.jobs))]
        for copy in copies:
            shutil.copytree(ROOT, copy, symlinks=True, ignore=_LEFT_OUT)
        code = _campaign(copies, mutants, tests_of)
    print(f"{time.monotonic() - start:.0f} s")
    return code


def _campaign(copies: list[Path], mutants: list[Mutant], tests_of: dict[str, list[str]]) -> int:
    spent: dict[str, tuple[float, float]] = {}
    bad = []

    def unchanged(job: Job, ran: Running) -> None:
        spent[str(job.tests)] = ran.cpu, ran.wall
        if ran.outcome != "passed":
            bad.append(job.tests)

    modules = list(dict.fromkeys(mutant.module for mutant in mutants))
    distinct = {str(part): part for module in modules for part in file_by_file(tests_of[module])}
    run_all(copies, [Job(tests, _UNCHANGED) for tests in distinct.values()], unchanged)
    if bad:
        for tests in bad:
            print(f"these tests fail without a mutant: {' '.join(tests)}", file=sys.stderr)
        return 2
    limits = {
        module: Limits.after(*map(sum, zip(*(spent[str(part)] for part in file_by_file(tests_of[module])), strict=True)))
        for module in modules
    }
    known = known_survivors()
    results: dict[str, list[float]] = {module: [0, 0, 0] for module in modules}
    alive: list[str | None] = []

    def tried(job: Job, ran: Running) -> None:
        assert job.mutant is not None
        mutant, counts = job.mutant, results[job.mutant.module]
        counts[0] += 1
        counts[2] += ran.wall
        if ran.outcome != "passed":
            print(f"{ran.outcome}: {mutant.words}", flush=True)
            return
        keys = ((module, mutant.before, after) for module in (mutant.module, "*") for after in (mutant.after, "*"))
        why = next((known[key] for key in keys if key in known), None)
        counts[1] += 1
        alive.append(why)
        print(f"lives: {mutant.words}  [{why or 'not explained'}]", flush=True)

    jobs = [Job(tests_of[mutant.module], limits[mutant.module], mutant) for mutant in mutants]
    run_all(copies, jobs, tried)
    return _tell(results, alive)


def file_by_file(tests: list[str]) -> list[list[str]]:
    """Tests of a module, each file for itself with the options behind the files: many modules share them."""
    files = list(takewhile(lambda word: not word.startswith("-"), tests))
    return [[file, *tests[len(files) :]] for file in files]


def run_all(copies: list[Path], jobs: Iterable[Job], tell: Callable[[Job, Running], None]) -> None:
    """Run jobs in order, one in each copy at a time; `tell` hears of each that ended. A copy is as before when a job ends."""
    waiting = iter(jobs)
    free, busy = list(copies), list[tuple[Job, Running, str]]()
    try:
        while True:
            while free and (job := next(waiting, None)) is not None:
                copy, source = free.pop(), ""
                if job.mutant is not None:
                    source = (copy / job.mutant.module).read_text()
                    (copy / job.mutant.module).write_text(job.mutant.code(source))
                busy.append((job, Running(copy, job.tests, job.limits), source))
            if not busy:
                return
            for entry in [entry for entry in busy if entry[1].poll()]:
                job, ran, source = entry
                busy.remove(entry)
                free.append(ran.copy)
                if job.mutant is not None:
                    (ran.copy / job.mutant.module).write_text(source)
                tell(job, ran)
            time.sleep(0.02)
    finally:
        for _, ran, _ in busy:
            ran.stop()


def _tell(results: dict[str, list[float]], alive: list[str | None]) -> int:
    """The table; returns the exit code."""
    tried, lived = sum(int(counts[0]) for counts in results.values()), len(alive)
    equal, unknown = sum((why or "").startswith(EQUAL) for why in alive), alive.count(None)
    for module, (count, left, seconds) in results.items():
        print(f"{module:<45} {count - left:>4.0f} of {count:>4.0f} died  {seconds:>5.0f} s")
    score = (tried - lived) / max(tried - equal, 1)
    print(f"{tried - lived} of {tried} died; {lived} live, {equal} equal, {lived - equal - unknown} allowed, {unknown} unknown")
    print(f"score {100 * score:.1f} % of those that change something")
    return int(score < LEAST or unknown > 0)


if __name__ == "__main__":
    sys.exit(main())
