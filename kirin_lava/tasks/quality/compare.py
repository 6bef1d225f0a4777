"""Recipes side by side, and rivals at equal bits beside them: one text, one protocol, one table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kirin_lava.base.errors import KirinError, UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Executor
from kirin_lava.hardware.placement import place
from kirin_lava.hardware.shapes import ModelShape, shape_of_model
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
from kirin_lava.tasks.quality.contenders import RIVAL, Comparison, Contender, Failed
from kirin_lava.tasks.quality.evaluate import Network, Score, score_all
from kirin_lava.tasks.quality.methods import representatives, with_twins
from kirin_lava.tasks.quality.original import load_original
from kirin_lava.tasks.quality.rivals import RIVALS, build_rival
from kirin_lava.tasks.quality.unseen import require_unseen

__all__ = ["compare"]

Report = Callable[[str, int, int], None]


def compare(
    model: str,
    recipes: Sequence[str | Recipe] = (),
    text: Path | str | None = None,
    sample: Sample = Sample(rows=128),
    training: Training = Training(),
    max_rows: int | None = None,
    window: int | None = None,
    rivals: bool = False,
    methods: bool = False,
    verify: bool = False,
    progress: Report | None = None,
) -> Comparison:
    """Export a model by several recipes and evaluate them side by side with the integer executor, all in memory.

    Args:
        recipes: names, YAML files or recipes. rivals: also the quantisers of `kirin_lava.tasks.quality.rivals`, held against
            the first recipe.
        methods: all methods, by recipes that stand for them where none are named, with integer twins, rivals, and what a token
            costs; a `MethodTable` comes back. A method that does not convert the model is a row with the reason.
        text: to evaluate on; the small built-in text by default. sample: the text to calibrate on.
        training: adds the first recipe once more, with this training after rounding.
        verify: compare every segment of every export on Lava.
        max_rows: evaluate on as many rows, evenly spread over the text.
        window: tokens of such a row; None for as many as of a row that is calibrated on. The model's context limits both.
    """
    if methods:
        recipes, rivals = recipes or representatives(), True
    if not recipes and not rivals:
        raise UsageError("nothing to compare: name at least one recipe")
    chosen = [load_recipe(recipe) if isinstance(recipe, str) else recipe for recipe in recipes]
    if training.method not in (None, "none"):
        trained = training.of(chosen[0])
        chosen.append(replace(trained, name=f"{trained.name}, {training.method}"))
    checkpoint = open_checkpoint(model)
    if checkpoint.family.encoder:
        raise UsageError(f"{model} is an encoder and predicts no next token: `compare_encoders` compares its vectors")
    tokenizer = checkpoint.tokenizer()
    length, window = (min(n, checkpoint.dimensions.max_positions) for n in (sample.tokens, window or sample.tokens))
    file = Path(text or EVALUATION_TEXT)
    content, learned = read_text(file), read_text(sample.file or CALIBRATION_TEXT)
    if content == learned:
        raise UsageError("calibration and evaluation text are the same; evaluate on another one")
    require_unseen(content, fingerprints(all_passages(learned)), file)
    drawn = draw_sample(tokenizer, learned, length, sample.rows, sample.seed, checkpoint.family.encoder)
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
    result = Comparison(
        checkpoint.name, file.name, read_as, len(rows), sums.tokens, perplexity, tuple(found), warnings, tuple(failed)
    )
    return with_twins(result) if methods else result


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
