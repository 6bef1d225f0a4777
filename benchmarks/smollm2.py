"""The quality table on a real language model: SmolLM2-135M-Instruct, WikiText-2, recipes of every kind.

Run: python benchmarks/smollm2.py [RECIPE...] [--windows 40] [--rows 128] [--data FOLDER]     FOLDER holds text/

The test text of WikiText-2 is read as one stream. Its first 40 windows of 2,048 tokens, without overlap, are evaluated; with
--length 512, as many shorter ones, spread over the same text. Rows of 512 tokens of what follows are calibrated on. Ratios are
to the same dequantised weights in float32: the file keeps them in 4 bits already. Without recipes named, all of them, and the
most faithful once more with 3 % of messages. Takes hours on two cores, some 20 minutes for a recipe; less with --windows 10.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from kirin_lava.base.console import print_table
from kirin_lava.methods.recipe import Recipe, load_recipe
from kirin_lava.methods.recipes import recipe_names
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.tasks.options import Sample
from kirin_lava.tasks.quality.compare import compare

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
LENGTH, CALIBRATED = 2048, 512
FAITHFUL, FEW = "kirin-w8a5-12", 0.03


def chosen(names: list[str]) -> list[Recipe]:
    """The recipes called so, or all, and the most faithful with few messages."""
    faithful = load_recipe(FAITHFUL)
    outliers = replace(faithful.options.outliers, ratio=FEW)
    few = replace(faithful, name=f"{FAITHFUL}, {100 * FEW:g} %", options=replace(faithful.options, outliers=outliers))
    known = {recipe.name: recipe for recipe in [*map(load_recipe, recipe_names()), few]}
    known = {name: recipe for name, recipe in known.items() if not recipe.method.needs_activation}  # its layers are gated
    return [known.get(name) or load_recipe(name) for name in names or known]


def parts(model: str, text: str, windows: int) -> tuple[str, str]:
    """What is evaluated, and what follows it, cut at the end of a line."""
    tokenizer = open_checkpoint(model).tokenizer()
    spans = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False).offset_mapping
    if len(spans) < 2 * windows * LENGTH:
        sys.exit(f"the text has {len(spans)} tokens, too few for {windows} windows and as many to calibrate on")
    end = text.index("\n", spans[windows * LENGTH][1]) + 1
    return text[:end], text[end:]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Recipes on SmolLM2-135M.")
    parser.add_argument("recipes", nargs="*", help="names or files; all by default")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds text/")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--windows", type=int, default=40, help="evaluated")
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of a window")
    parser.add_argument("--rows", type=int, default=128, help=f"of {CALIBRATED} tokens, calibrated on")
    arguments = parser.parse_args()
    text = (arguments.data / "text" / "wikitext2-test.raw").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        judged, learned = Path(folder) / "wikitext2-test, first part.txt", Path(folder) / "rest.txt"
        for path, part in zip((judged, learned), parts(arguments.model, text, arguments.windows), strict=True):
            path.write_text(part, encoding="utf-8")
        result = compare(
            arguments.model,
            chosen(arguments.recipes),
            text=judged,
            sample=Sample(learned, rows=arguments.rows, tokens=CALIBRATED),
            max_rows=arguments.windows,
            window=arguments.length,
            progress=lambda what, done, total: print(f"{done}/{total} {what}", file=sys.stderr, flush=True),
        )
    print_table(result.table())


if __name__ == "__main__":
    main()
