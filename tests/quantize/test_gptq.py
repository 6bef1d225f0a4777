"""GPTQ without the refinement behind it, which would hide a wrong turn, against the textbook: one column after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kirin_lava.quantize import gptq
from kirin_lava.quantize.gptq import Effort, Moments, damped, layer_error
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
    grid, hessian = Grid(-8, 7), moments(inputs, inputs)
    weight = torch.randn(12, inputs, generator=generator, dtype=torch.float64)
    scale = torch.tensor([[0.3], [0.2]], dtype=torch.float64).expand(2, 12)  # two candidates for every row
    ready = Moments.of(hessian)
    order = ready.order
    ready = replace(ready, carried=ready.carried.double(), cost=ready.cost.double())
    codes, errors = gptq._gptq(grid, weight.T[order], scale, ready)
    for i in range(2):
        step = scale[i][:, None].expand(12, inputs)
        expected = textbook(grid, weight[:, order], step, hessian[order][:, order])
        assert torch.equal(codes[:, i].T, expected)
        left = weight[:, order] - codes[:, i].T * step
        assert torch.allclose(errors[i], layer_error(left, hessian[order][:, order]), rtol=1e-4)
        if inputs > 2:
            assert not torch.equal(expected, grid.codes(weight[:, order], step)), "the error must have moved some code"


def test_inputs_are_rounded_the_most_active_first() -> None:
    hessian = moments(40, 3)
    diagonal = hessian.diagonal()[Moments.of(hessian).order]
    assert (diagonal[1:] <= diagonal[:-1]).all() and not torch.equal(diagonal, hessian.diagonal())


@pytest.mark.parametrize("inputs", [40, 64, 150])
def test_without_refinement_it_beats_rounding_to_nearest_on_every_row(inputs: int) -> None:
    """The same scale for both; only where the errors go differs."""
    grid, hessian = Grid(-8, 7), moments(inputs, inputs)
    weight = torch.randn(16, inputs, generator=torch.Generator().manual_seed(1))
    weight /= weight.abs().amax(1, keepdim=True)
    code, scale = gptq.round_rows(grid, weight.T.contiguous(), Moments.of(hessian), Effort(6, 0))
    step = scale[:, None]
    errors = [layer_error(weight - q * step, hessian.float()) for q in (code.T, grid.codes(weight, step))]
    assert (errors[0] < 0.9 * errors[1]).all()


def test_the_error_that_decides_is_that_of_the_layer() -> None:
    """In rounding order and units of the weights, from products that are kept up to date."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn((60, 12), generator=generator)
    hessian = damped(x.T @ x)
    moments = Moments.of(hessian)
    weight = torch.randn((12, 5), generator=generator)
    code, scale = torch.randint(-8, 8, (12, 5), generator=generator).float(), torch.rand(5, generator=generator)
    found = gptq._error(weight, code, scale, moments.pull @ weight, moments.pull @ code, moments)
    ordered = hessian[moments.order][:, moments.order].float()
    torch.testing.assert_close(found, layer_error((weight - code * scale).T, ordered), rtol=1e-4, atol=0.0)
