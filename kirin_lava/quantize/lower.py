"""Lowering: one float layer becomes one block of the hybrid graph.

    Dense                  Encode -> Linear -> Decode
    Dense, Relu, Dense     Encode -> Linear with fire -> Linear -> Decode; the codes never leave the chip
    Attention              Encode q, k, v -> Score -> Softmax -> Encode p -> Mix -> Decode (or Mix with fire)

Everything else is a host operation already and is taken over as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from kirin_lava.base.errors import FitError, UnsupportedError
from kirin_lava.base.loihi2 import STATE_MAX, WEIGHT_MAX, WEIGHT_MIN
from kirin_lava.graph.ops import Block, Decode, Encode, Fire, Linear, Mix, Op, Score, Softmax
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models.layout import Attention, Dense, FloatBlock, Relu
from kirin_lava.quantize.calibrate import Calibration, fires_into
from kirin_lava.quantize.weights import WeightCodes, WeightSpec, quantize_weight
from kirin_lava.spikes.codes.coding import INTEGER8, Encoding

__all__ = ["attention_ops", "fired_attention", "folded_steps", "lower_block", "lower_head", "round_dense"]

_MAX_SHIFT = 4


def lower_block(
    block: FloatBlock, recipe: Recipe, calibration: Calibration, trained: Mapping[str, WeightCodes] | None = None
) -> Block:
    """Lower a decoder layer.

    Args:
        trained: integer weights by name of the dense layer, used instead of rounding the float ones.

    Raises:
        UnsupportedError: no dense layer was found, so nothing would be converted.
        FitError: a fire phase whose membrane cannot fit the 24-bit state.
    """
    if not block.denses():
        raise UnsupportedError(f"{block.name} has no dense layer: nothing would be converted")
    firing = fires_into(block)
    fired = {second: first for first, second in firing.items()}
    chained = fired_attention(block) if recipe.attention.output == "fire" else {}
    ops: list[Op] = []
    codes: dict[str, str] = {}  # real value that exists as fired codes only -> name of the codes
    for op in block.ops:
        if isinstance(op, Dense):
            spec = recipe.weights
            fold = folded_steps(block, recipe, calibration).get(op.name)
            encoding = recipe.unsigned if op.name in fired else recipe.activations
            rounded = trained[op.name] if trained else round_dense(op, spec, fold, calibration)
            fire = None
            if op.name in firing:
                fire = _fire_phase(op, rounded, encoding, recipe.unsigned, calibration)
            source = codes.get(op.input)
            if source is None:
                source = f"{op.name}.codes"
                ops.append(_encode(op, source, encoding, recipe, calibration, block.name))
            result = f"{op.output}.codes" if fire else f"{op.name}.sums"
            ops.append(
                Linear(f"{op.name}", source, result, rounded.weight, spec.bits, encoding, fire, group_shift=rounded.shift)
            )
            if fire:
                codes[op.output] = result
            else:
                bias = None if op.bias is None else op.bias.numpy()
                ops.append(Decode(f"{op.name}.decode", result, source, op.output, rounded.scale, bias))
        elif isinstance(op, Relu):
            codes[op.output] = codes[op.input]
        elif isinstance(op, Attention):
            fire = _ridden_fire(op, recipe, calibration) if op.name in chained.values() else None
            ops += attention_ops(op, recipe, fire, block.name)
            if fire:
                codes[op.output] = f"{op.name}.mix.codes"
        else:
            ops.append(op)
    return Block(block.name, tuple(ops), block.output)


def lower_head(head: FloatBlock, recipe: Recipe, trained: Mapping[str, WeightCodes] | None = None) -> Block:
    """Lower the norm and the language-model head: 8-bit integers by default, spikes by recipe. `trained`: see `lower_block`."""
    ops: list[Op] = []
    for op in head.ops:
        if isinstance(op, Dense):
            encoding = recipe.activations if recipe.head.input == "spikes" else INTEGER8
            rounded = trained[op.name] if trained else quantize_weight(op.weight, WeightSpec(bits=recipe.head.bits))
            source, sums = f"{op.name}.codes", f"{op.name}.sums"
            ratio = recipe.outliers.of(f"{head.name}.{op.name}")
            ops += [
                Encode(f"{op.name}.encode", op.input, source, encoding, ratio=ratio),
                Linear(op.name, source, sums, rounded.weight, recipe.head.bits, encoding),
                Decode(f"{op.name}.decode", sums, source, op.output, rounded.scale, None),
            ]
        elif isinstance(op, (Attention, Relu)):
            raise UnsupportedError(f"{op.name}: a head holds a norm and a dense layer only")
        else:
            ops.append(op)
    return Block(head.name, tuple(ops), head.output)


def folded_steps(block: FloatBlock, recipe: Recipe, calibration: Calibration) -> dict[str, npt.NDArray[np.float32]]:
    """Steps (K,) of the fired codes that a dense layer reads, by its name: they become part of its weights."""
    sources = {second: first for first, second in fires_into(block).items()}
    if recipe.attention.output == "fire":
        sources |= fired_attention(block)
    return {name: calibration.fire_steps[source] for name, source in sources.items()}


def round_dense(op: Dense, spec: WeightSpec, fold: npt.NDArray[np.float32] | None, calibration: Calibration) -> WeightCodes:
    """Integer weights; `fold` are the steps of fired inputs, which become part of the weights."""
    weight = op.weight if fold is None else op.weight * torch.from_numpy(fold)
    return quantize_weight(weight, spec, calibration.moments.get(op.name))


def _encode(op: Dense, output: str, encoding: Encoding, recipe: Recipe, calibration: Calibration, block: str) -> Encode:
    return Encode(
        f"{op.name}.encode",
        op.input,
        output,
        encoding,
        ratio=recipe.outliers.of(f"{block}.{op.name}"),
        channels=calibration.channels.get(op.name),
        static_step=calibration.static_steps.get(op.name),
    )


def _fire_phase(op: Dense, rounded: WeightCodes, inputs: Encoding, outputs: Encoding, calibration: Calibration) -> Fire:
    """Ramp and offset of a dense layer that fires into the next, see `graph.Fire`."""
    unit = rounded.scale.astype(np.float64) * calibration.static_steps[op.name]  # what 1 in the sum stands for
    steps = calibration.fire_steps[op.name].astype(np.float64)
    bias = np.zeros(len(unit)) if op.bias is None else op.bias.double().numpy()
    reach = np.abs(rounded.weight, dtype=np.int16).sum(1, dtype=np.int64) * inputs.max_message
    lowest, highest = int(rounded.weight.min()), int(rounded.weight.max())
    for shift in range(_MAX_SHIFT, -1, -1):
        ramp = np.maximum(np.rint(2.0**shift * steps / unit), 1)
        offset = np.rint(2.0**shift * bias / unit)
        fits = lowest << shift >= WEIGHT_MIN and highest << shift <= WEIGHT_MAX
        most = reach * 2**shift + np.abs(offset) + ramp * outputs.window
        if fits and most.max() <= STATE_MAX:
            return Fire(outputs, ramp.astype(np.int64), offset.astype(np.int64), shift, step=1.0)
    worst = int(most.argmax())
    raise FitError(
        f"{op.name}: the membrane of neuron {worst} can reach {most[worst]:.0f}, beyond the 24-bit state ({STATE_MAX}); "
        "split its fan-in or use a recipe with fewer bits"
    )


def fired_attention(block: FloatBlock) -> dict[str, str]:
    """Dense layers that read an attention's output: name -> name of the attention."""
    outputs = {op.output: op.name for op in block.ops if isinstance(op, Attention)}
    return {op.name: outputs[op.input] for op in block.denses() if op.input in outputs}


