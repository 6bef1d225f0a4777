"""Lowering: one float layer becomes one block of the hybrid graph.

    Dense                  Encode -> Linear -> Decode, or Encode -> Linear -> ZeroPoints -> Decode of asymmetric codes
    Dense, Relu, Dense     Encode -> Linear that fires -> Linear -> Decode, where the method fires: the codes never leave the
    chip
    Attention              Encode q, k, v -> Score -> Softmax -> Encode p -> Mix -> Decode

Everything else is a host operation already and is taken over as it is. How a site is coded is for its method to say, see
`kirin_lava.quantize.sites`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Decode, Encode, Linear, Mix, Op, Relu, Score, Softmax, ZeroPoints
from kirin_lava.graph.ops.zero_points import row_sums
from kirin_lava.methods.method import FiringDense
from kirin_lava.methods.recipe import Recipe, WeightSpec
from kirin_lava.methods.site import Coding
from kirin_lava.models.layout import Attention, Dense, FloatBlock
from kirin_lava.quantize.sites import Calibration, Sites
from kirin_lava.quantize.weights import Matrix, WeightCodes, quantize_weights
from kirin_lava.spikes.neurons import Neuron, reader_of

__all__ = ["corrected", "lower_block", "round_block", "weights_of"]


def weights_of(recipe: Recipe, block: str) -> WeightSpec:
    """How the weights of a block are rounded; the head's are rounded to nearest."""
    return WeightSpec(bits=recipe.head.bits) if block == "head" else recipe.weights


def round_block(block: FloatBlock, recipe: Recipe, calibration: Calibration) -> dict[str, WeightCodes]:
    """Integer weights of the dense layers of a block, by name; steps of fired inputs become part of them."""
    sites, spec = Sites(block, recipe, calibration), weights_of(recipe, block.name)
    matrices = {op.name: Matrix(_folded(op, sites), spec, calibration.moments.get(op.name)) for op in block.denses()}
    return dict(zip(matrices, quantize_weights(list(matrices.values())), strict=True))


def corrected(block: FloatBlock, recipe: Recipe, calibration: Calibration, rounded: Mapping[str, WeightCodes]) -> FloatBlock:
    """The block with what rounding takes off the mean output of its dense layers in their biases, `(W - V) mean(x)`.

    Only where the calibration has means: moments about them are what the weights were rounded for.
    """
    sites = Sites(block, recipe, calibration)
    ops = list(block.ops)
    for index, op in enumerate(ops):
        if isinstance(op, Dense) and op.name in calibration.means:
            left = _folded(op, sites) - torch.from_numpy(rounded[op.name].dequantized())
            bias = left @ calibration.means[op.name]
            ops[index] = replace(op, bias=bias if op.bias is None else op.bias + bias)
    return replace(block, ops=tuple(ops))


def _folded(op: Dense, sites: Sites) -> Tensor:
    """The float weight (N, K) for inputs in the units of their codes where those are fired."""
    fold = sites.fold(op)
    return op.weight if fold is None else op.weight * torch.from_numpy(fold)


