"""Steps and starts of what fires, found on the network as it is quantised.

The steps of calibration are those of the float model. Behind quantised layers, and with rounded weights, a firing layer has
other sums than there; what it fires should stand for the float activation all the same. So layer by layer the quantised
network runs beside the float one, and a method that settles its neurons chooses again, from the sums that they will have.
A start other than half a step is a bias, `floor(x / s + start) = floor((x + (start - 1/2) s) / s + 1/2)`, and is kept as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from kirin_lava.base.threads import spread
from kirin_lava.graph.ops import Relu
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models import float_model
from kirin_lava.models.layout import Dense, FloatBlock, FloatOp
from kirin_lava.quantize.calibrate import sample, sum_moments
from kirin_lava.quantize.lower import corrected, round_block
from kirin_lava.quantize.sites import Sites
from kirin_lava.quantize.student import Layer, Trained

__all__ = ["settle"]

Rotary = tuple[Tensor, Tensor]


def settle(
    layer: Layer, rows: list[Tensor], sent: list[Tensor], rotary: Rotary | None, recipe: Recipe
) -> tuple[Layer, list[Tensor]]:
    """The calibrated layer with steps and biases for its quantised inputs, and its quantised outputs.

    Args:
        rows: inputs of the float layer, each (1, L, width). sent: of the same tokens, behind the quantised layers.
    """
    sites = Sites(layer.block, recipe, layer.calibration)
    block = layer.block
    if sites.firing:
        _, wanted = _float(sites, rows, rotary)
        _, sums = _quantised(sites, sent, rotary)
        moved: dict[str, Tensor] = {}
        for op in block.denses():
            if op.name in sites.firing:
                steps = torch.from_numpy(layer.calibration.output_steps[op.name])
                reader = next(other.weight for other in block.denses() if other.name == sites.firing[op.name])
                steps, starts = recipe.method.settled(
                    sites.site(op), recipe.options, sums[op.name], wanted[op.name], steps, reader.float()
                )
                layer.calibration.output_steps[op.name] = steps.numpy()
                moved[op.name] = (starts - 0.5) * steps
        block = replace(block, ops=tuple(_with_bias(op, moved) for op in block.ops))
        sites = Sites(block, recipe, layer.calibration)
        if layer.calibration.moments:  # of other counts than before
            sum_moments(Sites(layer.block, recipe, layer.calibration), rows, rotary)
    return Layer(block, layer.calibration, layer.codes, original=layer.teacher), _quantised(sites, sent, rotary)[0]


def _with_bias(op: FloatOp, moved: dict[str, Tensor]) -> FloatOp:
    if not isinstance(op, Dense) or op.name not in moved:
        return op
    return replace(op, bias=moved[op.name] if op.bias is None else op.bias + moved[op.name])


def _float(sites: Sites, rows: list[Tensor], rotary: Rotary | None) -> tuple[list[Tensor], dict[str, Tensor]]:
    return _run(sites, rows, lambda x, watch: float_model.run_block(sites.block, x, rotary, watch))


def _quantised(sites: Sites, rows: list[Tensor], rotary: Rotary | None) -> tuple[list[Tensor], dict[str, Tensor]]:
    codes = round_block(sites.block, sites.recipe, sites.calibration)
    block: FloatBlock = corrected(sites.block, sites.recipe, sites.calibration, codes)
    rules = Trained(
        Sites(block, sites.recipe, sites.calibration),
        {name: torch.from_numpy(rounded.dequantized()) for name, rounded in codes.items()},
    )
    return _run(sites, rows, lambda x, watch: float_model.run_block(block, x, rotary, watch, rules))


def _run(
    sites: Sites, rows: list[Tensor], run: Callable[[Tensor, float_model.Observer], Tensor]
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs, and sums of every layer that fires, of as many tokens as steps are searched with."""

    @torch.no_grad()
    def one(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        found: dict[str, Tensor] = {}

        def watch(op: FloatOp, values: dict[str, Tensor]) -> None:
            if isinstance(op, Relu) and (name := sites.fired_by(op.output)) is not None:
                found[name] = values[op.input].flatten(0, -2)

        return run(x, watch), found

    results = spread(one, rows)
    return [y for y, _ in results], {name: sample([found[name] for _, found in results]) for name in sites.firing}
