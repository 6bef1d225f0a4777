"""The grid that weights are rounded to, and the search for its scale.

A weight is `s_n * 2**k(n, g) * c`: one float scale per output row n, one small power of two per group g of inputs,
one signed code c. Without groups every k is 0. Rows here are normalised by their largest magnitude, so that
scales are relative to it and no row can underflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MAX_SHIFT = 3
"""Largest exponent of a group: codes -8..7 shifted by 3 are synapses -64..56, and the negated row fits int8 too."""


@dataclass(frozen=True)
class Grid:
    """Integer domain of one layer's weights.

    `low <= c <= high` are the codes; `group_size` inputs share an exponent 0..MAX_SHIFT (0: no exponents).
    """

    low: int
    high: int
    group_size: int

    def candidates(self, device: torch.device) -> torch.Tensor:
        """Scales to try, relative to the largest magnitude of a row, float32 (C,), smallest first.

        With groups the exponents carry the large weights, so the scale may be 8 times smaller. Without, clipping
        more than about 1/3 of the range never pays at 4 bits, and next to nothing at 8.
        """
        j = torch.arange(19, dtype=torch.float32, device=device)
        if self.group_size:
            octaves = -MAX_SHIFT + j / 6
        elif self.high < 16:
            octaves = (j - 18) / 12
        else:
            octaves = (j - 18) / 36
        return torch.exp2(octaves) / (self.high + 0.5)

    def groups(self, inputs: int) -> int:
        """Number of groups of a row of `inputs` weights; the last one may be shorter."""
        return -(-inputs // self.group_size) if self.group_size else 1

    def expand(self, exponent: torch.Tensor, inputs: int) -> torch.Tensor:
        """Exponents (R, G) to factors 2**k per input, float32 (R, K)."""
        factor = torch.exp2(exponent.to(torch.float32))
        if not self.group_size:
            return factor.expand(-1, inputs)
        return factor.repeat_interleave(self.group_size, dim=1)[:, :inputs]

    def codes(self, weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Nearest codes of `weight` on a grid of `step`, as float32 integers (ties to even)."""
        return torch.round(weight / step).clamp_(self.low, self.high)


def search_exponents(
    grid: Grid, weight: torch.Tensor, scale: torch.Tensor, importance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best exponent of each group for given row scales, and the error that is left.

    weight float32 (R, K), scale (R,), importance (K,) >= 0 the weight of an input's squared error.
    Returns exponents int64 (R, G) and the weighted squared error (R,). Ties take the smaller exponent.
    """
    rows, inputs = weight.shape
    groups = grid.groups(inputs)
    width = grid.group_size if grid.group_size else inputs
    errors = []
    for k in range(MAX_SHIFT + 1 if grid.group_size else 1):
        step = (scale * float(2**k))[:, None]
        loss = (weight - grid.codes(weight, step) * step).square_() * importance
        padded = torch.nn.functional.pad(loss, (0, groups * width - inputs))
        errors.append(padded.view(rows, groups, width).sum(2))
    best = torch.stack(errors).min(0)
    return best.indices, best.values.sum(1)


def search_scales(grid: Grid, weight: torch.Tensor, importance: torch.Tensor, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `keep` best candidate scales of every row and their exponents.

    weight float32 (N, K), importance (K,). Returns scales (N, keep) and exponents int64 (N, keep, G), best first.
    """
    candidates = grid.candidates(weight.device)
    exponents, errors = [], []
    for value in candidates:
        k, error = search_exponents(grid, weight, value.expand(weight.shape[0]), importance)
        exponents.append(k)
        errors.append(error)
    order = torch.stack(errors, 1).sort(dim=1, stable=True).indices[:, :keep]
    stacked = torch.stack(exponents, 1)
    chosen = stacked.gather(1, order[:, :, None].expand(-1, -1, stacked.shape[2]))
    return candidates[order], chosen
