"""Calibration of one layer: what the user's text tells about its activations, gathered from the float twin.

Two passes over the layer's inputs. The first finds static steps (layers that fire on chip have no host to choose a step per
token) and, for the per-channel policy, the outlier channels. The second sums the second moments of the inputs *as they will
be sent*, quantised, for weight rounding. Memory is one row of text and one (K, K) matrix per dense layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.graph import host
from kirin_lava.graph.host import Codes, HostContext
from kirin_lava.graph.ops import Encode, Softmax
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models import float_model as twin
from kirin_lava.models.layout import Attention, Dense, FloatBlock, FloatOp, Relu
from kirin_lava.spikes.codes.coding import Encoding

__all__ = ["Calibration", "calibrate", "fires_into", "search_step"]

Rotary = tuple[Tensor, Tensor]
_SAMPLE_ROWS = 4096  # tokens kept for the search of static steps


@dataclass
class Calibration:
    """What lowering needs beside the weights, by name of the dense layer or attention.

    Attributes:
        static_steps: step of the inputs of a dense layer that fires.
        fire_steps: steps (N,) of the outputs of a dense layer that fires, per neuron; of an attention that fires, their
            ratio (width,) to the step of the token's probabilities.
        channels: outlier channels (K,) of the per-channel policy.
        moments: (K, K) second moments of the inputs as sent.
    """

    static_steps: dict[str, float] = field(default_factory=dict)
    fire_steps: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    channels: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)


def fires_into(block: FloatBlock) -> dict[str, str]:
    """Dense layers whose result goes through a ReLU straight into another: name of the first -> name of the second."""
    relus = {op.input: op.output for op in block.ops if isinstance(op, Relu)}
    consumers = {op.input: op.name for op in block.denses()}
    return {op.name: consumers[relus[op.output]] for op in block.denses() if op.output in relus}


def calibrate(block: FloatBlock, rows: list[Tensor], rotary: Rotary | None, recipe: Recipe) -> Calibration:
    """Gather the calibration of one layer.

    Args:
        rows: inputs of the layer, each (1, L, width) float32.
        rotary: cos and sin tables, or None.
    """
    if not rows:
        raise UsageError("the calibration text is empty: give at least one sequence of tokens")
    result = Calibration()
    _find_steps(block, rows, rotary, recipe, result)
    if recipe.weights.method == "gptq":
        _sum_moments(block, rows, rotary, recipe, result)
    return result


def search_step(sample: Tensor, enc: Encoding) -> Tensor:
    """Static steps of least squared error for spikes alone.

    Args:
        sample: (tokens, N) values; negative ones count as 0 where the encoding has no negative spikes.

    Returns:
        (N,) steps; 1 for a neuron that is never active.
    """
    if enc.spike_min >= 0:
        sample = sample.clamp_min(0)
    largest = sample.abs().amax(0)
    best = torch.full_like(largest, torch.inf)
    step = torch.ones_like(largest)
    for fraction in torch.linspace(0.25, 1.0, 31).tolist():
        candidate = torch.where(largest > 0, largest * (fraction / enc.spike_max), 1.0)
        sent = (sample / candidate).round_().clamp_(enc.spike_min, enc.spike_max) * candidate
        error = (sent - sample).square().sum(0)
        step = torch.where(error < best, candidate, step)
        best = torch.minimum(error, best)
    return step


def _find_steps(block: FloatBlock, rows: list[Tensor], rotary: Rotary | None, recipe: Recipe, result: Calibration) -> None:
    firing = fires_into(block)
    inputs: dict[str, list[Tensor]] = {}
    outputs: dict[str, list[Tensor]] = {}
    peaks: dict[str, Tensor] = {}
    names = {op.output: op.name for op in block.denses()}

    def watch(op: FloatOp, values: dict[str, Tensor]) -> None:
        if isinstance(op, Dense):
            x = values[op.input].flatten(0, -2)
            peak = x.abs().amax(0)
            peaks[op.name] = torch.maximum(peaks[op.name], peak) if op.name in peaks else peak
            if op.name in firing:
                inputs.setdefault(op.name, []).append(x)
        elif isinstance(op, Relu):
            outputs.setdefault(names[op.input], []).append(values[op.input].flatten(0, -2))
        elif isinstance(op, Attention) and recipe.attention.output == "fire":
            outputs.setdefault(op.name, []).append(_ridden(op, values, recipe, block.name))

    _run(block, rows, rotary, watch)
    for name, peak in peaks.items():
        if recipe.outliers.policy == "channel":
            count = host.outlier_budget(recipe.outliers.of(f"{block.name}.{name}"), len(peak))
            chosen = torch.zeros(len(peak), dtype=torch.bool)
            chosen[peak.topk(count).indices] = True
            result.channels[name] = chosen.numpy()
    for name in firing:
        x = _sample(inputs[name])
        budget = recipe.outliers.of(f"{block.name}.{name}")
        enc = recipe.activations
        limit = float(torch.quantile(x.abs().flatten()[: 2**24], 1 - budget))
        step = max(limit / (enc.spike_max + 0.499), float(peaks[name].max()) / (enc.code_max + 0.49))
        result.static_steps[name] = step if step > 0 else 1.0
    for name, parts in outputs.items():
        enc = recipe.unsigned if name in firing else recipe.activations
        result.fire_steps[name] = search_step(_sample(parts), enc).numpy()


def _ridden(op: Attention, values: dict[str, Tensor], recipe: Recipe, block: str) -> Tensor:
    """Attention outputs in units of the step of their token's probabilities, (tokens, heads * head_dim)."""
    q, k, v = (values[name] for name in (op.query, op.key, op.value))
    length, factor = q.shape[1], op.head_dim**-0.5
    context = HostContext(torch.arange(length))
    for name in (op.key, op.value):
        context.remember(name, torch.ones(1, length, op.kv_heads))
    repeat = op.heads // op.kv_heads
    by_head = [x.unflatten(-1, (-1, op.head_dim)).transpose(1, 2) for x in (q, k, v)]
    scores = by_head[0] @ by_head[1].repeat_interleave(repeat, 1).transpose(2, 3)
    softmax = Softmax("", "s", op.query, op.key, op.value, "p", op.heads, op.kv_heads, factor)
    ones = Codes(q, torch.ones(1, length, op.heads))
    weights = host.apply(softmax, {"s": scores, op.query: ones}, context)
    assert isinstance(weights, Tensor)
    step_v = host.encode(Encode("", "", "", recipe.values, groups=op.kv_heads), v, context.positions).step
    weights = weights * step_v.transpose(1, 2).repeat_interleave(repeat, 1).unsqueeze(2)
    encode = Encode("", "", "", recipe.unsigned, groups=1, ratio=recipe.outliers.of(f"{block}.{op.name}.p"), causal=True)
    step = host.encode(encode, weights, context.positions).step  # (1, L, 1)
    scaled = by_head[2] / step_v.transpose(1, 2).unsqueeze(-1)
    mixed = (weights @ scaled.repeat_interleave(repeat, 1)).transpose(1, 2).flatten(2)
    return (mixed / step).flatten(0, 1)


