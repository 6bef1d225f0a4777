"""LAS as integers on the small models: its loss, and that of its 8-bit weights alone, on the same text in the same run.

"weights alone" is the float model with the recipe's rounded weights and nothing else; what planes and halves cost stands beside
it. Codes that a fixed range had to clip are counted on a part of the evaluation text.

Run: python benchmarks/las.py [DATA] [--rows N]      DATA holds stories260K-hf/ and text/; without it: the embedded models
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.small_models import models_of, options
from kirin_lava.base.console import print_table
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.executor import Executor
from kirin_lava.graph.ops import Encode, Op
from kirin_lava.graph.values import Codes, Value
from kirin_lava.methods.recipe import Recipe, WeightSpec, load_recipe
from kirin_lava.models import float_model
from kirin_lava.models.calibration_text import draw_sample
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.float_model import Arithmetic
from kirin_lava.models.layout import Dense, FloatBlock
from kirin_lava.models.text import read_text, token_rows
from kirin_lava.quantize.calibrate import calibrate
from kirin_lava.quantize.convert import convert_model, rotary_of
from kirin_lava.quantize.lower import corrected, round_block
from kirin_lava.quantize.sites import Calibration
from kirin_lava.tasks.quality.evaluate import Network, score_all
from kirin_lava.tasks.quality.original import load_original

RECIPES = ("las-w8a16", "las-w8a12", "las-w8a8")
BESIDE = ("kirin-w8a5-12",)
LENGTH, CLIPPED_ROWS = 256, 4


class _Weights(Arithmetic):
    def __init__(self, weights: dict[str, Tensor]):
        self._weights = weights

    def weight(self, op: Dense) -> Tensor:
        return self._weights[op.name]


class RoundedWeights:
    """The float model with the rounded weights of a recipe. `forward` is that of the executor."""

    device = torch.device("cpu")

    def __init__(self, checkpoint: Checkpoint, tokens: Sequence[Tensor], recipe: Recipe):
        family, config = checkpoint.family, checkpoint.config
        self._embedding, self._rotary = family.embedding(config, checkpoint.load), rotary_of(checkpoint)
        self._blocks: list[tuple[FloatBlock, _Weights]] = []
        rows = [float_model.embed(self._embedding, row.unsqueeze(0)) for row in tokens]
        for index in range(checkpoint.dimensions.layers):
            block = family.block(config, index, checkpoint.load)
            calibration, rows = calibrate(block, rows, self._rotary, recipe)
            self._add(block, recipe, calibration)
        self._add(family.head(config, checkpoint.load), recipe, Calibration())

    def _add(self, block: FloatBlock, recipe: Recipe, calibration: Calibration) -> None:
        codes = round_block(block, recipe, calibration)
        weights = {name: torch.from_numpy(code.dequantized()) for name, code in codes.items()}
        self._blocks.append((corrected(block, recipe, calibration, codes), _Weights(weights)))

    @torch.inference_mode()
    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, vocabulary) logits."""
        x = float_model.embed(self._embedding, tokens)
        for block, arithmetic in self._blocks:
            x = float_model.run_block(block, x, self._rotary, arithmetic=arithmetic)
        return x


class _Clipped:
    """Counts codes, and those that were clipped."""

    in_pieces = True

    def __init__(self) -> None:
        self.codes = self.clipped = 0

    def __call__(self, block: Block, op: Op, values: dict[str, Value]) -> None:
        if isinstance(op, Encode):
            found = values[op.output]
            assert isinstance(found, Codes)
            self.codes, self.clipped = self.codes + found.q.numel(), self.clipped + found.clipped


@dataclass(frozen=True)
class Line:
    """A network: perplexity against float32, KL, top-1; codes that were clipped of all, None where nothing is coded."""

    name: str
    ratio: float
    kl: float
    top1: float
    clipped: str = ""


def _clipped(model: Model, rows: Sequence[Tensor]) -> str:
    seen = _Clipped()
    executor = Executor(model, observer=seen)
    for row in rows[:CLIPPED_ROWS]:
        executor.forward(row.unsqueeze(0))
    return f"{seen.clipped} of {seen.codes}"


def lines(checkpoint: Checkpoint, calibration: Path, evaluation: Path, rows: int) -> list[Line]:
    """All networks on one model and one text."""
    tokenizer, length = checkpoint.tokenizer(), min(LENGTH, checkpoint.dimensions.max_positions)
    drawn = draw_sample(tokenizer, read_text(calibration), length, 2 * rows, 0).rows
    every = token_rows(tokenizer, read_text(evaluation), length)
    some = [every[len(every) * i // rows] for i in range(rows)] if rows < len(every) else every
    first = load_recipe(RECIPES[0])
    networks: dict[str, Network] = {}
    clipped: dict[str, str] = {}
    for kind in ("rtn", "gptq"):
        recipe = replace(first, weights=WeightSpec(8, kind))
        networks[f"weights alone, {kind}"] = RoundedWeights(checkpoint, drawn, recipe)
        if kind != first.weights.method:
            networks[f"{first.name}, {kind}"] = Executor(convert_model(checkpoint, drawn, recipe))
    for name in (*RECIPES, *BESIDE):
        model = convert_model(checkpoint, drawn, load_recipe(name))
        networks[name] = Executor(model)
        clipped[name] = _clipped(model, some)
    original = load_original(checkpoint, some[0])
    found = score_all(list(networks.values()), lambda ids: original(ids).logits, some)
    return [
        Line(
            name,
            sums.perplexity / sums.perplexity_float,
            sums.kl / sums.tokens,
            sums.agreed / sums.tokens,
            clipped.get(name, ""),
        )
        for name, sums in zip(networks, found, strict=True)
    ]


def main() -> None:
    """Print a table per model."""
    arguments = options("LAS as integers, beside its weights alone.").parse_args()
    for name, calibration, evaluation in models_of(arguments.data):
        checkpoint = open_checkpoint(name)
        table = Table(title=f"{checkpoint.name}: perplexity against float32")
        for column in ("network", "ratio", "KL", "top-1", "codes clipped"):
            table.add_column(column, justify="left" if column == "network" else "right")
        for line in lines(checkpoint, calibration, evaluation, arguments.rows):
            table.add_row(line.name, f"x{line.ratio:.4f}", f"{line.kl:.5f}", f"{100 * line.top1:.2f} %", line.clipped)
        print_table(table)


if __name__ == "__main__":
    main()
