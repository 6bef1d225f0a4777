"""Change one line of the core at a time and see whether a test notices.

    python -m tools.mutants                          200 mutants over all modules of modules.yaml (or: make mutants)
    python -m tools.mutants --only gptq --sample 0   every place of the modules whose path has this in it

The modules, and which tests see each, are in modules.yaml; survivors.yaml says of each that lived why it may. Works on a copy
of the repository. Exit code 1 where less than 90 % died, or one lives that survivors.yaml does not know.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tools.mutants.places import Mutant, sample

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
LEAST = 0.9
EQUAL = "equal: "  # so begins the explanation of a mutant that computes the same
_LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "shared")
_OPTIONS = "-x -q --no-header --tb=no -p no:cacheprovider -p tools.mutants.plugin --hypothesis-profile first-failure".split()
_PATIENCE = 3  # times what the tests take without a mutant, and so many seconds more
_MORE = 20


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


def run_tests(copy: Path, tests: list[str], limit: float) -> str:
    """ "passed", "failed", "hung" or "broken" (nothing was collected), by a forked child in a group of its own."""
    pid = os.fork()
    if pid == 0:
        _child(copy, tests)
    deadline = time.monotonic() + limit
    try:
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                code = os.waitstatus_to_exitcode(status)
                return {0: "passed", 5: "broken", 4: "broken"}.get(code, "failed")
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return "hung"
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _child(copy: Path, tests: list[str]) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
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


def known_survivors() -> dict[tuple[str, str, str], str]:
    """Why a change may live, by module and by the line before and after it; "*" for any change of that line."""
    entries = yaml.safe_load((HERE / "survivors.yaml").read_text(encoding="utf-8")) or []
    return {(entry["module"], entry["before"], entry["after"]): entry["why"] for entry in entries}


def main() -> int:
    """Sample, run, tell; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=200, metavar="N", help="places to try (200); 0: all, which takes hours")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--only", default="", metavar="WORD", help="modules with this word in their path")
    parser.add_argument("--list", action="store_true", help="show the sample and run nothing")
    options = parser.parse_args()
    tests_of: dict[str, list[str]] = yaml.safe_load((HERE / "modules.yaml").read_text(encoding="utf-8"))
    modules = [module for module in tests_of if options.only in module]
    mutants, total = sample(ROOT, modules, options.sample or 10**9, options.seed)
    print(
        f"{len(mutants)} places, one change each, of {total} mutants in {len(modules)} modules; seed {options.seed}", flush=True
    )
    if options.list:
        print("\n".join(mutant.words for mutant in mutants))
        return 0
    load()
    with tempfile.TemporaryDirectory(prefix="kirin-mutants-") as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=_LEFT_OUT)
        return _campaign(copy, mutants, tests_of)


def _campaign(copy: Path, mutants: list[Mutant], tests_of: dict[str, list[str]]) -> int:
    limits: dict[str, float] = {}
    known, start = known_survivors(), time.monotonic()
    results: dict[str, list[int]] = {}
    alive: list[tuple[Mutant, str | None]] = []
    for mutant in mutants:
        tests = tests_of[mutant.module]
        if mutant.module not in limits:
            before = time.monotonic()
            if run_tests(copy, tests, 1800) != "passed":
                print(f"{mutant.module}: its tests fail without a mutant: {' '.join(tests)}", file=sys.stderr)
                return 2
            limits[mutant.module] = _PATIENCE * (time.monotonic() - before) + _MORE
        path = copy / mutant.module
        source = path.read_text()
        path.write_text(mutant.code(source))
        try:
            outcome = run_tests(copy, tests, limits[mutant.module])
        finally:
            path.write_text(source)
        counts = results.setdefault(mutant.module, [0, 0])
        counts[0] += 1
        if outcome != "passed":
            print(f"{outcome}: {mutant.words}", flush=True)
        else:
            counts[1] += 1
            why = next(
                (known[key] for end in (mutant.after, "*") if (key := (mutant.module, mutant.before, end)) in known), None
            )
            alive.append((mutant, why))
            print(f"lives: {mutant.words}  [{why or 'not explained'}]", flush=True)
    tried, lived = (sum(column) for column in zip(*results.values(), strict=True))
    equal = sum((why or "").startswith(EQUAL) for _, why in alive)
    unknown = sum(why is None for _, why in alive)
    for module, (count, left) in results.items():
        print(f"{module:<45} {count - left:>4} of {count:>4} died")
    score = (tried - lived) / max(tried - equal, 1)
    print(f"{tried - lived} of {tried} died; {lived} live, {equal} equal, {lived - equal - unknown} allowed, {unknown} unknown")
    print(f"score {100 * score:.1f} % of those that change something")
    print(f"{time.monotonic() - start:.0f} s")
    return int(score < LEAST or unknown > 0)


if __name__ == "__main__":
    sys.exit(main())
