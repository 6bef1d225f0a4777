"""Weight rounding: integer domains, canonical form, what each method promises, and errors with a place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kirin_lava.base.errors import KirinError
from kirin_lava.methods.recipe import WeightSpec
from kirin_lava.quantize import gptq, weights
from kirin_lava.quantize.weights import Matrix, WeightCodes, grid_of, quantize_weight, quantize_weights

SPECS = [WeightSpec(), WeightSpec(8), WeightSpec(method="gptq"), WeightSpec(8, "gptq")]


def layer(rows: int, inputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight with heavy tails and the second moments of correlated inputs of uneven size."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, inputs, generator=generator)
    weight *= 1 + 4 * (torch.rand(rows, inputs, generator=generator) < 0.03)
    mix = torch.randn(inputs, inputs, generator=generator) / inputs**0.5 + torch.eye(inputs)
    sample = torch.randn(4 * inputs, inputs, generator=generator) @ mix
    sample *= torch.exp(torch.randn(inputs, generator=generator))
    return weight, sample.T @ sample


def error(weight: torch.Tensor, codes: WeightCodes, hessian: torch.Tensor) -> float:
    difference = weight - torch.from_numpy(codes.dequantized())
    return float(((difference @ hessian) * difference).sum())


def same(a: WeightCodes, b: WeightCodes) -> bool:
    return np.array_equal(a.weight, b.weight) and np.array_equal(a.scale, b.scale)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("inputs", [1, 31, 64, 100])
def test_integer_domains(spec: WeightSpec, inputs: int) -> None:
    weight, hessian = layer(9, inputs)
    codes = quantize_weight(weight, spec, hessian)
    assert codes.weight.shape == (9, inputs) and codes.weight.dtype == np.int8
    assert codes.scale.shape == (9,) and codes.scale.dtype == np.float32 and (codes.scale > 0).all()
    low, high = {4: (-8, 7), 8: (-127, 127)}[spec.bits]
    assert codes.weight.min() >= low and codes.weight.max() <= high


def test_gptq_finds_a_grid_again() -> None:
    """A matrix of codes times a scale that no candidate hits exactly: the least-squares scale restores every code."""
    spec = WeightSpec(method="gptq")
    generator = torch.Generator().manual_seed(1)
    code = torch.randint(grid_of(spec).low, grid_of(spec).high + 1, (5, 64), generator=generator)
    code[:, 0] = grid_of(spec).low
    scale = torch.tensor([1e-3, 0.5, 1.0, 3.0, 1e4])
    codes = quantize_weight(scale[:, None] * code, spec, layer(1, 64)[1])
    assert np.array_equal(codes.weight, code.numpy())
    assert np.allclose(codes.scale, scale, rtol=1e-5)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_dead_rows_and_dead_inputs(spec: WeightSpec) -> None:
    weight, hessian = layer(6, 64)
    weight[2] = 0
    weight[4] = 1e-42  # denormal: no float32 scale could carry its codes
    dead = [0, 33, 63]
    hessian[dead] = 0
    hessian[:, dead] = 0
    codes = quantize_weight(weight, spec, hessian)
    for row in (2, 4):
        assert not codes.weight[row].any() and codes.scale[row] == 1
    live = [0, 1, 3, 5]
    step = codes.scale[live, None] * np.ones((1, 64), np.float32)
    clipped = np.abs(weight.numpy()[live]) > 7 * step
    off = np.abs(weight.numpy()[live] - codes.dequantized()[live])
    if spec.method == "gptq":  # an input that calibration never saw is rounded to nearest
        assert ((off <= 0.501 * step) | clipped)[:, dead].all()


def test_all_dead_inputs_round_to_nearest() -> None:
    weight, _ = layer(4, 32)
    codes = quantize_weight(weight, WeightSpec(method="gptq"), torch.zeros(32, 32))
    off = np.abs(weight.numpy() - codes.dequantized())
    assert (off <= 0.501 * codes.scale[:, None] + (np.abs(codes.weight) >= 7) * 10).all()


def test_each_stage_lowers_the_layer_error() -> None:
    weight, hessian = layer(48, 160)
    ladder = [
        error(weight, quantize_weight(weight, spec, hessian), hessian)
        for spec in (WeightSpec(), WeightSpec(method="gptq"), WeightSpec(8))
    ]
    assert ladder[0] > 1.5 * ladder[1] > 1.5 * ladder[2]


def test_searched_scale_beats_the_largest_magnitude() -> None:
    weight, _ = layer(32, 128)
    naive_scale = weight.abs().amax(1, keepdim=True) / 7
    naive = weight - (weight / naive_scale).round() * naive_scale
    eye = torch.eye(128)
    assert error(weight, quantize_weight(weight, WeightSpec()), eye) < 0.8 * float(naive.square().sum())


def test_importance_steers_round_to_nearest() -> None:
    weight, hessian = layer(32, 64)
    hessian = hessian.diagonal().diag()
    with_it = error(weight, quantize_weight(weight, WeightSpec(), hessian), hessian)
    assert with_it < error(weight, quantize_weight(weight, WeightSpec()), hessian)


def test_refinement_only_falls() -> None:
    weight, hessian = layer(24, 96)
    spec = WeightSpec(method="gptq")
    errors = []
    for rounds in (0, 1, 4):
        codes = quantize_weights([Matrix(weight, spec, hessian)], gptq.Effort(6, rounds))[0]
        difference = (weight - torch.from_numpy(codes.dequantized())).double()
        errors.append(gptq.layer_error(difference, gptq.damped(hessian)))
    assert (errors[1] <= errors[0] * (1 + 1e-5)).all() and (errors[2] <= errors[1] * (1 + 1e-5)).all()
    assert errors[2].sum() < 0.99 * errors[0].sum()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_any_number_of_threads_gives_the_same_bytes(spec: WeightSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are cut by the shape alone, and each is what it would be without the others."""
    monkeypatch.setattr(weights, "_MOST_ROWS", 16)
    monkeypatch.setattr(weights, "_FEWEST_ROWS", 1)
    matrices = [Matrix(*sized[:1], spec, sized[1]) for sized in (layer(40, 100), layer(7, 64, 1), layer(33, 31, 2))]
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            found.append(quantize_weights(matrices))
        finally:
            torch.set_num_threads(1)
    assert all(same(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    alone = quantize_weight(matrices[0].weight[13:26], spec, matrices[0].hessian)
    assert np.array_equal(found[0][0].weight[13:26], alone.weight) and np.array_equal(found[0][0].scale[13:26], alone.scale)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(SPECS),
    st.integers(1, 8),
    st.integers(1, 70),
    st.floats(-20, 20),
    st.integers(0, 3),
)
def test_scale_equivariant_and_repeatable(spec: WeightSpec, rows: int, inputs: int, octaves: float, seed: int) -> None:
    """The same codes twice, for the weight times a power of two, and for a Hessian in another unit."""
    weight, hessian = layer(rows, inputs, seed)
    factor = 2.0 ** round(octaves)
    codes = quantize_weight(weight, spec, hessian)
    assert same(codes, quantize_weight(weight.clone(), spec, hessian.clone()))
    scaled = quantize_weight(weight * factor, spec, hessian * 2.0**-5)
    assert np.array_equal(codes.weight, scaled.weight)
    assert np.array_equal(codes.scale * np.float32(factor), scaled.scale)


def test_half_and_parameters_are_accepted() -> None:
    weight, _ = layer(4, 16)
    for form in (weight.bfloat16(), weight.half(), torch.nn.Parameter(weight)):
        assert same(quantize_weight(form, WeightSpec()), quantize_weight(form.detach().float(), WeightSpec()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_equal_quality() -> None:
    weight, hessian = layer(64, 128)
    spec = WeightSpec(method="gptq")
    on_host = error(weight, quantize_weight(weight, spec, hessian), hessian)
    assert error(weight, quantize_weight(weight.cuda(), spec, hessian), hessian) == pytest.approx(on_host, rel=0.02)


def test_errors_name_the_place() -> None:
    weight, hessian = layer(4, 8)
    bad = weight.clone()
    bad[2, 5] = float("nan")
    with pytest.raises(KirinError, match="row 2, column 5"):
        quantize_weight(bad, WeightSpec())
    sick = hessian.clone()
    sick[3, 3] = float("inf")
    with pytest.raises(KirinError, match="Hessian: inf at row 3, column 3"):
        quantize_weight(weight, WeightSpec(method="gptq"), sick)
    negative = hessian.clone()
    negative[1, 1] = -1
    with pytest.raises(KirinError, match="input 1"):
        quantize_weight(weight, WeightSpec(), negative)
    with pytest.raises(KirinError, match=r"\(8, 8\), not \(7, 7\)"):
        quantize_weight(weight, WeightSpec(method="gptq"), hessian[:7, :7])
    with pytest.raises(KirinError, match="needs the second moments"):
        quantize_weight(weight, WeightSpec(method="gptq"))
    with pytest.raises(KirinError, match=r"not \(0, 8\)"):
        quantize_weight(weight[:0], WeightSpec())
    with pytest.raises(KirinError, match=r"not \(8,\)"):
        quantize_weight(weight[0], WeightSpec())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 3}, "3 bits"),
        ({"method": "awq"}, "'awq'"),
    ],
)
def test_spec_rejects(options: dict[str, object], message: str) -> None:
    with pytest.raises(KirinError, match=message):
        WeightSpec(**options)  # type: ignore[arg-type]
