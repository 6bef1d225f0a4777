"""Conversion, layer by layer: the float layer is read, calibrated, lowered and let go before the next one is touched.

Recovery is the exception: it trains all layers together, so it holds them in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.integers import fraction_of, to_fixed
from kirin_lava.base.laps import Laps
from kirin_lava.base.threads import spread_out
from kirin_lava.graph.block import CLASSES, Block, Embedding, Model, require_same_units
from kirin_lava.graph.values import rotary_tables
from kirin_lava.hardware.split import make_provable
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models import float_model
from kirin_lava.models.checkpoint import Checkpoint
from kirin_lava.quantize.calibrate import calibrate, calibrate_head, run_rows
from kirin_lava.quantize.integers import (
    Scales,
    embedding_fraction,
    measure,
    peak_of,
    to_integers,
    whole_embedding,
    whole_rotary,
)
from kirin_lava.quantize.lower import corrected, lower_block, round_block
from kirin_lava.quantize.recover import recover
from kirin_lava.quantize.settle import settle
from kirin_lava.quantize.student import Layer, Student

__all__ = ["Converted", "convert_blocks", "convert_model", "frame_of", "rotary_of"]

Rotary = tuple[Tensor, Tensor]
Report = Callable[[str, int, int], None]

PROBE_ROWS, PROBE_TOKENS = 4, 256  # first rows, and first tokens of each, that lowered layers are probed with


@dataclass
class Converted:
    """One lowered layer, the first rows of inputs it was calibrated on, each (1, L, width), float32 or fixed-point, and where
    the time went."""

    block: Block
    rows: list[Tensor]
    laps: Laps


def convert_blocks(
    checkpoint: Checkpoint,
    tokens: Sequence[Tensor],
    recipe: Recipe,
    skip: Callable[[str], bool] | None = None,
    stop: str = "head",
    seed: int = 0,
    report: Report | None = None,
    scratch: Path | None = None,
    device: str = "cpu",
    context: int | None = None,
) -> Iterator[Converted]:
    """Lower every decoder layer in order, then the head.

    Args:
        tokens: calibration sequences, each (L,) ids.
        skip: asked with a block's name whether to leave it out; such a layer is run in float but not lowered.
        stop: name of the last block that is wanted.
        seed, report, scratch, device: of recovery: order of the rows, progress, file for the state of an interrupted training,
            "cpu" or "cuda".
        context: positions for which no sum may overflow; None for the longest sequence.

    Raises:
        UsageError: recovery of a part of a model.
    """
    left_out, positions = skip or (lambda name: False), context or checkpoint.dimensions.max_positions
    if recipe.recovery.method == "none":
        layers = _layers(checkpoint, tokens, recipe, left_out, stop)
        yield from spread_out(_lowered(item, _rounded(item, recipe), recipe, checkpoint, positions) for item in layers)
        return
    if stop != "head":
        raise UsageError("recovery trains the whole model: export all layers, or choose a recipe without recovery")
    found = list(spread_out(_layers(checkpoint, tokens, recipe, lambda name: False, stop)))
    rounded = [_rounded(item, recipe) for item in found]
    embedding = checkpoint.family.embedding(checkpoint.config, checkpoint.load)
    of_first = checkpoint.facts().get("head") == CLASSES
    student = Student(embedding, rounded, recipe, rotary_of(checkpoint), device, of_first)
    trained = recover(student, list(tokens), seed, report or (lambda what, done, total: None), scratch)
    for layer, item in zip(trained, found, strict=True):
        if not left_out(layer.block.name):
            yield _lowered(item, layer, recipe, checkpoint, positions)


@dataclass
class _Calibrated:
    layer: Layer
    rows: list[Tensor]
    laps: Laps
    scales: Scales | None = None


def _layers(
    checkpoint: Checkpoint, tokens: Sequence[Tensor], recipe: Recipe, skip: Callable[[str], bool], stop: str
) -> Iterator[_Calibrated]:
    """Calibrated layers with the first rows of their inputs, the head last."""
    rotary = rotary_of(checkpoint)
    embedding = checkpoint.family.embedding(checkpoint.config, checkpoint.load)
    rows = [float_model.embed(embedding, row.unsqueeze(0)) for row in tokens]
    sent, settles = rows, recipe.method.settles(recipe.options)
    fraction = embedding_fraction(embedding) if recipe.spiking_host else None
    del embedding
    for index in range(checkpoint.dimensions.layers):
        laps = Laps()
        with laps.lap("read"):
            block = recipe.method.rewrite(checkpoint.family.block(checkpoint.config, index, checkpoint.load))
        if skip(block.name) and not settles:
            following = run_rows(block, rows, rotary)
        else:
            with laps.lap("calibrate"):
                calibration, following = calibrate(block, rows, rotary, recipe)
                layer = Layer(block, calibration)
                if settles:
                    layer, sent = settle(layer, rows, sent, rotary, recipe)
                scales = None if fraction is None else Scales(measure(block, rows, rotary), fraction)
            if not skip(block.name):
                yield _Calibrated(layer, _probes(rows), laps, scales)
        if block.name == stop:
            return
        rows = following
        fraction = None if fraction is None else fraction_of(peak_of(rows))
    if not skip("head"):
        laps = Laps()
        with laps.lap("read"):
            head = recipe.method.rewrite(checkpoint.family.head(checkpoint.config, checkpoint.load))
        with laps.lap("calibrate"):
            calibration = calibrate_head(head, rows, recipe)
        scales = None if fraction is None else Scales(measure(head, rows, rotary), fraction)
        yield _Calibrated(Layer(head, calibration), _probes(rows), laps, scales)


def _probes(rows: list[Tensor]) -> list[Tensor]:
    """The rows that a lowered layer is probed with."""
    return [row[:, :PROBE_TOKENS] for row in rows[:PROBE_ROWS]]


def _rounded(item: _Calibrated, recipe: Recipe) -> Layer:
    """The layer with integer weights; the head is rounded when it is lowered."""
    layer = item.layer
    if layer.block.name == "head":
        return layer
    with item.laps.lap("round"):
        codes = round_block(layer.block, recipe, layer.calibration)
        return Layer(corrected(layer.block, recipe, layer.calibration, codes), layer.calibration, codes, original=layer.teacher)


def _lowered(item: _Calibrated, layer: Layer, recipe: Recipe, checkpoint: Checkpoint, positions: int) -> Converted:
    """The rounded layer as a block; the head is rounded here."""
    with item.laps.lap("lower"):
        block = lower_block(layer.block, checkpoint.dimensions.width, recipe, layer.calibration, layer.codes or None)
        block = make_provable(block, positions)[0]  # what could overflow becomes several parts, added exactly
        rows = item.rows
        if item.scales is not None:
            block = to_integers(block, item.scales)
            rows = [to_fixed(row, item.scales.fraction) for row in rows]
    return Converted(block, rows, item.laps)


def rotary_of(checkpoint: Checkpoint) -> Rotary | None:
    """cos and sin tables of a checkpoint, (max_positions, head_dim) each, or None."""
    frequencies = checkpoint.family.rotary(checkpoint.config)
    return None if frequencies is None else rotary_tables(frequencies, checkpoint.dimensions.max_positions)


def frame_of(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, Any]:
    """Everything of a `graph.Model` but its blocks, as keyword arguments."""
    d, config = checkpoint.dimensions, checkpoint.config
    embedding = checkpoint.family.embedding(config, checkpoint.load)
    tables = rotary_of(checkpoint)
    positions = None if embedding.positions is None else embedding.positions.numpy()
    looked_up = Embedding(embedding.tokens.numpy(), positions, embedding.position_offset)
    turns = None if tables is None else (tables[0].numpy(), tables[1].numpy())
    return {
        "embedding": whole_embedding(looked_up) if recipe.spiking_host else looked_up,
        "rotary": whole_rotary(turns) if recipe.spiking_host else turns,
        "max_positions": d.max_positions,
        "facts": {"model_type": config["model_type"], **vars(d), **checkpoint.facts()},
    }


def convert_model(checkpoint: Checkpoint, tokens: Sequence[Tensor], recipe: Recipe, seed: int = 0) -> Model:
    """The whole converted model in memory, for models that fit it."""
    blocks, frame = [item.block for item in convert_blocks(checkpoint, tokens, recipe, seed=seed)], frame_of(checkpoint, recipe)
    require_same_units(frame["embedding"], blocks, checkpoint.name)
    return Model(blocks=tuple(blocks[:-1]), head=blocks[-1], **frame)
