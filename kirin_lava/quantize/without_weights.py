"""The shape that a model will have, from its config.json and a recipe alone: no weights are needed and none are allocated.

The model is lowered as any other; only its matrices are stand-ins. A family file reads shapes without storage, and the integer
weights of a matrix are one row, seen N times. Its largest weight is the largest of its grid, so that a stored synapse gets the
bits it will need, and the others are 0, so that no matrix is split: a head that an export splits is counted whole.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kirin_lava.base.integers import fraction_of
from kirin_lava.graph.block import Block, Embedding, Model
from kirin_lava.hardware.fit import SegmentFit, block_fit
from kirin_lava.hardware.shapes import ModelShape, shape_of_model
from kirin_lava.hardware.split import make_provable
from kirin_lava.methods.recipe import Recipe, WeightSpec
from kirin_lava.models import family_of
from kirin_lava.models.layout import Config, Dense, FloatBlock
from kirin_lava.quantize.integers import Scales, to_integers
from kirin_lava.quantize.lower import lower_block, weights_of
from kirin_lava.quantize.measure import stand_in_codings
from kirin_lava.quantize.saliency import stand_in_channels
from kirin_lava.quantize.sites import Calibration, Sites
from kirin_lava.quantize.weights import WeightCodes, grid_of

__all__ = ["fit_of_config", "shape_of_config"]


def shape_of_config(config: Config, recipe: Recipe, context: int | None = None) -> ModelShape:
    """The shape that a model with this config.json gets by this recipe. No weights are needed and none are allocated.

    Args:
        context: positions for which no sum may overflow; None for the longest sequence.

    Raises:
        UnsupportedError: a config that cannot be converted.
    """
    return shape_of_model(_stand_in(config, recipe, context))


def fit_of_config(config: Config, recipe: Recipe, context: int | None = None) -> list[SegmentFit]:
    """What is proved of every segment, whatever its weights; arguments and errors as of `shape_of_config`."""
    model = _stand_in(config, recipe, context)
    rows = []
    for block in (*model.blocks, model.head):
        grid = grid_of(weights_of(recipe, block.name))
        farthest = max(-grid.low, grid.high)
        rows += block_fit(block, context or model.max_positions, farthest)
    return rows


def _stand_in(config: Config, recipe: Recipe, context: int | None) -> Model:
    """The model without its weights."""
    family = family_of(config)
    d = family.dimensions(config)
    layers = (recipe.method.rewrite(family.block(config, index, _without_storage)) for index in range(d.layers))
    head = recipe.method.rewrite(family.head(config, _without_storage))

    def lowered(block: FloatBlock) -> Block:
        block = _with_biases(block, recipe)
        weights = _weights(block, weights_of(recipe, block.name))
        plan = lower_block(block, d.width, recipe, _calibration(block, recipe), weights)
        plan = make_provable(plan, context or d.max_positions)[0]
        return to_integers(plan, _SCALES) if recipe.spiking_host else plan

    positions = family.embedding(config, _without_storage).positions
    rows = None if positions is None else np.broadcast_to(np.float32(0), tuple(positions.shape))
    return Model(
        embedding=Embedding(np.broadcast_to(np.float32(0), (d.vocabulary, d.width)), rows),
        blocks=tuple(lowered(block) for block in layers),
        head=lowered(head),
        rotary=None,
        max_positions=d.max_positions,
        facts={"model_type": config["model_type"], **family.facts(config)},
    )


_SCALES = Scales(defaultdict(lambda: 1.0), fraction_of(1.0))
"""Of values whose magnitudes nobody knows."""


def _with_biases(block: FloatBlock, recipe: Recipe) -> FloatBlock:
    """What calibrated rounding takes off the mean goes into a bias, see `kirin_lava.quantize.lower.corrected`."""
    if recipe.weights.method != "gptq" or block.name == "head":
        return block
    ops = (replace(op, bias=torch.zeros(len(op.weight))) if isinstance(op, Dense) else op for op in block.ops)
    return replace(block, ops=tuple(ops))


def _without_storage(name: str, shape: tuple[int, ...]) -> Tensor:
    """A matrix that has only a shape; vectors are real, because families hand them on as arrays."""
    return torch.empty(shape, device="meta") if len(shape) > 1 else torch.zeros(shape)


def _weights(block: FloatBlock, spec: WeightSpec) -> dict[str, WeightCodes]:
    """Integer weights of the dense layers of a block, by name, in the memory of one row each."""
    return {op.name: _row(len(op.weight), op.weight.shape[1], spec) for op in block.denses()}


def _row(outputs: int, inputs: int, spec: WeightSpec) -> WeightCodes:
    row = np.zeros(inputs, np.int8)
    row[0] = grid_of(spec).high
    return WeightCodes(np.broadcast_to(row, (outputs, inputs)), np.ones(outputs, np.float32))


def _calibration(block: FloatBlock, recipe: Recipe) -> Calibration:
    """Steps of 1 wherever lowering asks for a measured one, and as many fine channels as there will be."""
    sites = Sites(block, recipe)
    firing = sites.firing
    widths = {op.name: len(op.weight) for op in block.denses() if op.name in firing}
    return Calibration(
        input_steps=dict.fromkeys(firing, 1.0),
        output_steps={name: np.ones(width, np.float32) for name, width in widths.items()},
        channels=stand_in_channels(sites),
        codings=stand_in_codings(sites),
    )
