"""The grid that weights are rounded to, and the search for its scale.

A weight is `s_n * 2**k(n, g) * c`: one float scale per output row n, one small power of two per group g of inputs,
one signed code c. Without groups every k is 0. Rows here are normalised by their largest magnitude, so that
scales are relative to it and no row can underflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_SHIFT = 3
"""Largest exponent of a group: codes -8..7 shifted by 3 are synapses -64..56, and the negated row fits int8 too."""

_OCTAVE = 6  # candidate scales per octave, with groups


@dataclass(frozen=True)
class Grid:
    """Integer domain of one layer's weights.

    `low <= c <= high` are the codes; `group_size` inputs share an exponent 0..MAX_SHIFT (0: no exponents).
    """

    low: int
    high: int
    group_size: int

    def candidates(self) -> list[float]:
        """Scales to try, relative to the largest magnitude of a row, smallest first.

        With groups the exponents carry the large weights, so the scale may be 8 times smaller; a candidate is twice the one
        `_OCTAVE` places before it. Without, clipping more than about 1/3 of the range never pays at 4 bits, and next to nothing
        at 8.
        """
        if self.group_size:
            octaves = [-MAX_SHIFT + j / _OCTAVE for j in range(MAX_SHIFT * _OCTAVE + 1)]
        else:
            octaves = [(j - 18) / (12 if self.high < 16 else 36) for j in range(19)]
        return [2.0**octave / (self.high + 0.5) for octave in octaves]

    def groups(self, inputs: int) -> int:
        """Number of groups of a row of `inputs` weights; the last one may be shorter."""
        return -(-inputs // self.group_size) if self.group_size else 1

    def expand(self, exponent: Tensor, inputs: int) -> Tensor:
        """Exponents (R, G) to factors 2**k per input, float32 (R, K)."""
        factor = torch.exp2(exponent.to(torch.float32))
        if not self.group_size:
            return factor.expand(-1, inputs)
        return factor.repeat_interleave(self.group_size, dim=1)[:, :inputs]

    def codes(self, weight: Tensor, step: Tensor) -> Tensor:
        """Nearest codes of `weight` on a grid of `step`, as float32 integers (ties to even)."""
        return torch.round(weight / step).clamp_(self.low, self.high)


def search_scales(grid: Grid, weight: Tensor, importance: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The `keep` best candidate scales of every row and the exponents that go with them.

    weight: float32 (K, R), a row's largest magnitude 1. importance: (K,) >= 0, the weight of an input's squared error.
    Returns scales (keep, R) and exponents int64 (keep, G, R), best first; of equal errors the smaller scale and exponents win.
    """
    candidates = grid.candidates()
    if not grid.group_size:
        errors = torch.cat([_group_errors(grid, weight, step, importance) for step in candidates])
        order = errors.sort(dim=0, stable=True).indices[:keep]
        exponents = torch.zeros(len(order), 1, weight.shape[1], dtype=torch.int64, device=weight.device)
    else:
        # an exponent more is a scale twice as large: most pairs of the two were tried before
        steps = list(candidates)
        while len(steps) < len(candidates) + MAX_SHIFT * _OCTAVE:
            steps.append(2 * steps[-_OCTAVE])
        errors = torch.stack([_group_errors(grid, weight, step, importance) for step in steps])
        found = [errors[j::_OCTAVE][: MAX_SHIFT + 1].min(0) for j in range(len(candidates))]
        order = torch.stack([best.values.sum(0) for best in found]).sort(dim=0, stable=True).indices[:keep]
        every = torch.stack([best.indices for best in found])
        exponents = every.gather(0, order[:, None].expand(-1, every.shape[1], -1))
    return torch.tensor(candidates, dtype=weight.dtype, device=weight.device)[order], exponents


def _group_errors(grid: Grid, weight: Tensor, step: float, importance: Tensor) -> Tensor:
    """Weighted squared errors (G, R) of weights (K, R) rounded to nearest with one step for all."""
    inputs, rows = weight.shape
    code = (weight * (1 / step)).round_().clamp_(grid.low, grid.high)
    loss = torch.sub(weight, code, alpha=step).square_()
    if not grid.group_size:
        return (importance @ loss)[None]
    groups = grid.groups(inputs)
    loss.mul_(importance[:, None])
    if groups * grid.group_size > inputs:
        loss = torch.nn.functional.pad(loss, (0, 0, 0, groups * grid.group_size - inputs))
    return loss.view(groups, grid.group_size, rows).sum(1)
