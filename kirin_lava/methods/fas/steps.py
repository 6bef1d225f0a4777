"""Fixed steps of least squared error: of the inputs of a layer that fires, and of what its neurons count."""

from __future__ import annotations

import torch
from torch import Tensor

from kirin_lava.spikes.codes import INTEGER8

__all__ = ["input_step", "output_steps"]

_FRACTIONS = torch.linspace(0.25, 1.0, 31).tolist()


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


def _error(x: Tensor, step: Tensor, levels: int) -> Tensor:
    """(N,) squared error of the clip-floor activation."""
    return ((x / step).add_(0.5).floor_().clamp_(0, levels).mul_(step) - x).square_().sum(0)
