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
from functools import cached_property

import torch
from torch import Tensor

from kirin_lava.quantize.grid import Grid, search_scales

__all__ = ["EFFORT", "Effort", "Moments", "damped", "layer_error", "round_rows"]

DAMPING = 0.01
"""Share of the mean diagonal added to H: keeps it positive definite, and unseen inputs rounded to nearest."""
_BLOCK = 64


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


EFFORT = Effort(candidates=10, refinements=2)
"""By the table of `benchmarks/rounding.py`: what more of either lowers the error by is below 1 % on a real model."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments H = M M^T of K inputs, made ready for rounding. All but `order` are in rounding order, most active first.

    Attributes:
        order: (K,) int64, the inputs.
        pull: (K, K) float32, row j: how far the other inputs' errors move the best value of j, H_ij / H_jj.
        power: (K,) float32, H_jj.
        carried: (K, K) float32, row j: how much of the error of an input before j is for j to make good, M_ij / M_jj.
        cost: (K,) float32, M_jj^2, of the squared error that an input leaves in the end.
    """

    order: Tensor
    pull: Tensor
    power: Tensor
    carried: Tensor
    cost: Tensor

    @staticmethod
    def of(hessian: Tensor) -> Moments:
        """From `damped` moments, (K, K) float64."""
        order = hessian.diagonal().argsort(descending=True, stable=True)
        matrix = hessian[order][:, order]
        lower = torch.linalg.cholesky(matrix.flip(0, 1)).flip(0, 1).T  # M^T: of the inputs backwards, turned round
        power, root = matrix.diagonal().clone(), lower.diagonal().clone()
        pull, carried = matrix.div_(power[:, None]).to(torch.float32), lower.div_(root[:, None]).to(torch.float32)
        return Moments(
            order, pull.contiguous(), power.to(torch.float32), carried.contiguous(), root.square_().to(torch.float32)
        )

    @cached_property
    def pulled_near(self) -> list[Tensor]:
        """Rows of `pull`, from the beginning of their block to the diagonal."""
        return _near(self.pull)

    @cached_property
    def carried_near(self) -> list[Tensor]:
        """Rows of `carried`, from the beginning of their block to the diagonal."""
        return _near(self.carried)


def _near(matrix: Tensor) -> list[Tensor]:
    return [matrix[j, j - j % _BLOCK : j] for j in range(len(matrix))]


def round_rows(grid: Grid, weight: Tensor, moments: Moments, effort: Effort = EFFORT) -> tuple[Tensor, Tensor]:
    """Codes and scales of some rows of a weight that keep the layer error small.

    weight: float32 (K, R), a row's largest magnitude 1. Returns codes (float32 integers, K, R) and scales (R,). Inputs come
    and go in their own order.
    """
    importance = torch.empty_like(moments.power)
    importance[moments.order] = moments.power
    scales = search_scales(grid, weight, importance, effort.candidates)
    ordered = weight[moments.order]
    code, errors = _gptq(grid, ordered, scales, moments)
    best = errors.argmin(0, keepdim=True)
    code = code.gather(1, best.expand(len(code), 1, -1)).squeeze(1)
    scale = scales.gather(0, best).squeeze(0)
    if effort.refinements:
        code, scale = _refine(grid, ordered, code, scale, moments, effort.refinements)
    result = torch.empty_like(code)
    result[moments.order] = code
    return result, scale


def layer_error(difference: Tensor, hessian: Tensor) -> Tensor:
    """`e H e^T` of every row e of `difference` (R, K); (R,)."""
    return ((difference @ hessian) * difference).sum(1)


def _gptq(grid: Grid, weight: Tensor, scales: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """Codes (K, C, R) by GPTQ with C candidate scales side by side, and their layer errors (C, R).

    weight (K, R) in rounding order, scales (C, R). Within, everything is in units of the scale.
    """
    inputs, shape = len(weight), scales.shape
    wide = shape.numel()
    code, lost = weight.new_empty(inputs, *shape), weight.new_empty(inputs, wide)
    wanted, left = weight.new_empty(2, _BLOCK, wide)
    error = weight.new_zeros(wide)
    before = [left[:j].T for j in range(_BLOCK)]
    unscale = scales.reciprocal()
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        own = (weight[start:end, None] * unscale).view(-1, wide)
        want = wanted[: end - start]
        if start:
            torch.addmm(own, moments.carried[start:end, :start], lost[:start], out=want)
        else:
            want.copy_(own)
        q = code[start:end].view(-1, wide)
        columns = zip(want, q, own, left, before, moments.carried_near[start:end], strict=False)
        for at, (row, integer, exact, rest, earlier, near) in enumerate(columns):
            if at:
                row.addmv_(earlier, near)
            torch.round(row, out=integer).clamp_(grid.low, grid.high)
            torch.sub(exact, integer, out=rest)
        lost[start:end] = left[: end - start]
        # what an input leaves is its wanted value less its own: `left` has its weight instead of the wanted value
        want.sub_(own).add_(left[: end - start]).square_()
        error.addmv_(want.T, moments.cost[start:end])
    return code, error.view(shape).mul_(scales.square())


def _refine(grid: Grid, weight: Tensor, code: Tensor, scale: Tensor, moments: Moments, rounds: int) -> tuple[Tensor, Tensor]:
    """Least-squares scales and coordinate descent in turn, and a scale at the end. A row keeps what it had unless its error
    falls."""
    before, code = (code, scale), code.clone()
    target, product = moments.pull @ weight, moments.pull @ code
    first = _error(weight, code, scale, target, product, moments)
    for _ in range(rounds):
        scale = _fitted(code, scale, target, product, moments)
        _descend(grid, code, product, target, scale, moments)
    scale = _fitted(code, scale, target, product, moments)
    better = _error(weight, code, scale, target, product, moments) < first
    return torch.where(better, code, before[0]), torch.where(better, scale, before[1])


def _fitted(code: Tensor, scale: Tensor, target: Tensor, product: Tensor, moments: Moments) -> Tensor:
    """The scales of least error for weights `scale * code`; target is `pull @ w`, product `pull @ code`."""
    power, overlap = moments.power @ (code * product), moments.power @ (code * target)
    return torch.where((power > 0) & (overlap > 0), overlap / power, scale)


def _error(weight: Tensor, code: Tensor, scale: Tensor, target: Tensor, product: Tensor, moments: Moments) -> Tensor:
    left = torch.addcmul(weight, code, scale, value=-1)
    return moments.power @ left.mul_(torch.addcmul(target, product, scale, value=-1))


def _descend(grid: Grid, code: Tensor, product: Tensor, target: Tensor, scale: Tensor, moments: Moments) -> None:
    """One sweep of coordinate descent: each code in turn to its best value, the others fixed.

    Changes `code` (K, R) and `product`, `pull @ code`.
    """
    inputs, rows = code.shape
    moved, unscale = code.new_empty(_BLOCK, rows), scale.reciprocal()
    before = [moved[:j].T for j in range(_BLOCK)]
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        old = code[start:end]
        best = torch.addcmul(old, target[start:end], unscale).sub_(product[start:end])
        columns = zip(best, old, moved, before, moments.pulled_near[start:end], strict=False)
        for at, (row, last, way, earlier, near) in enumerate(columns):
            if at:
                row.addmv_(earlier, near, alpha=-1)
            row.round_().clamp_(grid.low, grid.high)
            torch.sub(row, last, out=way)
        old.copy_(best)
        product.addmm_(moments.pull[:, start:end], moved[: end - start])
