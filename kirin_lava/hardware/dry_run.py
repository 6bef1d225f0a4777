"""The shape that a model will have, from its config.json and a recipe alone: no weights are needed and none are allocated.

A family file reads matrices that have a shape and no storage; they are wired as `kirin_lava.lower` wires them.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from kirin_lava.coding import INTEGER8
from kirin_lava.graph import Block, CoreOp, Decode, Encode, Fire, Linear, Op
from kirin_lava.hardware.shapes import ModelShape, shape_of_blocks
from kirin_lava.lower import attention_ops, fired_attention
from kirin_lava.models import family_of
from kirin_lava.models.layout import Attention, Config, Dense, FloatBlock, Relu
from kirin_lava.quantize.calibrate import fires_into
from kirin_lava.recipe import Recipe
from kirin_lava.stats import stored_bits

__all__ = ["shape_of_config"]


def shape_of_config(config: Config, recipe: Recipe) -> ModelShape:
    """The shape that a model with this config.json gets by this recipe. No weights are needed and none are allocated.

    Raises:
        UnsupportedError: a config that cannot be converted.
    """
    family = family_of(config)
    d = family.dimensions(config)
    layers = (family.block(config, index, _without_storage) for index in range(d.layers))
    blocks = [*(_lowered(layer, recipe) for layer in layers), _lowered_head(family.head(config, _without_storage), recipe)]
    positions = family.embedding(config, _without_storage).positions
    rows = 0 if positions is None else len(positions)

    def bits(op: CoreOp, block: Block) -> int:
        if not isinstance(op, Linear):
            return stored_bits(op, block)
        shifted = 0 < recipe.weights.group_size < op.weight.shape[1]  # a single group needs no shift
        return 4 if op.bits == 4 and op.fire is None and (block.name == "head" or not shifted) else 8

    return shape_of_blocks(config["model_type"], blocks, (d.vocabulary, d.width), d.max_positions, rows, bits)


class _Shape:
    """Stands for a matrix of which only the shape is asked; `torch.cat` stacks it."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> _Shape:
        if function is not torch.cat:
            raise TypeError(f"a matrix without weights cannot go through {function}")
        (parts,) = arguments
        return cls(sum(len(part) for part in parts), *parts[0].shape[1:])


def _without_storage(name: str, shape: tuple[int, ...]) -> Tensor:
    """A matrix that has only a shape; vectors are real, because families hand them on as arrays."""
    return cast(Tensor, _Shape(*shape)) if len(shape) > 1 else torch.zeros(shape)


def _lowered(layer: FloatBlock, recipe: Recipe) -> Block:
    """What `lower_block` makes of a layer, with weights that have only a shape."""
    firing = fires_into(layer)
    fired = {second: first for first, second in firing.items()}
    chained = fired_attention(layer) if recipe.attention.output == "fire" else {}
    one = np.ones(1, np.int64)
    ops: list[Op] = []
    codes: dict[str, str] = {}
    for op in layer.ops:
        if isinstance(op, Dense):
            outputs, inputs = op.weight.shape
            enc = recipe.unsigned if op.name in fired else recipe.activations
            source = codes.get(op.input)
            if source is None:
                source = f"{op.name}.codes"
                ratio = recipe.outliers.of(f"{layer.name}.{op.name}")
                ops.append(Encode(f"{op.name}.encode", op.input, source, enc, ratio=ratio))
            fire = Fire(recipe.unsigned, one, one, 0, 1.0) if op.name in firing else None
            result = f"{op.output}.codes" if fire else f"{op.name}.sums"
            weight = np.broadcast_to(np.int8(0), (outputs, inputs))
            ops.append(Linear(op.name, source, result, weight, recipe.weights.bits, enc, fire))
            if fire:
                codes[op.output] = result
            else:
                scale = np.broadcast_to(np.float32(1), (outputs,))
                ops.append(Decode(f"{op.name}.decode", result, source, op.output, scale, None if op.bias is None else scale))
        elif isinstance(op, Relu):
            codes[op.output] = codes[op.input]
        elif isinstance(op, Attention):
            fire = Fire(recipe.activations, one, one, 0, 1.0, rides=True) if op.name in chained.values() else None
            ops += attention_ops(op, recipe, fire, layer.name)
            if fire:
                codes[op.output] = f"{op.name}.mix.codes"
        else:
            ops.append(op)
    return Block(layer.name, tuple(ops), layer.output)


def _lowered_head(head: FloatBlock, recipe: Recipe) -> Block:
    """What `lower_head` makes of the head."""
    ops: list[Op] = []
    for op in head.ops:
        if isinstance(op, Dense):
            enc = recipe.activations if recipe.head.input == "spikes" else INTEGER8
            weight = np.broadcast_to(np.int8(0), tuple(op.weight.shape))
            source, sums = f"{op.name}.codes", f"{op.name}.sums"
            ratio = recipe.outliers.of(f"{head.name}.{op.name}")
            ops.append(Encode(f"{op.name}.encode", op.input, source, enc, ratio=ratio))
            ops.append(Linear(op.name, source, sums, weight, recipe.head.bits, enc))
            scale = np.broadcast_to(np.float32(1), (len(weight),))
            ops.append(Decode(f"{op.name}.decode", sums, source, op.output, scale, None))
        elif not isinstance(op, (Attention, Relu)):
            ops.append(op)
    return Block(head.name, tuple(ops), head.output)
