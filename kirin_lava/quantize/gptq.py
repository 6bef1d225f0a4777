"""Rounding weights against the second moments of their inputs (GPTQ), with a search for the scale.

The layer error of a rounded row v is `(w - v) H (w - v)^T`, H the second moments of the inputs. With H = M M^T, M upper
triangular, it is the sum over the inputs j of

    (e_j M_jj + sum over i < j of e_i M_ij)^2,      e = w - v

Act-order GPTQ (Frantar et al. 2022, arXiv:2210.17323) rounds one input after the other, most active first, each to the code
that makes its own term small: `w_j + sum of e_i M_ij / M_jj` to nearest. This form is the published one without its inverse. It
is run for some candidate scales side by side and the lowest error wins; then, alternately, the least-squares scale of the codes
and coordinate descent over the codes for that scale.

Rows of a weight do not know of each other. A chunk of them is stored with the inputs first, (K, R), so that what is done to an
input is done to a row of memory, and errors are gathered from what was rounded before (left-looking), so that most of the work
is in a few large products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kirin_lava.quantize.grid import Grid, search_scales

__all__ = ["EFFORT", "Effort", "Moments", "damped", "layer_error", "round_rows"]

DAMPING = 0.01
"""Share of the mean diagonal added to H: keeps it positive definite, and unseen inputs rounded to nearest."""
_BLOCK = 32


def damped(hessian: Tensor) -> Tensor:
    """H normalised to mean diagonal 1, plus DAMPING on the diagonal; float64 (K, K). All-zero H: the identity."""
    matrix = hessian.to(torch.float64)
    mean = matrix.diagonal().mean()
    eye = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
    return matrix / mean + DAMPING * eye if float(mean) > 0 else eye


@dataclass(frozen=True)
class Effort:
    """How long to look: candidate scales of a row that go through GPTQ, rounds of scale and coordinate descent behind it."""

    candidates: int
    refinements: int


EFFORT = Effort(candidates=6, refinements=4)


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of K inputs, made ready for rounding. All but `order` are in rounding order, most active input first.

    Attributes:
        order: (K,) int64, the inputs.
        matrix: (K, K) float32, H.
        carried: (K, K) float32, row j: how much of the error of an input before j is for j to make good, M_ij / M_jj.
        cost: (K,) float32, M_jj^2: of the squared error that an input leaves in the end.
    """

    order: Tensor
    matrix: Tensor
    carried: Tensor
    cost: Tensor

    @staticmethod
    def of(hessian: Tensor) -> Moments:
        """From `damped` moments, (K, K) float64."""
        order = hessian.diagonal().argsort(descending=True, stable=True)
        matrix = hessian[order][:, order]
        lower = torch.linalg.cholesky(matrix.flip(0, 1)).flip(0, 1).T  # M^T: of the inputs backwards, turned round
        diagonal = lower.diagonal()
        carried = (lower / diagonal[:, None]).to(torch.float32).contiguous()
        return Moments(order, matrix.to(torch.float32), carried, diagonal.square().to(torch.float32))


