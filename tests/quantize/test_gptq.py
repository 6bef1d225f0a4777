"""GPTQ without the refinement behind it, which would hide a wrong turn, against the textbook: one column after the other."""

from __future__ import annotations

import pytest
import torch

from kirin_lava.quantize import gptq
from kirin_lava.quantize.grid import Grid


def moments(inputs: int, seed: int) -> torch.Tensor:
    """Damped second moments of correlated inputs, float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5 + torch.eye(inputs)
    sample = torch.randn(4 * inputs, inputs, generator=generator, dtype=torch.float64) @ mix
    return gptq.damped(sample.T @ sample)


def textbook(grid: Grid, weight: torch.Tensor, step: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """Optimal brain quantisation in a fixed order: round an input, spread its error over the open ones by the inverse of
    their moments, take it out of that inverse (Frantar et al. 2022, arXiv:2208.11580, eq. 2 and 3)."""
    weight, code = weight.clone(), torch.empty_like(weight)
    inverse = torch.linalg.inv(hessian)
    for k in range(weight.shape[1]):
        code[:, k] = (weight[:, k] / step[:, k]).round().clamp(grid.low, grid.high)
        lost = (weight[:, k] - code[:, k] * step[:, k]) / inverse[k, k]
        weight -= lost[:, None] * inverse[k]
        inverse = inverse - torch.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    return code


@pytest.mark.parametrize("inputs", [1, 2, 63, 64, 65, 150])
def test_codes_are_those_of_the_textbook(inputs: int) -> None:
    """Within a block of columns, and where the error of a block moves on to the next ones."""
    generator = torch.Generator().manual_seed(inputs)
    grid, hessian = Grid(-8, 7, 0), moments(inputs, inputs)
    weight = torch.randn(12, inputs, generator=generator, dtype=torch.float64)
    step = torch.full_like(weight, 0.3)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    codes = gptq._gptq(grid, weight, step, upper)
    expected = textbook(grid, weight, step, hessian)
    assert torch.equal(codes, expected)
    if inputs > 2:
        assert not torch.equal(codes, grid.codes(weight, step)), "the error must have moved some code"


@pytest.mark.parametrize("inputs", [40, 64, 150])
def test_without_refinement_it_beats_rounding_to_nearest_on_every_row(inputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scale and exponents for both; only where the errors go differs."""
    monkeypatch.setattr(gptq, "REFINEMENTS", 0)
    grid, hessian = Grid(-8, 7, 0), moments(inputs, inputs)
    weight = torch.randn(16, inputs, generator=torch.Generator().manual_seed(1))
    weight /= weight.abs().amax(1, keepdim=True)
    code, scale, _ = gptq.quantize_gptq(grid, weight, hessian)
    step = scale[:, None]
    errors = [gptq.layer_error(weight - q * step, hessian.float()) for q in (code, grid.codes(weight, step))]
    assert (errors[0] < 0.9 * errors[1]).all()