def _sum_moments(block: FloatBlock, rows: list[Tensor], rotary: Rotary | None, recipe: Recipe, result: Calibration) -> None:
    sources = {second: first for first, second in fires_into(block).items()}

    def watch(op: FloatOp, values: dict[str, Tensor]) -> None:
        if not isinstance(op, Dense):
            return
        x = values[op.input]
        if op.name in sources:  # fired codes; their steps are folded into this layer's weights
            step = torch.from_numpy(result.fire_steps[sources[op.name]])
            sent = (x / step).round_().clamp_(0, recipe.unsigned.spike_max)
        else:
            encode = Encode(
                op.name,
                op.input,
                "",
                recipe.activations,
                ratio=recipe.outliers.of(f"{block.name}.{op.name}"),
                channels=result.channels.get(op.name),
                static_step=result.static_steps.get(op.name),
            )
            codes = host.encode(encode, x, torch.arange(x.shape[1]))
            sent = codes.q * codes.step
        sent = sent.flatten(0, -2)
        moments = sent.T @ sent
        result.moments[op.name] = result.moments[op.name].add_(moments) if op.name in result.moments else moments

    _run(block, rows, rotary, watch)


@torch.no_grad()
def _run(block: FloatBlock, rows: list[Tensor], rotary: Rotary | None, watch: twin.Observer) -> None:
    for x in rows:
        twin.run_block(block, x, rotary, watch)


def _sample(parts: list[Tensor]) -> Tensor:
    """At most `_SAMPLE_ROWS` tokens, evenly spread."""
    x = torch.cat(parts)
    return x[:: max(1, len(x) // _SAMPLE_ROWS)][:_SAMPLE_ROWS]