def lower_block(
    block: FloatBlock,
    width: int,
    recipe: Recipe,
    calibration: Calibration,
    rounded: Mapping[str, WeightCodes] | None = None,
) -> Block:
    """Lower a decoder layer, or the head.

    Args:
        width: numbers per token at its input.
        rounded: integer weights by name of the dense layer; None rounds the float ones.

    Raises:
        UnsupportedError: no dense layer was found, so nothing would be converted; an attention in a head. A block without any
            operation, the head of an encoder that has none, is as it is.
        FitError: a fire phase whose membrane cannot fit the 24-bit state.
    """
    if block.ops and not block.denses():
        raise UnsupportedError(f"{block.name} has no dense layer: nothing would be converted")
    weights = rounded or round_block(block, recipe, calibration)
    sites = Sites(block, recipe, calibration)
    bits = weights_of(recipe, block.name).bits
    ops: list[Op] = []
    codes: dict[str, str] = {}  # real value that exists as fired codes only -> name of the codes
    for op in block.ops:
        if isinstance(op, Dense):
            source, zero_points = codes.get(op.input), 0
            if source is None:
                source, coding = f"{op.name}.codes", _calibrated(sites, op)
                ops.append(Encode(f"{op.name}.encode", op.input, source, coding.code, coding.rule))
                zero_points = coding.rule.zero_points
            neuron = _neuron(op, sites, weights[op.name])
            result = f"{op.name}.sums" if neuron.fires is None else f"{op.output}.codes"
            linear = weights[op.name]
            code = sites.input_code(op)
            ops.append(Linear(op.name, source, result, linear.weight, bits, code, neuron))
            if neuron.fires is None:
                bias = None if op.bias is None else op.bias.numpy()
                if zero_points:
                    plain = f"{op.name}.plain"
                    rows = row_sums(linear.weight, code).ravel()
                    ops.append(ZeroPoints(f"{op.name}.zero", result, source, plain, rows))
                    result = plain
                ops.append(Decode(f"{op.name}.decode", result, source, op.output, linear.scale, bias))
            else:
                codes[op.output] = result
        elif isinstance(op, Relu) and sites.fired_by(op.output) is not None:
            codes[op.output] = codes[op.input]
        elif isinstance(op, Attention):
            if block.name == "head":
                raise UnsupportedError(f"{op.name}: a head holds norms and dense layers only")
            ops += _attention(op, sites)
        else:
            ops.append(op)
    return Block(block.name, tuple(ops), block.output, width, causal=block.causal)


def _neuron(op: Dense, sites: Sites, rounded: WeightCodes) -> Neuron:
    """What becomes of the membranes of a dense layer."""
    if sites.fired(op) is None:
        code = sites.input_code(op)
        if not code.by_plane or not rounded.weight.strides[0]:  # of a plan the weights are not known
            return reader_of(code)
        return reader_of(code, int(np.abs(rounded.weight.astype(np.int16)).sum(1, dtype=np.int64).max()))
    unit = rounded.scale.astype(np.float64) * sites.calibration.input_steps[op.name]
    steps = sites.calibration.output_steps[op.name].astype(np.float64)
    bias = np.zeros(len(unit)) if op.bias is None else op.bias.double().numpy()
    dense = FiringDense(op.name, rounded.weight, unit, steps, bias, sites.input_code(op))
    return sites.recipe.method.neuron(dense, sites.site(op), sites.recipe.options)


def _calibrated(sites: Sites, op: Dense | Attention, side: str = "input") -> Coding:
    """The coding of a site; a method that wants some of its channels finer, or its ranges, must have been shown a text."""
    coding, site = sites.coding(op, side), sites.site(op, side)
    method, options = sites.recipe.method, sites.recipe.options
    if coding.code.channels is None and method.selects(site, options) > 0:
        raise UsageError(f"{site.name}: {method.title} chooses channels on calibration text: calibrate first")
    if method.measures(site, options) and site.name not in sites.calibration.codings:
        raise UsageError(f"{site.name}: {method.title} finds its ranges on calibration text: calibrate first")
    return coding


def _attention(op: Attention, sites: Sites) -> list[Op]:
    name = op.name
    q, k, v, p = (f"{name}.{side}.codes" for side in "qkvp")
    codings = {side: _calibrated(sites, op, side) for side in "qkvp"}

    def encode(side: str, source: str, groups: int, cached: bool = False) -> Encode:
        coding = codings[side]
        return Encode(f"{name}.{side}.encode", source, f"{name}.{side}.codes", coding.code, coding.rule, groups, cached)

    return [
        encode("q", op.query, op.heads),
        encode("k", op.key, op.kv_heads, cached=True),
        encode("v", op.value, op.kv_heads, cached=True),
        Score(f"{name}.score", q, k, f"{name}.scores", op.heads, op.kv_heads, codings["q"].code, window=op.window),
        Softmax(f"{name}.softmax", f"{name}.scores", q, k, v, f"{name}.p", op.heads, op.kv_heads, op.scale, op.cap, op.window),
        encode("p", f"{name}.p", op.heads),
        Mix(f"{name}.mix", p, v, f"{name}.mixed", op.heads, op.kv_heads, codings["p"].code, window=op.window),
        Decode(f"{name}.decode", f"{name}.mixed", p, op.output, None, None),
    ]
