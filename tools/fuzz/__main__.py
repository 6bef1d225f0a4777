"""Damage files, run the commands that read them, and judge: exit 0 with the same result, or one line with an exit code of ours.

    python -m tools.fuzz                        ten minutes of cases from seed 0 (or: make fuzz)
    python -m tools.fuzz --seed 3 --only 712    one case again, with all it printed; its files stay in --folder

Commands run in forked children of this process, each with 30 s and 4 GB. Exit code 1 where a case was wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from tools.fuzz.cases import KINDS, Campaign, Case
from tools.fuzz.run import MEMORY, SECONDS

_BYTES = 2**20


def load() -> None:
    """Import once what every command needs, so that a forked child need not."""
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", COLUMNS="120", NO_COLOR="1")
    torch.set_num_threads(1)
    import kirin_lava.tasks.export
    import kirin_lava.tasks.generate
    import kirin_lava.tasks.inspect.bundle
    import kirin_lava.tasks.inspect.net
    import kirin_lava.tasks.plan
    import kirin_lava.tasks.quality.evaluate
    import kirin_lava.tasks.report
    import kirin_lava.tasks.report.make
    import kirin_lava.tasks.verify  # noqa: F401


def summary(cases: list[Case]) -> list[str]:
    """A line per kind of input: cases, exit codes, the slowest and the largest."""
    lines = [f"{'damaged':<11} {'cases':>5}  {'wrong':>5}  {'worst s':>7}  {'worst MB':>8}  exit codes"]
    for name in [*KINDS, "all"]:
        of = [case for case in cases if name in (case.kind, "all")]
        if of:
            codes = " ".join(f"{code}: {count}" for code, count in sorted(Counter(case.ran.code for case in of).items()))
            worst = max(case.ran.seconds for case in of), max(case.ran.memory for case in of) / _BYTES
            wrong = sum(case.fault is not None for case in of)
            lines.append(f"{name:<11} {len(of):>5}  {wrong:>5}  {worst[0]:>7.1f}  {worst[1]:>8.0f}  {codes}")
    return lines


def describe(case: Case, seed: int) -> str:
    """A case in one line, with what makes it again."""
    command = " ".join(["kirin-lava", *case.arguments])
    return f"--seed {seed} --only {case.number} | {case.damage} | {command} | exit {case.ran.code} | {case.fault or 'right'}"


def main() -> int:
    """The campaign; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600, help="end after so long (600)")
    parser.add_argument("--cases", type=int, default=10**9, help="or after so many cases")
    parser.add_argument("--seed", type=int, default=0, help="of all cases (0)")
    parser.add_argument("--only", type=int, metavar="N", help="run case N alone")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    options = parser.parse_args()
    load()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kirin-fuzz-"))
    start = time.monotonic()
    shutil.rmtree(folder / "sources", ignore_errors=True)
    campaign = Campaign(folder, options.seed)
    cases: list[Case] = []
    try:
        if options.only is not None:
            case = campaign.case(options.only)
            print(describe(case, options.seed), case.ran.out, case.ran.err, sep="\n")
            print(f"files: {folder / 'case'}")
            return int(case.fault is not None)
        while time.monotonic() - start < options.seconds and len(cases) < options.cases:
            case = campaign.case(len(cases))
            cases.append(case)
            if case.fault is not None:
                print(describe(case, options.seed), flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        if options.only is None and options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(summary(cases)))
    print(f"limits: {SECONDS} s, {MEMORY >> 30} GB; seed {options.seed}, {time.monotonic() - start:.0f} s")
    return int(any(case.fault is not None for case in cases))


if __name__ == "__main__":
    sys.exit(main())
