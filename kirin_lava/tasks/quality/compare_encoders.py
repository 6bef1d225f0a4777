"""Recipes side by side on an encoder: how near their vectors are to the original's, and what they send."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from kirin_lava.base.console import csv_lines
from kirin_lava.base.errors import KirinError, UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Executor
from kirin_lava.methods.recipe import Recipe, load_recipe
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.passages import fingerprints
from kirin_lava.models.text import CALIBRATION_TEXT, EVALUATION_TEXT, all_passages, read_text
from kirin_lava.tasks.export import export
from kirin_lava.tasks.options import Checks, Sample, Training
from kirin_lava.tasks.quality.encoders import nearness, original_vectors, sentence_rows
from kirin_lava.tasks.quality.original import load_encoder
from kirin_lava.tasks.quality.unseen import require_unseen
from kirin_lava.tasks.vectors import longest_text, vectors

__all__ = ["EncoderComparison", "EncoderRow", "compare_encoders"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EncoderRow:
    """One recipe. spikes, messages: of a sentence, on average. seconds: of the export. integers_verified: compared on Lava."""

    name: str
    method: str
    cosine: float
    lowest_cosine: float
    same_neighbour: float
    spikes: float
    messages: float
    bundle_bytes: int
    seconds: float
    integers_verified: int


@dataclass(frozen=True)
class EncoderComparison:
    """Result of `compare_encoders`. failed: recipes that could not be exported, and why."""

    model: str
    text: str
    sentences: int
    tokens: int
    rows: tuple[EncoderRow, ...]
    failed: tuple[tuple[str, KirinError], ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"failed": [{"name": name, "error": str(error)} for name, error in self.failed]}

    def to_csv(self) -> str:
        """One line per recipe."""
        return csv_lines([asdict(row) for row in self.rows])

    def require(self) -> None:
        """Raise the error of the first recipe that failed."""
        for name, error in self.failed:
            raise type(error)(f"left out: {name}: {error}")

    def draw(self, path: Path) -> None:
        """There is no figure of encoders."""
        raise UsageError(f"{path} is not drawn: the figure sets perplexity against energy, and encoders have none")

    def table(self) -> Group:
        """For people."""
        table = Table(title=f"{self.model} on {self.sentences} sentences of {self.text}, against float32")
        columns = ("recipe", "cosine", "lowest", "same\nneighbour", "spikes a\nsentence", "messages", "MB", "s")
        for column in columns:
            table.add_column(column, justify="left" if column == "recipe" else "right")
        for row in self.rows:
            table.add_row(
                row.name,
                f"{row.cosine:.4f}",
                f"{row.lowest_cosine:.4f}",
                f"{100 * row.same_neighbour:.1f} %",
                f"{row.spikes:,.0f}",
                f"{row.messages:,.0f}",
                f"{row.bundle_bytes / 1e6:.1f}",
                f"{row.seconds:.0f}",
            )
        return Group(table)


def compare_encoders(
    model: str,
    recipes: Sequence[str | Recipe],
    text: Path | str | None = None,
    sample: Sample = Sample(rows=128),
    training: Training = Training(),
    max_rows: int | None = None,
    verify: bool = False,
    progress: Progress | None = None,
) -> EncoderComparison:
    """Export an encoder by several recipes and compare their vectors of sentences; arguments as of `compare`.

    Raises:
        UsageError: no recipe; a text that is calibrated on.
    """
    if not recipes:
        raise UsageError("nothing to compare: name at least one recipe")
    report = progress or (lambda what, done, total: None)
    chosen = [training.of(load_recipe(recipe) if isinstance(recipe, str) else recipe) for recipe in recipes]
    checkpoint = open_checkpoint(model)
    file = Path(text or EVALUATION_TEXT)
    content = read_text(file)
    require_unseen(content, fingerprints(all_passages(read_text(sample.file or CALIBRATION_TEXT))), file)
    facts = checkpoint.facts()
    length = longest_text(facts, checkpoint.dimensions.max_positions)
    rows = sentence_rows(checkpoint.tokenizer(), content, length, max_rows, file.name)
    theirs = original_vectors(load_encoder(checkpoint, max(rows, key=len)), rows, facts, report)
    found: list[EncoderRow] = []
    failed: list[tuple[str, KirinError]] = []
    warnings: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory() as folder:
        for index, recipe in enumerate(chosen):
            report(recipe.name, index, len(chosen))
            start, out = time.monotonic(), Path(folder) / str(index)
            try:
                warnings = export(model, out, recipe, sample, checks=Checks("lava" if verify else "none")).warnings
            except KirinError as error:  # the others are not lost with it
                failed.append((recipe.name, error))
                continue
            seconds, bundle, counter = time.monotonic() - start, Bundle(out), Counter()
            executor = Executor(bundle.model(), observer=counter)
            near = nearness(vectors(executor.states, rows, facts, False, report), theirs)
            total = counter.result().total()
            found.append(
                EncoderRow(
                    name=recipe.name,
                    method=recipe.method.name,
                    cosine=near.cosine,
                    lowest_cosine=near.lowest,
                    same_neighbour=near.neighbours,
                    spikes=total["spikes"] / len(rows),
                    messages=total["outliers"] / len(rows),
                    bundle_bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
                    seconds=seconds,
                    integers_verified=sum(entry["compared"] for entry in bundle.verification.values()),
                )
            )
    if not found:
        raise failed[0][1]
    tokens = sum(map(len, rows))
    return EncoderComparison(checkpoint.name, file.name, len(rows), tokens, tuple(found), tuple(failed), warnings)
