"""What FAS costs on the embedded OPT model, and what fitting its thresholds and fine-tuning gain.

Run: python benchmarks/fas.py [--levels 4 8] [--steps 100]      0 steps: without fine-tuning, which takes minutes

Every conversion is repeatable: rows are drawn, and training is ordered, by fixed seeds. All are evaluated on the same rows.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from kirin_lava.base.console import print_table
from kirin_lava.methods.fas import FasOptions
from kirin_lava.methods.recipe import Recipe, RecoverySpec, load_recipe
from kirin_lava.tasks.quality.compare import compare

MODEL, RECIPE = "demo-opt", "fas-w8a8"
FITS = ("none", "layer", "neuron")


def variants(levels: list[int], steps: int) -> list[Recipe]:
    """The recipe with every way to fit, and with fine-tuning after the last, for each number of levels."""
    base = load_recipe(RECIPE)
    found = []
    for number in levels:
        fits = [replace(base, name=f"{number} levels, fit: {fit}", options=FasOptions(number, fit)) for fit in FITS]
        found += fits
        if steps:
            found.append(replace(fits[-1], name=f"{number} levels, tuned", recovery=RecoverySpec("distill", steps)))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="FAS on demo-opt: levels, fits, fine-tuning.")
    parser.add_argument("--levels", type=int, nargs="+", default=[4, 8], choices=[4, 8, 16])
    parser.add_argument("--steps", type=int, default=100, help="of fine-tuning; 0 leaves it out")
    arguments = parser.parse_args()
    result = compare(
        MODEL,
        variants(arguments.levels, arguments.steps),
        progress=lambda what, done, total: print(f"{done}/{total} {what}", file=sys.stderr, flush=True),
    )
    print_table(result.table())


if __name__ == "__main__":
    main()
