"""Recipes with a host in float32 and with neurons in its place, side by side: what integers between the segments cost.

Both convert the same model on the same text, and see the same rows. The integers differ where a value lies at the border of two
codes; what the units and tables lose is far below a code.

Run: python benchmarks/without_host.py [DATA] [--rows N] [--recipes NAME ..]      DATA holds stories260K-hf/ and text/
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from benchmarks.small_models import models_of, options
from kirin_lava.base.console import print_table
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Executor
from kirin_lava.hardware.placement import place
from kirin_lava.hardware.shapes import shape_of_model
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.models.calibration_text import draw_sample
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.text import read_text, token_rows
from kirin_lava.quantize.convert import convert_model
from kirin_lava.tasks.quality.evaluate import score_all
from kirin_lava.tasks.quality.original import load_original

RECIPES = ("kirin-w4a4-8", "kirin-w8a5-12", "spikellm-w4a4")
LENGTH = 256


@dataclass(frozen=True)
class Line:
    """A recipe with either host: perplexity against float32, KL, top-1, float and integer operations per token, cores."""

    recipe: str
    host: str
    ratio: float
    kl: float
    top1: float
    floats: float
    integers: float
    cores: int


def lines(checkpoint: Checkpoint, recipes: list[str], calibration: Path, evaluation: Path, rows: int) -> list[Line]:
    """Every recipe with a host, then without, on one model and one text."""
    tokenizer, length = checkpoint.tokenizer(), min(LENGTH, checkpoint.dimensions.max_positions)
    drawn = draw_sample(tokenizer, read_text(calibration), length, 2 * rows, 0).rows
    every = token_rows(tokenizer, read_text(evaluation), length)
    some = [every[len(every) * i // rows] for i in range(rows)] if rows < len(every) else every
    chosen = [(name, host, replace(load_recipe(name), host=host)) for name in recipes for host in ("float", "spikes")]
    models = [convert_model(checkpoint, drawn, recipe) for _, _, recipe in chosen]
    counters = [Counter() for _ in models]
    networks = [Executor(model, observer=counter) for model, counter in zip(models, counters, strict=True)]
    original = load_original(checkpoint, some[0])
    scores = score_all(networks, lambda ids: original(ids).logits, some)
    found = []
    for (name, host, _), model, counter, sums in zip(chosen, models, counters, scores, strict=True):
        total, cores = counter.result().total(), len(place(shape_of_model(model), length).cores)
        floats, integers = total["host_float_operations_per_token"], total["integer_operations_per_token"]
        ratio, tokens = sums.perplexity / sums.perplexity_float, sums.tokens
        found.append(Line(name, host, ratio, sums.kl / tokens, sums.agreed / tokens, floats, integers, cores))
    return found


def main() -> None:
    """Print a table per model."""
    parser = options("Recipes with and without a host.")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    arguments = parser.parse_args()
    for name, calibration, evaluation in models_of(arguments.data):
        checkpoint = open_checkpoint(name)
        table = Table(title=f"{checkpoint.name}: perplexity against float32, per host")
        for column in ("recipe", "host", "ratio", "KL", "top-1", "float ops", "integer ops", "cores"):
            table.add_column(column, justify="left" if column in ("recipe", "host") else "right")
        for line in lines(checkpoint, arguments.recipes, calibration, evaluation, arguments.rows):
            quality = (f"x{line.ratio:.4f}", f"{line.kl:.4f}", f"{100 * line.top1:.1f} %")
            table.add_row(line.recipe, line.host, *quality, f"{line.floats:,.0f}", f"{line.integers:,.0f}", str(line.cores))
        print_table(table)


if __name__ == "__main__":
    main()