def round_rows(grid: Grid, weight: Tensor, moments: Moments, effort: Effort = EFFORT) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scales and exponents of some rows of a weight that keep the layer error small.

    weight: float32 (K, R), a row's largest magnitude 1. Returns codes (float32 integers, K, R), scale (R,), exponents int64
    (G, R). Inputs come and go in their own order.
    """
    importance = torch.empty_like(moments.cost)
    importance[moments.order] = moments.matrix.diagonal()
    scales, exponents = search_scales(grid, weight, importance, effort.candidates)
    group = moments.order // grid.group_size if grid.group_size else torch.zeros_like(moments.order)
    ordered = weight[moments.order]
    code, scale, exponent = _best_candidate(grid, ordered, scales, exponents, moments, group)
    if effort.refinements:
        code, scale = _refine(grid, ordered, code, scale, exponent, moments, group, effort.refinements)
    result = torch.empty_like(code)
    result[moments.order] = code
    return result, scale, exponent


def layer_error(difference: Tensor, hessian: Tensor) -> Tensor:
    """`e H e^T` of every row e of `difference` (R, K); (R,)."""
    return ((difference @ hessian) * difference).sum(1)


def _best_candidate(
    grid: Grid, weight: Tensor, scales: Tensor, exponents: Tensor, moments: Moments, group: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """GPTQ for every candidate of every row at once; the candidate with the lowest error wins.

    weight (K, R), scales (C, R), exponents (C, G, R), group (K,): of every input.
    """
    steps = (scales[:, None] * torch.exp2(exponents.to(weight.dtype))).transpose(0, 1).contiguous()
    code, error = _gptq(grid, weight, steps, moments, group.tolist())
    best = error.argmin(0, keepdim=True)
    chosen = code.gather(1, best.expand(len(code), 1, -1)).squeeze(1)
    exponent = exponents.gather(0, best[:, None].expand(1, exponents.shape[1], -1)).squeeze(0)
    return chosen, scales.gather(0, best).squeeze(0), exponent


def _gptq(grid: Grid, weight: Tensor, steps: Tensor, moments: Moments, group: list[int]) -> tuple[Tensor, Tensor]:
    """Codes (K, C, R) by GPTQ and their layer errors (C, R).

    weight (K, R) and `group`, of every input, in rounding order; steps (G, C, R).
    """
    inputs = len(weight)
    shape = steps.shape[1:]
    wide = shape.numel()
    code, lost = weight.new_empty(inputs, *shape), weight.new_empty(inputs, wide)
    block, error = weight.new_empty(_BLOCK, wide), weight.new_zeros(wide)
    step, inverse = list(steps), list(steps.reciprocal())
    weights, codes, losts = list(weight), list(code), list(lost.view(inputs, *shape))
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        want = block[: end - start]
        if start:
            torch.mm(moments.carried[start:end, :start], lost[:start], out=want)
        else:
            want.zero_()
        want.view(-1, *shape).add_(weight[start:end, None])
        for at in range(start, end):
            g, row = group[at], want[at - start]
            if at > start:
                row.addmv_(lost[start:at].T, moments.carried[at, start:at])
            row = row.view(shape)
            q = torch.mul(row, inverse[g], out=codes[at]).round_().clamp_(grid.low, grid.high)
            torch.addcmul(weights[at], q, step[g], value=-1, out=losts[at])
            row.addcmul_(q, step[g], value=-1)
        error.addmv_(want.square_().T, moments.cost[start:end])
    return code, error.view(shape)


def _refine(
    grid: Grid,
    weight: Tensor,
    code: Tensor,
    scale: Tensor,
    exponent: Tensor,
    moments: Moments,
    group: Tensor,
    rounds: int,
) -> tuple[Tensor, Tensor]:
    """Least-squares scales and coordinate descent in turn, and a scale at the end. A row keeps what it had unless its error
    falls."""
    factor = torch.exp2(exponent.to(weight.dtype))
    factors = factor[group] if grid.group_size else factor
    target = moments.matrix @ weight
    before = code, scale
    code = code.clone()
    unit = code * factors
    product = moments.matrix @ unit
    first = _error(weight, unit, scale, target, product)
    for _ in range(rounds):
        scale = _fitted(unit, scale, target, product)
        gradient = torch.addcmul(target, product, scale, value=-1)
        _descend(grid, code, scale * factor, gradient, moments, group.tolist())
        unit = code * factors
        product = torch.sub(target, gradient).div_(scale)
    scale = _fitted(unit, scale, target, product)
    better = _error(weight, unit, scale, target, product) < first
    return torch.where(better, code, before[0]), torch.where(better, scale, before[1])


def _fitted(unit: Tensor, scale: Tensor, target: Tensor, product: Tensor) -> Tensor:
    """The scales of least error for weights `scale * unit`; target is H w, product H unit."""
    power, overlap = (unit * product).sum(0), (unit * target).sum(0)
    return torch.where((power > 0) & (overlap > 0), overlap / power, scale)


def _error(weight: Tensor, unit: Tensor, scale: Tensor, target: Tensor, product: Tensor) -> Tensor:
    left = torch.addcmul(weight, unit, scale, value=-1)
    return left.mul_(torch.addcmul(target, product, scale, value=-1)).sum(0)


def _descend(grid: Grid, code: Tensor, steps: Tensor, gradient: Tensor, moments: Moments, group: list[int]) -> None:
    """One sweep of coordinate descent, in place: each code in turn to its best value, the others fixed.

    code (K, R), steps (G, R), gradient (K, R) `H (w - steps * code)`, which is kept up to date.
    """
    inputs, rows = code.shape
    moved = code.new_empty(_BLOCK, rows)
    step, inverse = list(steps), list(steps.reciprocal())
    codes, gradients = list(code), list(gradient)
    pull = moments.matrix.diagonal().reciprocal().tolist()
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        near = moments.matrix[start:end, start:end]
        for at in range(start, end):
            g, j, old = group[at], at - start, codes[at]
            row = gradients[at]
            if j:
                row = row.addmv(moved[:j].T, near[j, :j], alpha=-1)
            new = torch.addcmul(old, row, inverse[g], value=pull[at]).round_().clamp_(grid.low, grid.high)
            torch.sub(new, old, out=moved[j]).mul_(step[g])
            old.copy_(new)
        gradient.addmm_(moments.matrix[:, start:end], moved[: end - start], alpha=-1)
