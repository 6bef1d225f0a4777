"""Fixed steps of least error: of the inputs of a layer that fires, and of what its neurons count."""

from __future__ import annotations

import torch
from torch import Tensor

from kirin_lava.spikes.codes import INTEGER8

__all__ = ["input_step", "output_steps", "settled"]

_FRACTIONS = torch.linspace(0.25, 1.0, 31).tolist()
_FACTORS = [2.0 ** (i / 16) for i in range(-8, 9)]
_STARTS = [i / 16 for i in range(4, 13)]
_TURNS = 2


def input_step(sample: Tensor, peak: float) -> float:
    """Step of 8-bit codes for all tokens; what lies beyond them is clipped.

    Args:
        sample: (tokens, K). peak: largest magnitude over more tokens than these.
    """
    if peak <= 0:
        return 1.0
    low, high = INTEGER8.code_min, INTEGER8.code_max
    steps = [peak * fraction / high for fraction in _FRACTIONS]
    errors = [float(((sample / step).round_().clamp_(low, high) * step - sample).square().sum()) for step in steps]
    return steps[errors.index(min(errors))]


def output_steps(sample: Tensor, levels: int) -> Tensor:
    """What a count of 1 stands for, coarse to fine: one step for the layer, then another for each neuron that it serves better.

    Args:
        sample: (tokens, N) sums before the activation. levels: L.

    Returns:
        (N,) steps; the layer's for a neuron that is never active.
    """
    x = sample.clamp_min(0)
    largest = x.amax(0)
    peak = float(largest.max()) or float(levels)
    coarse = [torch.full_like(largest, peak * fraction / levels) for fraction in (2.0**-i for i in range(6))]
    totals = [float(_error(x, step, levels).sum()) for step in coarse]
    best = coarse[totals.index(min(totals))]
    error = _error(x, best, levels)
    for fraction in _FRACTIONS:
        candidate = torch.where(largest > 0, largest * (fraction / levels), best)
        found = _error(x, candidate, levels)
        best = torch.where(found < error, candidate, best)
        error = torch.minimum(found, error)
    return best


def settled(
    sums: Tensor, wanted: Tensor, steps: Tensor, reader: Tensor, levels: int, fine: bool = True
) -> tuple[Tensor, Tensor]:
    """Steps and starts with which the reading layer is least wrong, `|reader (counted - activation)|^2`, coarse to fine.

    First a factor of all steps and a start for the layer; then, neuron by neuron and in order, its own, given all others: what
    several are wrong by may cancel in their sum.

    Args:
        sums: (tokens, N) of the quantised network. wanted: (tokens, N) of the float model. steps: (N,). reader: (M, N) weights.
        levels: L. fine: whether every neuron has its own.

    Returns:
        Steps (N,), and starts (N,) in units of them, 1/4 to 3/4.
    """
    target = wanted.clamp_min(0)

    def off(steps: Tensor, start: Tensor, of: slice = slice(None)) -> Tensor:
        return (sums[:, of] / steps).add_(start).floor_().clamp_(0, levels).mul_(steps).sub_(target[:, of])

    def total(offer: tuple[Tensor, Tensor]) -> float:
        return float((off(*offer) @ reader.T).square().sum())

    half = torch.full_like(steps, 0.5)
    steps, _ = min([(steps, half), *((steps * factor, half) for factor in _FACTORS)], key=total)
    steps, starts = min([(steps, half), *((steps, torch.full_like(half, start)) for start in _STARTS)], key=total)
    if not fine:
        return steps, starts
    steps, starts = steps.clone(), starts.clone()
    error = off(steps, starts)
    wrong = error @ reader.T
    power = reader.square().sum(0)
    for _ in range(_TURNS):
        for j in range(len(steps)):
            along = wrong @ reader[:, j] - power[j] * error[:, j]  # of the others, in the direction of this one
            for offered in (
                [(f * steps[j], starts[j]) for f in [1.0, *_FACTORS]],
                [(steps[j], s) for s in [starts[j], *_STARTS]],
            ):
                step, start = torch.tensor([p[0] for p in offered]), torch.tensor([p[1] for p in offered])
                found = off(step, start, slice(j, j + 1))
                best = int((found * (power[j] * found + 2 * along[:, None])).sum(0).argmin())
                steps[j], starts[j] = step[best], start[best]
            wrong += torch.outer(found[:, best] - error[:, j], reader[:, j])
            error[:, j] = found[:, best]
    return steps, starts


def _error(x: Tensor, step: Tensor, levels: int) -> Tensor:
    """(N,) squared error of the clip-floor activation."""
    return ((x / step).add_(0.5).floor_().clamp_(0, levels).mul_(step) - x).square_().sum(0)
