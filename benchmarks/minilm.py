"""A real sentence encoder: all-MiniLM-L6-v2 on 500 sentences of WikiText-2, converted against float32.

Run: python benchmarks/minilm.py [RECIPE...] [--sentences 500] [--rows 400] [--length 40] [--train 300] [--data FOLDER]
                                                                                  FOLDER holds text/

The test text of WikiText-2 is cut in the middle. Sentences of the first half, evenly spread, are evaluated; passages of the
second half are calibrated on, cut to 40 tokens, which is about the length of a sentence. Recipes with 4-bit weights are trained
block by block for 300 steps after rounding, too. Limits: a mean cosine of at least 0.98 with 4-bit weights and 0.995 with 8,
and the same nearest neighbour for at least 90 % and 97 % of the sentences.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from kirin_lava.base.console import print_table
from kirin_lava.graph.executor import Executor
from kirin_lava.methods.recipe import Recipe, load_recipe
from kirin_lava.models.calibration_text import draw_sample
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.sentences import sentences, tokens_of
from kirin_lava.quantize.convert import convert_model
from kirin_lava.tasks.quality.encoders import nearness, original_vectors
from kirin_lava.tasks.quality.original import load_encoder
from kirin_lava.tasks.vectors import longest_text, vectors

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
RECIPES = ("kirin-w4a4-8", "kirin-w4a4-12", "kirin-w4a5-12", "kirin-w8a5-12", "las-w8a12")
LIMITS = {4: (0.98, 0.90), 8: (0.995, 0.97)}
"""By bits of a weight: mean cosine, share of equal neighbours."""


def chosen(names: list[str], steps: int) -> list[Recipe]:
    """The recipes, and those with 4-bit weights once more with training."""
    found = [load_recipe(name) for name in names or RECIPES]
    trained = [
        replace(r, name=f"{r.name}, trained", recovery=replace(r.recovery, method="blocks", steps=steps))
        for r in found
        if steps and r.weights.bits == 4
    ]
    return [*found, *trained]


def main() -> None:
    """Print the table; exit code 1 where no recipe of a width keeps its limits."""
    parser = argparse.ArgumentParser(description="Recipes on all-MiniLM-L6-v2.")
    parser.add_argument("recipes", nargs="*", help=f"names or files; {', '.join(RECIPES)} by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds text/")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument("--rows", type=int, default=400, help="calibrated on")
    parser.add_argument("--length", type=int, default=40, help="tokens of such a row, at most")
    parser.add_argument("--train", type=int, default=300, help="steps; 0 trains nothing")
    arguments = parser.parse_args()
    text = (arguments.data / "text" / "wikitext2-test.raw").read_text(encoding="utf-8")
    middle = text.index("\n", len(text) // 2) + 1
    checkpoint = open_checkpoint(arguments.model)
    tokenizer, facts = checkpoint.tokenizer(), checkpoint.facts()
    found = sentences(text[:middle])
    few = [found[len(found) * i // arguments.sentences] for i in range(arguments.sentences)]
    rows = tokens_of(tokenizer, few, longest_text(facts, checkpoint.dimensions.max_positions))
    sample = draw_sample(tokenizer, text[middle:], arguments.length, arguments.rows, 0, encoder=True).rows
    network = load_encoder(checkpoint, max(rows, key=len))
    quiet = lambda what, done, total: None  # noqa: E731
    theirs = original_vectors(network, rows, facts, quiet)
    table = Table(title=f"{checkpoint.name}: {len(rows)} sentences, {sum(map(len, rows))} tokens, against float32")
    for column in ("recipe", "cosine, mean", "lowest", "same neighbour", "seconds"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    kept: dict[int, bool] = {}
    for recipe in chosen(arguments.recipes, arguments.train):
        start = time.monotonic()
        model = convert_model(checkpoint, sample, recipe)
        near = nearness(vectors(Executor(model).states, rows, facts, False, quiet), theirs)
        cosine, neighbours = LIMITS[recipe.weights.bits]
        fine = near.cosine >= cosine and near.neighbours >= neighbours
        kept[recipe.weights.bits] = kept.get(recipe.weights.bits, False) or fine
        numbers = f"{near.cosine:.4f}", f"{near.lowest:.4f}", f"{100 * near.neighbours:.1f} %"
        table.add_row(recipe.name, *numbers, f"{time.monotonic() - start:.0f}")
        print(recipe.name, *numbers, file=sys.stderr, flush=True)
    print_table(table)
    for bits, fine in kept.items():
        cosine, neighbours = LIMITS[bits]
        limit = f"cosine {cosine}, {100 * neighbours:g} % of the neighbours"
        print(f"{bits}-bit weights: {limit}: {'kept' if fine else 'MISSED'}")
    sys.exit(0 if all(kept.values()) else 1)


if __name__ == "__main__":
    main()
