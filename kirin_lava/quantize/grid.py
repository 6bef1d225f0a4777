"""The grid that weights are rounded to, and the search for its scale.

A weight is `s_n * c`: one float scale per output row n, one signed code c. Rows here are normalised by their largest magnitude,
so that scales are relative to it and no row can underflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Integer domain of one layer's weights: codes `low <= c <= high`."""

    low: int
    high: int

    def candidates(self) -> list[float]:
        """Scales to try, relative to the largest magnitude of a row, smallest first.

        Clipping more than about 1/3 of the range never pays at 4 bits, and next to nothing at 8.
        """
        return [2.0 ** ((j - 18) / (12 if self.high < 16 else 36)) / (self.high + 0.5) for j in range(19)]

    def codes(self, weight: Tensor, step: Tensor | float) -> Tensor:
        """Nearest codes of `weight` on a grid of `step`, as float32 integers (ties to even)."""
        return torch.round(weight / step).clamp_(self.low, self.high)


def search_scales(grid: Grid, weight: Tensor, importance: Tensor, keep: int) -> Tensor:
    """The `keep` best candidate scales of every row, (keep, R), best first; of equal errors the smaller scale wins.

    weight: float32 (K, R), a row's largest magnitude 1. importance: (K,) >= 0, the weight of an input's squared error.
    """
    candidates = grid.candidates()
    errors = torch.stack([_errors(grid, weight, step, importance) for step in candidates])
    order = errors.sort(dim=0, stable=True).indices[:keep]
    return torch.tensor(candidates, dtype=weight.dtype, device=weight.device)[order]


def _errors(grid: Grid, weight: Tensor, step: float, importance: Tensor) -> Tensor:
    """Weighted squared errors (R,) of weights (K, R) rounded to nearest with one step for all."""
    code = (weight * (1 / step)).round_().clamp_(grid.low, grid.high)
    return importance @ torch.sub(weight, code, alpha=step).square_()