def _ridden_fire(op: Attention, recipe: Recipe, calibration: Calibration) -> Fire:
    """The output step rides on the step of the token's probabilities: the ramp is their ratio, the same for every token."""
    shift = 4
    ratio = calibration.fire_steps[op.name].astype(np.float64)
    ramp = np.maximum(np.rint(2.0**shift * ratio), 1).astype(np.int64)
    return Fire(recipe.activations, ramp, np.zeros_like(ramp), shift, step=1.0, rides=True)


def attention_ops(op: Attention, recipe: Recipe, fire: Fire | None, block: str) -> list[Op]:
    """Operations of one attention; with `fire` its output are codes, without it real values."""
    name, outliers = op.name, recipe.outliers
    q, k, v, p = (f"{name}.{part}.codes" for part in "qkvp")
    ops: list[Op] = [
        Encode(f"{name}.q.encode", op.query, q, recipe.activations, groups=op.heads, ratio=outliers.of(f"{block}.{name}.q")),
        Encode(f"{name}.k.encode", op.key, k, recipe.keys, groups=op.kv_heads, cached=True),
        Encode(f"{name}.v.encode", op.value, v, recipe.values, groups=op.kv_heads, cached=True),
        Score(f"{name}.score", q, k, f"{name}.scores", op.heads, op.kv_heads, recipe.activations),
        Softmax(f"{name}.softmax", f"{name}.scores", q, k, v, f"{name}.p", op.heads, op.kv_heads, op.head_dim**-0.5),
        Encode(
            f"{name}.p.encode",
            f"{name}.p",
            p,
            recipe.unsigned,
            groups=1 if fire else op.heads,
            ratio=outliers.of(f"{block}.{name}.p"),
            causal=True,
        ),
    ]
    if fire:
        return [*ops, Mix(f"{name}.mix", p, v, f"{name}.mix.codes", op.heads, op.kv_heads, recipe.unsigned, fire)]
    return [
        *ops,
        Mix(f"{name}.mix", p, v, f"{name}.mixed", op.heads, op.kv_heads, recipe.unsigned),
        Decode(f"{name}.decode", f"{name}.mixed", p, op.output, None, None),
    ]
