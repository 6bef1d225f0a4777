"""Rounding weights against the second moments of their inputs (GPTQ), with a search for the scale.

The layer error of a rounded row v is `(w - v) H (w - v)^T`, H the second moments of the inputs. Three steps lower it:
act-order GPTQ (Frantar et al. 2022, arXiv:2210.17323: round one input after the other, most active first, and move
the error onto the inputs still open), run for several candidate scales side by side as extra rows; then,
alternately, the least-squares scale of the codes and coordinate descent over the codes for that scale.
"""

from __future__ import annotations

import torch

from kirin_lava.quantize.grid import Grid, search_scales

DAMPING = 0.01
"""Share of the mean diagonal added to H: keeps the inverse sane, and unseen inputs rounded to nearest."""
CANDIDATES = 6
REFINEMENTS = 4
_BLOCK = 64
_ELEMENTS = 1 << 23  # of the widened weight at a time: bounds the memory for wide layers


def damped(hessian: torch.Tensor) -> torch.Tensor:
    """H normalised to mean diagonal 1, plus DAMPING on the diagonal; float64 (K, K). All-zero H: the identity."""
    matrix = hessian.to(torch.float64)
    mean = matrix.diagonal().mean()
    eye = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
    return matrix / mean + DAMPING * eye if float(mean) > 0 else eye


def quantize_gptq(grid: Grid, weight: torch.Tensor, hessian: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales and exponents of `weight` that keep the layer error small.

    weight float32 (N, K), rows normalised to a largest magnitude of 1; hessian from `damped`.
    Returns codes (float32 integers, N, K), scale (N,), exponents int64 (N, G).
    """
    order = hessian.diagonal().argsort(descending=True, stable=True)
    inverse = torch.linalg.inv(hessian[order][:, order])
    upper = torch.linalg.cholesky(0.5 * (inverse + inverse.T), upper=True).to(torch.float32)
    moments = hessian.to(torch.float32)
    importance = moments.diagonal()
    rows = max(1, _ELEMENTS // (weight.shape[1] * CANDIDATES))
    parts = []
    for chunk in torch.split(weight, rows):
        scales, exponents = search_scales(grid, chunk, importance, CANDIDATES)
        code, scale, exponent = _best_candidate(grid, chunk, scales, exponents, moments, upper, order)
        code, scale = _refine(grid, chunk, code, scale, exponent, moments)
        parts.append((code, scale, exponent))
    code, scale, exponent = (torch.cat(column) for column in zip(*parts, strict=True))
    return code, scale, exponent


def layer_error(difference: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """`e H e^T` of every row e of `difference` (R, K); (R,)."""
    return ((difference @ hessian) * difference).sum(1)


def _best_candidate(
    grid: Grid,
    weight: torch.Tensor,
    scales: torch.Tensor,
    exponents: torch.Tensor,
    hessian: torch.Tensor,
    upper: torch.Tensor,
    order: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """GPTQ for every candidate of every row at once; the candidate with the lowest full error wins."""
    rows, inputs = weight.shape
    tried = scales.shape[1]
    wide = weight.repeat_interleave(tried, dim=0)
    step = scales.reshape(-1, 1) * grid.expand(exponents.reshape(rows * tried, -1), inputs)
    code = torch.empty_like(wide)
    code[:, order] = _gptq(grid, wide[:, order], step[:, order], upper)
    error = layer_error(wide - code * step, hessian).view(rows, tried)
    best = error.argmin(1)
    row = torch.arange(rows, device=weight.device)
    return code.view(rows, tried, inputs)[row, best], scales[row, best], exponents[row, best]


def _gptq(grid: Grid, weight: torch.Tensor, step: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """Codes by GPTQ, inputs already in rounding order; `upper` is the Cholesky factor of the inverse of H."""
    weight = weight.clone()
    code = torch.empty_like(weight)
    inputs = weight.shape[1]
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        block = weight[:, start:end]
        lost = torch.empty_like(block)
        for j in range(end - start):
            at = start + j
            column = grid.codes(block[:, j], step[:, at])
            code[:, at] = column
            lost[:, j] = (block[:, j] - column * step[:, at]) / upper[at, at]
            block[:, j + 1 :] -= torch.outer(lost[:, j], upper[at, at + 1 : end])
        weight[:, end:] -= lost @ upper[start:end, end:]
    return code


def _refine(
    grid: Grid,
    weight: torch.Tensor,
    code: torch.Tensor,
    scale: torch.Tensor,
    exponent: torch.Tensor,
    hessian: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least-squares scales and coordinate descent in turn; a row keeps its old state unless its error falls."""
    factor = grid.expand(exponent, weight.shape[1])
    target = weight @ hessian
    error = layer_error(weight - scale[:, None] * factor * code, hessian)
    for _ in range(REFINEMENTS):
        unit = factor * code
        power = layer_error(unit, hessian)
        fitted = (target * unit).sum(1) / power
        new_scale = torch.where((power > 0) & (fitted > 0), fitted, scale)
        new_code = _descend(grid, weight, code, new_scale[:, None] * factor, hessian)
        new_error = layer_error(weight - new_scale[:, None] * factor * new_code, hessian)
        better = new_error < error
        scale = torch.where(better, new_scale, scale)
        code = torch.where(better[:, None], new_code, code)
        error = torch.where(better, new_error, error)
    return code, scale


def _descend(grid: Grid, weight: torch.Tensor, code: torch.Tensor, step: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """One sweep of coordinate descent: each code in turn to its best value, the others fixed."""
    code = code.clone()
    inputs = weight.shape[1]
    gradient = (weight - code * step) @ hessian
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        local = gradient[:, start:end].clone()
        moved = torch.empty_like(local)
        for j in range(end - start):
            at = start + j
            value = code[:, at] * step[:, at]
            column = grid.codes(value + local[:, j] / hessian[at, at], step[:, at])
            moved[:, j] = column * step[:, at] - value
            code[:, at] = column
            local -= torch.outer(moved[:, j], hessian[at, start:end])
        gradient -= moved @ hessian[start:end]
    return code
