"""Calibration of one layer: what the user's text tells about its activations, gathered from the float model.

Two passes over the layer's inputs. The first finds fixed steps, where layers fire on chip and have no host to choose a step per
token. The second sums the second moments of the inputs *as they will be sent*, quantised, for weight rounding; about their
mean, because what rounding does to the mean goes into the bias. Memory is the activations of a few thousand tokens and one
(K, K) matrix per dense layer.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.threads import spread
from kirin_lava.graph.ops import Relu
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models import float_model
from kirin_lava.models.layout import Dense, FloatBlock, FloatOp
from kirin_lava.quantize.measure import measure
from kirin_lava.quantize.saliency import find_channels
from kirin_lava.quantize.sites import Calibration, Sites

__all__ = ["calibrate", "calibrate_head", "run_rows", "sample", "sum_moments"]

Rotary = tuple[Tensor, Tensor]
_SAMPLE_ROWS = 4096  # tokens kept for the search of fixed steps
_TOKENS, _PART = 2048, 256  # run at a time; inputs whose moments with all others are summed at a time
_FIRST = 1 / 32
"""How much of its row the first token counts for, where that is more than one of its tokens. All others read it, so that its
error is everybody's, and its activations are nothing like theirs: attention sinks there. SmolLM2-135M, 4-bit weights by GPTQ,
128 rows of 512 tokens, four windows of 2,048 of WikiText-2: counted once x1.260 of float32, 6 times x1.199, 16 times (this)
x1.186, 64 times x1.198."""


def calibrate(block: FloatBlock, rows: list[Tensor], rotary: Rotary | None, recipe: Recipe) -> tuple[Calibration, list[Tensor]]:
    """Gather the calibration of one layer, and its outputs for the next one.

    Args:
        rows: inputs of the layer, each (1, L, width) float32.
        rotary: cos and sin tables, or None.
    """
    if not rows:
        raise UsageError("the calibration text is empty: give at least one sequence of tokens")
    sites = Sites(block, recipe)
    find_channels(sites, rows, rotary)
    measure(sites, rows, rotary)
    if sites.firing:
        _find_steps(sites, rows, rotary)
    if recipe.weights.method == "gptq":
        return sites.calibration, sum_moments(sites, rows, rotary)
    return sites.calibration, run_rows(block, rows, rotary)


def calibrate_head(head: FloatBlock, rows: list[Tensor], recipe: Recipe) -> Calibration:
    """What the head's method has to know of its inputs; arguments as for `calibrate`. Weights are rounded without a text."""
    sites = Sites(head, recipe)
    measure(sites, rows, None)
    return sites.calibration


def run_rows(block: FloatBlock, rows: list[Tensor], rotary: Rotary | None) -> list[Tensor]:
    """Outputs of the float layer, one per row."""

    @torch.no_grad()
    def run(x: Tensor) -> Tensor:
        return float_model.run_block(block, x, rotary)

    return spread(run, rows)


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
            step = method.input_step(site, options, sample(inputs[op.name]), peaks[op.name])
            sites.calibration.input_steps[op.name] = step
            steps = method.output_steps(site, options, sample(outputs[op.name]))
            sites.calibration.output_steps[op.name] = steps.numpy()


def sum_moments(sites: Sites, rows: list[Tensor], rotary: Rotary | None) -> list[Tensor]:
    """Second moments of what every dense layer will get, and the outputs of the layer. Rows are run, and parts of the matrices
    summed, by several threads; which part gets which terms in which order depends on the sizes alone."""
    moments = {op.name: torch.zeros(op.weight.shape[1], op.weight.shape[1]) for op in sites.block.denses()}
    totals = {name: torch.zeros(len(matrix), dtype=torch.float64) for name, matrix in moments.items()}
    outputs, tokens = [], 0.0
    for batch in _batches(rows):
        results = spread(lambda x: _run_row(sites, x, rotary), batch)
        outputs += [output for output, _ in results]
        sent = {name: torch.cat([found[name] for _, found in results]) for name in moments}
        weight = torch.cat([_weights(x.shape[1]) for x in batch])
        tokens += float(weight.sum())
        root = weight.sqrt()[:, None]
        for name, x in sent.items():
            totals[name] += (x * weight[:, None]).sum(0, dtype=torch.float64)
            x *= root
        parts = [(name, start) for name, matrix in moments.items() for start in range(0, len(matrix), _PART)]

        def add(part: tuple[str, int], sent: dict[str, Tensor] = sent) -> None:
            name, start = part
            x = sent[name]
            moments[name][start : start + _PART, start:].addmm_(x[:, start : start + _PART].T, x[:, start:])

        spread(add, parts)
    for name, matrix in moments.items():  # the other half
        mean = totals[name] / tokens
        matrix.triu_().add_(matrix.triu(1).T)
        sites.calibration.means[name] = mean.to(torch.float32)
        about = matrix.double() - torch.outer(totals[name], mean)
        about.diagonal().clamp_min_(0)  # of an input that hardly varies the rounding of sums is left
        sites.calibration.moments[name] = about.to(torch.float32)
    return outputs


def _weights(length: int) -> Tensor:
    """(L,) how many tokens each token of a row counts for."""
    weights = torch.ones(length)
    weights[0] = max(1.0, _FIRST * length)
    return weights


@torch.no_grad()
def _run_row(sites: Sites, x: Tensor, rotary: Rotary | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Output of the layer for one row, and the inputs (tokens, K) of its dense layers as they will be sent."""
    found: dict[str, Tensor] = {}

    def watch(op: FloatOp, values: dict[str, Tensor]) -> None:
        if not isinstance(op, Dense):
            return
        x, fold, code = values[op.input], sites.fold(op), sites.input_code(op)
        if fold is not None:  # fired codes; their steps are folded into this layer's weights
            assert code.spike_codes is not None
            sent = (x / torch.from_numpy(fold)).round_().clamp_(0, code.spike_codes[1])
        else:
            sent = sites.coding(op).sent(x)
        found[op.name] = sent.flatten(0, -2)

    return float_model.run_block(sites.block, x, rotary, watch), found


def _batches(rows: list[Tensor]) -> Iterator[list[Tensor]]:
    """Rows in order, at least `_TOKENS` tokens at a time where there are as many."""
    batch: list[Tensor] = []
    for row in rows:
        batch.append(row)
        if sum(x.shape[1] for x in batch) >= _TOKENS:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.no_grad()
def _run(block: FloatBlock, rows: list[Tensor], rotary: Rotary | None, watch: float_model.Observer) -> None:
    for x in rows:
        float_model.run_block(block, x, rotary, watch)


def sample(parts: list[Tensor]) -> Tensor:
    """At most `_SAMPLE_ROWS` tokens, evenly spread."""
    x = torch.cat(parts)
    return x[:: max(1, len(x) // _SAMPLE_ROWS)][:_SAMPLE_ROWS]
