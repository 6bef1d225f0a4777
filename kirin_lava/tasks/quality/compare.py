"""Recipes side by side, and rivals at equal bits beside them: one text, one protocol, one table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from kirin_lava.base.console import csv_lines
from kirin_lava.base.errors import KirinError, UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Executor
from kirin_lava.hardware.placement import place
from kirin_lava.hardware.shapes import ModelShape, shape_of_model
from kirin_lava.hardware.timing import RATE_WINDOW
from kirin_lava.hardware.work import measured_work
from kirin_lava.methods.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from kirin_lava.models.calibration_text import draw_sample
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.passages import fingerprints
from kirin_lava.models.text import (
    CALIBRATION_TEXT,
    EVALUATION_TEXT,
    all_passages,
    protocol,
    read_text,
    token_rows,
)
from kirin_lava.tasks.cost import cost_of
from kirin_lava.tasks.export import export
from kirin_lava.tasks.options import Checks, Sample, Training
from kirin_lava.tasks.quality.evaluate import Network, Score, require_unseen, score_all
from kirin_lava.tasks.quality.original import load_original
from kirin_lava.tasks.quality.rivals import RIVALS, build_rival

__all__ = ["Comparison", "Contender", "compare"]

Report = Callable[[str, int, int], None]

RIVAL = "rival"
"""What stands for a method where a network is not an integer one."""


@dataclass(frozen=True)
class Contender:
    """One line of the table. Shares are of all codes sent into the decoder's products, the head left out; None: not counted.

    Attributes:
        method: that converted it, run as integers; "rival" for a quantiser that is simulated in float.
        window: T. spikes_per_element: spikes of a code on average.
        outlier_share: of all codes; outlier_share_linear: of those that go into dense layers.
        synapse_bits: of a stored weight of the decoder, the most. chips: of Loihi 2, caches for `rows` of the table's length.
        bundle_bytes, seconds: size on disk and wall time of the export.
        float_operations: left to a host, of a token. integers_verified: compared on Lava, all equal; 0 where nothing ran there.
        joules: of a token under each price list, without static power; twin_joules: of the same integers without spikes.
    """

    name: str
    method: str
    perplexity_ratio: float
    kl: float
    top1_agreement: float
    window: int | None = None
    spikes_per_element: float | None = None
    silent_share: float | None = None
    outlier_share: float | None = None
    outlier_share_linear: float | None = None
    steps_per_token: float | None = None
    synapse_bits: int | None = None
    chips: int | None = None
    bundle_bytes: int | None = None
    seconds: float | None = None
    messages_per_token: float | None = None
    float_operations: float | None = None
    integers_verified: int | None = None
    joules: dict[str, float | None] | None = None
    twin_joules: dict[str, float | None] | None = None

    @property
    def window_reduction(self) -> float | None:
        """How many fewer steps a window has than that of an 8-bit spike code, as a share of the latter."""
        return None if self.window is None else 1 - self.window / RATE_WINDOW

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"window_reduction": self.window_reduction}


@dataclass(frozen=True)
class Failed:
    """A recipe that could not be exported."""

    name: str
    error: KirinError


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`; perplexity of the float32 original on the same rows.

    Attributes:
        warnings: of the calibration, one line each. failed: recipes that could not be exported, and why.
    """

    model: str
    text: str
    protocol: str
    rows: int
    tokens: int
    perplexity_float: float
    contenders: tuple[Contender, ...]
    warnings: tuple[str, ...] = ()
    failed: tuple[Failed, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        failed = [{"name": f.name, "error": str(f.error), "exit_code": f.error.exit_code} for f in self.failed]
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return own | {"contenders": [c.to_dict() for c in self.contenders], "failed": failed}

    def require(self) -> None:
        """Raise the error of the first recipe that failed, with the names of all."""
        if self.failed:
            first = self.failed[0].error
            names = ", ".join(failed.name for failed in self.failed)
            raise type(first)(f"left out: {names}: {first}")

    def to_csv(self) -> str:
        """One line per contender."""
        return csv_lines([{k: v for k, v in row.to_dict().items() if "joules" not in k} for row in self.contenders])

    def table(self) -> Group:
        """For people, in 80 columns: what a network still knows, then what it sends."""
        protocol = (
            f"{self.rows} {self.protocol}; KL in nats per token against the original; MB on disk; s: seconds of the export"
        )
        title = f"{self.model} on {self.text}: perplexity {self.perplexity_float:.4f} in float32"
        quality = _table(title, protocol, "recipe", "method", "ratio", "KL", "top-1", "MB", "s")
        codes = (
            f"T: time steps of a window (an 8-bit spike code takes {RATE_WINDOW}); steps: of a token; spikes: per code; then "
            "shares of all codes, msgs: messages, dense: those of dense layers; syn: bits of a stored weight; chips: of Loihi "
            "2, with caches for a row"
        )
        sent = _table("what it sends", codes, "recipe", "T", "steps", "spikes", "silent", "msgs", "dense", "syn", "chips")
        for c in self.contenders:
            quality.add_row(
                c.name,
                c.method,
                f"{c.perplexity_ratio:.4f}",
                f"{c.kl:.4f}",
                _percent(c.top1_agreement),
                "" if c.bundle_bytes is None else f"{c.bundle_bytes / 1e6:.2f}",
                "" if c.seconds is None else f"{c.seconds:.0f}",
            )
            if c.window is None:
                continue
            sent.add_row(
                c.name,
                str(c.window),
                "" if c.steps_per_token is None else f"{c.steps_per_token:.0f}",
                "" if c.spikes_per_element is None else f"{c.spikes_per_element:.3f}",
                _percent(c.silent_share, 1),
                _percent(c.outlier_share, 1),
                _percent(c.outlier_share_linear, 1),
                "" if c.synapse_bits is None else str(c.synapse_bits),
                "" if c.chips is None else str(c.chips),
            )
        return Group(quality, sent) if sent.row_count else Group(quality)


def compare(
    model: str,
    recipes: Sequence[str | Recipe],
    text: Path | str | None = None,
    sample: Sample = Sample(rows=128),
    training: Training = Training(),
    max_rows: int | None = None,
    window: int | None = None,
    rivals: bool = False,
    verify: bool = False,
    progress: Report | None = None,
) -> Comparison:
    """Export a model by several recipes and evaluate them side by side with the integer executor, all in memory.

    Args:
        recipes: names, YAML files or recipes. rivals: also the quantisers of `kirin_lava.tasks.quality.rivals`, held against
            the first recipe.
        text: to evaluate on; the small built-in text by default. sample: the text to calibrate on.
        training: adds the first recipe once more, with this training after rounding.
        verify: compare every segment of every export on Lava.
        max_rows: evaluate on as many rows, evenly spread over the text.
        window: tokens of such a row; None for as many as of a row that is calibrated on. The model's context limits both.
    """
    if not recipes and not rivals:
        raise UsageError("nothing to compare: name at least one recipe")
    chosen = [load_recipe(recipe) if isinstance(recipe, str) else recipe for recipe in recipes]
    if training.method not in (None, "none"):
        trained = training.of(chosen[0])
        chosen.append(replace(trained, name=f"{trained.name}, {training.method}"))
    checkpoint = open_checkpoint(model)
    tokenizer = checkpoint.tokenizer()
    length, window = (min(n, checkpoint.dimensions.max_positions) for n in (sample.tokens, window or sample.tokens))
    file = Path(text or EVALUATION_TEXT)
    content, learned = read_text(file), read_text(sample.file or CALIBRATION_TEXT)
    if content == learned:
        raise UsageError("calibration and evaluation text are the same; evaluate on another one")
    require_unseen(content, fingerprints(all_passages(learned)), file)
    drawn = draw_sample(tokenizer, learned, length, sample.rows, sample.seed)
    rows = token_rows(tokenizer, content, window)
    if max_rows is not None and max_rows < len(rows):
        rows = [rows[len(rows) * i // max_rows] for i in range(max_rows)]
    original = load_original(checkpoint, rows[0])
    report = progress or (lambda what, done, total: None)
    total = len(chosen) + (len(RIVALS) if rivals else 0)
    networks: list[Network] = []
    exported: list[tuple[Recipe, Counter, ModelShape, dict[str, Any]]] = []
    failed: list[Failed] = []
    with tempfile.TemporaryDirectory() as folder:
        for recipe in chosen:
            report(recipe.name, len(networks) + len(failed), total)
            start = time.monotonic()
            out = Path(folder) / str(len(networks))
            try:
                export(model, out, recipe, sample, checks=Checks("lava" if verify else "none"))
            except KirinError as error:  # the others are not lost with it
                failed.append(Failed(recipe.name, error))
                continue
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            seconds = time.monotonic() - start
            bundle = Bundle(out)
            converted, shape, counter = bundle.model(), shape_of_model(bundle.model()), Counter()
            facts = {
                "bundle_bytes": size,
                "seconds": seconds,
                "integers_verified": _verified(bundle),
                **_on_chip(shape, window),
            }
            exported.append((recipe, counter, shape, facts))
            networks.append(Executor(converted, observer=counter))
        if rivals:
            against = chosen[0] if chosen else load_recipe(DEFAULT_RECIPE)
            for kind in RIVALS:
                report(kind, len(networks) + len(failed), total)
                networks.append(build_rival(checkpoint, kind, drawn.rows, against))
        if not networks:
            raise failed[0].error
        scores = score_all(networks, lambda ids: original(ids).logits, rows, progress=progress)
    found = [
        _ours(recipe.name, recipe.method.name, sums, counter, {**facts, **_prices(counter, shape, window)})
        for (recipe, counter, shape, facts), sums in zip(exported, scores, strict=False)
    ]
    found += [_contender(kind, RIVAL, sums) for kind, sums in zip(RIVALS, scores[len(exported) :], strict=False)]
    read_as, warnings, sums = protocol(tokenizer, content, window), drawn.warnings, scores[0]
    perplexity = sums.perplexity_float
    return Comparison(
        checkpoint.name, file.name, read_as, len(rows), sums.tokens, perplexity, tuple(found), warnings, tuple(failed)
    )


def _contender(name: str, method: str, sums: Score, **counted: Any) -> Contender:
    ratio = sums.perplexity / sums.perplexity_float
    return Contender(name, method, ratio, sums.kl / sums.tokens, sums.agreed / sums.tokens, **counted)


def _on_chip(shape: ModelShape, context: int) -> dict[str, int]:
    """Bits of a stored weight of the decoder, the most, and chips with caches for `context` positions."""
    bits = max(segment.bits for segment in shape.segments if segment.kind in ("read", "fire") and segment.block != "head")
    return {"synapse_bits": bits, "chips": place(shape, context).chips}


def _verified(bundle: Bundle) -> int:
    """Integers that Lava computed alike, of a bundle that it verified."""
    return sum(entry["compared"] for entry in bundle.verification.values()) if bundle.verified else 0


def _prices(counter: Counter, shape: ModelShape, context: int) -> dict[str, Any]:
    """What a token leaves to the host, and costs under each price list."""
    work = measured_work(counter.result(), shape)
    tables = cost_of(shape, work, context).energy
    columns = {"joules": "ours", "twin_joules": "integer"}
    return {"float_operations": work.host_operations} | {
        name: {table.profile.title: table.column(column).total for table in tables} for name, column in columns.items()
    }


def _ours(name: str, method: str, sums: Score, counter: Counter, facts: dict[str, Any]) -> Contender:
    stats = counter.result()
    decoder = [row for row in stats.core if row.block != "head"]
    elements, dense = sum(row.elements for row in decoder), [row for row in decoder if row.kind in ("read", "fire")]
    return _contender(
        name,
        method,
        sums,
        window=max(row.window for row in decoder),
        spikes_per_element=sum(row.spikes for row in decoder) / elements,
        silent_share=sum(row.silent for row in decoder) / elements,
        outlier_share=sum(row.outliers for row in decoder) / elements,
        outlier_share_linear=sum(row.outliers for row in dense) / sum(row.elements for row in dense),
        steps_per_token=stats.total()["steps_per_token"],
        messages_per_token=stats.total()["outliers_per_token"],
        **facts,
    )


def _table(title: str, caption: str, *columns: str) -> Table:
    table = Table(title=title, caption=caption, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in ("recipe", "method") else "right", no_wrap=True)
    return table


def _percent(share: float | None, digits: int = 2) -> str:
    return "" if share is None else f"{100 * share:.{digits}f} %"
