"""The quality table on stories260K: recipes with and without recovery, and rivals at equal bits.

Run: python benchmarks/stories260k.py [DATA] [--write]      DATA holds stories260K-hf/ and text/, ../shared/data by default

Recipes that cannot take its gated layers have a table of their own, on the embedded model that has none. With --write the
numbers of the recipes go where `kirin-lava --help` reads them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from kirin_lava.base.console import print_table
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.methods.recipes import DEFAULT_RECIPE, MEASURED, recipe_digest, recipe_names
from kirin_lava.tasks.options import Sample, Training
from kirin_lava.tasks.quality.compare import compare
from kirin_lava.tasks.quality.contenders import Comparison

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
_FITTING = [name for name in recipe_names() if not load_recipe(name).method.needs_activation]  # the model's layers are gated
RECIPES = (DEFAULT_RECIPE, *(name for name in _FITTING if name != DEFAULT_RECIPE))  # the first is also trained
RECOVER = "distill"
UNGATED = "demo-opt"
OTHERS = tuple(name for name in recipe_names() if name not in RECIPES)


def measured(result: Comparison, others: Comparison) -> dict[str, Any]:
    """What `kirin_lava.methods.recipes.recipe_help` reads.

    Args:
        result: of `RECIPES`, and the first once more with `RECOVER`. others: of `OTHERS`.
    """
    runs = _runs(result, [*((name, "none") for name in RECIPES), (RECIPES[0], RECOVER)])
    return {"threads": torch.get_num_threads(), "runs": runs + _runs(others, [(name, "none") for name in OTHERS])}


def _runs(result: Comparison, runs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "model": result.model,
            "text": result.text,
            "rows": result.rows,
            "recipe": name,
            "recover": recover,
            "digest": recipe_digest(name),
            "setting": load_recipe(name).setting,
            "window": row.window,
            "perplexity_ratio": row.perplexity_ratio,
            "outlier_share": row.outlier_share,
            "synapse_bits": row.synapse_bits,
            "chips": row.chips,
            "steps": row.steps_per_token,
            "seconds": row.seconds,
        }
        for (name, recover), row in zip(runs, result.contenders[: len(runs)], strict=True)
    ]


def beside() -> Comparison:
    """`OTHERS` on the embedded model that they convert."""
    return compare(UNGATED, OTHERS)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Recipes and rivals on stories260K.")
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="folder that holds stories260K-hf/ and text/")
    parser.add_argument("--write", action="store_true", help=f"write {MEASURED.name}, the numbers in kirin-lava --help")
    arguments = parser.parse_args()
    model, text = arguments.data / "stories260K-hf", arguments.data / "text"
    if not model.is_dir():
        sys.exit(f"{arguments.data} has no stories260K-hf: give the folder that holds it")
    result = compare(
        str(model),
        RECIPES,
        text=text / "tinystories-eval.txt",
        sample=Sample(text / "tinystories-calibration.txt", rows=264),
        training=Training(RECOVER),
        max_rows=66,
        rivals=True,
        progress=lambda what, done, total: print(f"{done}/{total} {what}", file=sys.stderr, flush=True),
    )
    others = beside()
    print_table(result.table())
    print_table(others.table())
    if arguments.write:
        MEASURED.write_text(json.dumps(measured(result, others), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
