"""Conversion, layer by layer: the float layer is read, calibrated, lowered and let go before the next one is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kirin_lava import host, twin
from kirin_lava.checkpoint import Checkpoint
from kirin_lava.graph import Block, Embedding, Model
from kirin_lava.lower import lower_block, lower_head
from kirin_lava.quantize.calibrate import calibrate
from kirin_lava.recipe import Recipe

__all__ = ["Converted", "convert_blocks", "convert_model", "frame_of"]


@dataclass
class Converted:
    """One lowered layer and the inputs it was calibrated on, rows of (1, L, width) float32."""

    block: Block
    rows: list[Tensor]


def convert_blocks(
    checkpoint: Checkpoint,
    tokens: Sequence[Tensor],
    recipe: Recipe,
    skip: Callable[[str], bool] | None = None,
    stop: str = "head",
) -> Iterator[Converted]:
    """Lower every decoder layer in order, then the head.

    Args:
        tokens: calibration sequences, each (L,) ids.
        skip: asked with a block's name whether to leave it out; such a layer is run in float but not lowered.
        stop: name of the last block that is wanted.
    """
    d = checkpoint.dimensions
    frequencies = checkpoint.family.rotary(checkpoint.config)
    rotary = None if frequencies is None else host.rotary_tables(frequencies, d.max_positions)
    embedding = checkpoint.family.embedding(checkpoint.config, checkpoint.load)
    rows = [twin.embed(embedding, row.unsqueeze(0)) for row in tokens]
    del embedding
    for index in range(d.layers):
        name = f"blocks.{index}"
        layer = checkpoint.family.block(checkpoint.config, index, checkpoint.load)
        if skip is None or not skip(name):
            calibration = calibrate(layer, rows, rotary, recipe)
            yield Converted(lower_block(layer, recipe, calibration), rows)
        if name == stop:
            return
        with torch.no_grad():
            rows = [twin.run_block(layer, x, rotary) for x in rows]
    if skip is None or not skip("head"):
        yield Converted(lower_head(checkpoint.family.head(checkpoint.config, checkpoint.load), recipe), rows)


def frame_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything of a `graph.Model` but its blocks, as keyword arguments."""
    d, config = checkpoint.dimensions, checkpoint.config
    embedding = checkpoint.family.embedding(config, checkpoint.load)
    frequencies = checkpoint.family.rotary(config)
    tables = None if frequencies is None else host.rotary_tables(frequencies, d.max_positions)
    positions = None if embedding.positions is None else embedding.positions.numpy()
    return {
        "embedding": Embedding(embedding.tokens.numpy(), positions, embedding.position_offset),
        "rotary": None if tables is None else (tables[0].numpy(), tables[1].numpy()),
        "max_positions": d.max_positions,
        "facts": {"model_type": config["model_type"], **vars(d)},
    }


def convert_model(checkpoint: Checkpoint, tokens: Sequence[Tensor], recipe: Recipe) -> Model:
    """The whole converted model in memory, for models that fit it."""
    blocks = [item.block for item in convert_blocks(checkpoint, tokens, recipe)]
    return Model(blocks=tuple(blocks[:-1]), head=blocks[-1], **frame_of(checkpoint))
