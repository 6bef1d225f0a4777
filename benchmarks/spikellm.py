"""SpikeLLM as integers and in its own float form, with Kirin beside it, on the small models.

The float form has the same codes and the same rounded weights, multiplied as real numbers: what a simulation computes. The
integers may differ from it where a value lies at the border of two codes, and nowhere else.

Run: python benchmarks/spikellm.py [DATA] [--rows N]      DATA holds stories260K-hf/ and text/; without it: the embedded models
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.small_models import models_of, options
from kirin_lava.base.console import print_table
from kirin_lava.graph.executor import Executor
from kirin_lava.methods.recipe import Recipe, load_recipe
from kirin_lava.models import float_model
from kirin_lava.models.calibration_text import draw_sample
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.layout import Dense, FloatBlock
from kirin_lava.models.text import read_text, token_rows
from kirin_lava.quantize.calibrate import calibrate
from kirin_lava.quantize.convert import convert_model, rotary_of
from kirin_lava.quantize.lower import corrected, round_block
from kirin_lava.quantize.sites import Calibration, Coded, Sites
from kirin_lava.tasks.quality.evaluate import Network, score_all
from kirin_lava.tasks.quality.original import load_original

RECIPES = ("spikellm-w4a4", "spikellm-w4a4-t4", "spikellm-kv8")
BESIDE = ("kirin-w4a4-8", "kirin-w4a4-12")
LENGTH = 256


class _Rounded(Coded):
    """The float model with coded values and rounded weights."""

    def __init__(self, sites: Sites, weights: dict[str, Tensor]):
        super().__init__(sites)
        self._weights = weights

    def weight(self, op: Dense) -> Tensor:
        return self._weights[op.name]


class FloatForm:
    """A model in the float form of a recipe whose layers do not fire. `forward` is that of the executor."""

    device = torch.device("cpu")

    def __init__(self, checkpoint: Checkpoint, tokens: Sequence[Tensor], recipe: Recipe):
        family, config = checkpoint.family, checkpoint.config
        self._embedding = family.embedding(config, checkpoint.load)
        self._rotary = rotary_of(checkpoint)
        self._blocks: list[tuple[FloatBlock, _Rounded]] = []
        rows = [float_model.embed(self._embedding, row.unsqueeze(0)) for row in tokens]
        for index in range(checkpoint.dimensions.layers):
            block = family.block(config, index, checkpoint.load)
            calibration, rows = calibrate(block, rows, self._rotary, recipe)
            self._add(block, recipe, calibration)
        self._add(family.head(config, checkpoint.load), recipe, Calibration())

    def _add(self, block: FloatBlock, recipe: Recipe, calibration: Calibration) -> None:
        codes = round_block(block, recipe, calibration)
        block = corrected(block, recipe, calibration, codes)
        weights = {name: torch.from_numpy(code.dequantized()) for name, code in codes.items()}
        self._blocks.append((block, _Rounded(Sites(block, recipe, calibration), weights)))

    @torch.inference_mode()
    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, vocabulary) logits."""
        x = float_model.embed(self._embedding, tokens)
        for block, arithmetic in self._blocks:
            x = float_model.run_block(block, x, self._rotary, arithmetic=arithmetic)
        return x


@dataclass(frozen=True)
class Line:
    """A recipe: perplexity against float32, as integers and in float form (None where it was not computed), KL, top-1."""

    recipe: str
    ratio: float
    float_form: float | None
    kl: float
    top1: float


def lines(checkpoint: Checkpoint, calibration: Path, evaluation: Path, rows: int) -> list[Line]:
    """All recipes on one model and one text."""
    tokenizer, length = checkpoint.tokenizer(), min(LENGTH, checkpoint.dimensions.max_positions)
    drawn = draw_sample(tokenizer, read_text(calibration), length, 2 * rows, 0).rows
    every = token_rows(tokenizer, read_text(evaluation), length)
    some = [every[len(every) * i // rows] for i in range(rows)] if rows < len(every) else every
    names = (*RECIPES, *BESIDE)
    networks: list[Network] = [Executor(convert_model(checkpoint, drawn, load_recipe(name))) for name in names]
    networks += [FloatForm(checkpoint, drawn, load_recipe(name)) for name in RECIPES]
    original = load_original(checkpoint, some[0])
    found = score_all(networks, lambda ids: original(ids).logits, some)
    ratios = [sums.perplexity / sums.perplexity_float for sums in found]
    simulated = dict(zip(RECIPES, ratios[len(names) :], strict=True))
    return [
        Line(name, ratio, simulated.get(name), sums.kl / sums.tokens, sums.agreed / sums.tokens)
        for name, ratio, sums in zip(names, ratios, found, strict=False)
    ]


def main() -> None:
    """Print a table per model."""
    arguments = options("SpikeLLM as integers and in float.").parse_args()
    for name, calibration, evaluation in models_of(arguments.data):
        checkpoint = open_checkpoint(name)
        table = Table(title=f"{checkpoint.name}: perplexity against float32")
        for column in ("recipe", "integers", "float form", "difference", "KL", "top-1"):
            table.add_column(column, justify="left" if column == "recipe" else "right")
        for line in lines(checkpoint, calibration, evaluation, arguments.rows):
            simulated = "" if line.float_form is None else f"x{line.float_form:.4f}"
            apart = "" if line.float_form is None else f"{100 * (line.ratio / line.float_form - 1):+.2f} %"
            table.add_row(line.recipe, f"x{line.ratio:.4f}", simulated, apart, f"{line.kl:.4f}", f"{100 * line.top1:.2f} %")
        print_table(table)


if __name__ == "__main__":
    main()
