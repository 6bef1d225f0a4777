"""Calibration of one layer: what the user's text tells about its activations, gathered from the float model.

Two passes over the layer's inputs. The first finds fixed steps, where layers fire on chip and have no host to choose a step per
token. The second sums the second moments of the inputs *as they will be sent*, quantised, for weight rounding. Memory is one
row of text and one (K, K) matrix per dense layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.ops import Relu
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models import float_model
from kirin_lava.models.layout import Dense, FloatBlock, FloatOp
from kirin_lava.quantize.sites import Calibration, Sites

__all__ = ["calibrate"]

Rotary = tuple[Tensor, Tensor]
_SAMPLE_ROWS = 4096  # tokens kept for the search of fixed steps


def calibrate(block: FloatBlock, rows: list[Tensor], rotary: Rotary | None, recipe: Recipe) -> Calibration:
    """Gather the calibration of one layer.

    Args:
        rows: inputs of the layer, each (1, L, width) float32.
        rotary: cos and sin tables, or None.
    """
    if not rows:
        raise UsageError("the calibration text is empty: give at least one sequence of tokens")
    sites = Sites(block, recipe)
    if sites.firing:
        _find_steps(sites, rows, rotary)
    if recipe.weights.method == "gptq":
        _sum_moments(sites, rows, rotary)
    return sites.calibration


def _find_steps(sites: Sites, rows: list[Tensor], rotary: Rotary | None) -> None:
    inputs: dict[str, list[Tensor]] = {name: [] for name in sites.firing}
    outputs: dict[str, list[Tensor]] = {name: [] for name in sites.firing}
    peaks = dict.fromkeys(sites.firing, 0.0)

    def watch(op: FloatOp, values: dict[str, Tensor]) -> None:
        if isinstance(op, Dense) and op.name in sites.firing:
            x = values[op.input].flatten(0, -2)
            inputs[op.name].append(x)
            peaks[op.name] = max(peaks[op.name], float(x.abs().max()))
        elif isinstance(op, Relu) and (name := sites.fired_by(op.output)) is not None:
            outputs[name].append(values[op.input].flatten(0, -2))

    _run(sites.block, rows, rotary, watch)
    method, options = sites.recipe.method, sites.recipe.options
    for op in sites.block.denses():
        if op.name in sites.firing:
            site = sites.site(op)
            step = method.input_step(site, options, _sample(inputs[op.name]), peaks[op.name])
            sites.calibration.input_steps[op.name] = step
            steps = method.output_steps(site, options, _sample(outputs[op.name]))
            sites.calibration.output_steps[op.name] = steps.numpy()


def _sum_moments(sites: Sites, rows: list[Tensor], rotary: Rotary | None) -> None:
    moments = sites.calibration.moments

    def watch(op: FloatOp, values: dict[str, Tensor]) -> None:
        if not isinstance(op, Dense):
            return
        x, fold, code = values[op.input], sites.fold(op), sites.input_code(op)
        if fold is not None:  # fired codes; their steps are folded into this layer's weights
            assert code.spike_codes is not None
            sent = (x / torch.from_numpy(fold)).round_().clamp_(0, code.spike_codes[1])
        else:
            sent = sites.coding(op).sent(x)
        sent = sent.flatten(0, -2)
        moment = sent.T @ sent
        moments[op.name] = moments[op.name].add_(moment) if op.name in moments else moment

    _run(sites.block, rows, rotary, watch)


@torch.no_grad()
def _run(block: FloatBlock, rows: list[Tensor], rotary: Rotary | None, watch: float_model.Observer) -> None:
    for x in rows:
        float_model.run_block(block, x, rotary, watch)


def _sample(parts: list[Tensor]) -> Tensor:
    """At most `_SAMPLE_ROWS` tokens, evenly spread."""
    x = torch.cat(parts)
    return x[:: max(1, len(x) // _SAMPLE_ROWS)][:_SAMPLE_ROWS]
