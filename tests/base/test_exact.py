"""Exact arithmetic against integers, fractions and float64, at the edges of every range."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kirin_lava.base import exact
from kirin_lava.base.exact import EXACT_SUM_LIMIT, EXP2, EXP2_COARSE, RankBound, exact_sum, exp2
from kirin_lava.spikes.codes import CODES, OFFSET, UNSIGNED8, SpikeCode

CPU = torch.device("cpu")
ULP = 2.0**-23  # of float32 numbers from 1 to 2


def powers(x: Tensor) -> Tensor:
    return torch.exp2(x.double())


def test_exp2_is_within_three_ulp_of_float64() -> None:
    x = torch.cat([torch.linspace(-120, 126, 400_001), torch.linspace(-1, 1, 200_001)])
    y = exp2(x.clone()).double()
    unit = torch.exp2(torch.floor(torch.log2(powers(x)))) * ULP
    assert float(((y - powers(x)).abs() / unit).max()) <= 3
    assert float(exp2(torch.zeros(1))) == pytest.approx(1.0, rel=ULP)


def test_coarse_exp2_has_one_factor_and_stays_below_one() -> None:
    x = torch.linspace(-120, 0, 300_001)
    ratio = exp2(x.clone(), EXP2_COARSE).double() / powers(x)
    factor = float(ratio.max() + ratio.min()) / 2
    assert float((ratio / factor - 1).abs().max()) < 2**-13.5
    assert factor > 0.5 and float(exp2(x.clone(), EXP2_COARSE).max()) < 1.0


def test_exp2_is_clamped_and_keeps_nan() -> None:
    low, high, broken = exp2(torch.tensor([-torch.inf, torch.inf, torch.nan])).tolist()
    assert 0 < low < 2.0**-119 and 2.0**125 < high < math.inf and math.isnan(broken)


@settings(max_examples=30)
@given(length=st.integers(1, 70), start=st.integers(0, 9), seed=st.integers(0, 99))
@pytest.mark.parametrize("polynomial", [EXP2, EXP2_COARSE], ids=["fine", "coarse"])
def test_bits_of_exp2_do_not_depend_on_the_place(polynomial: exact.Polynomial, length: int, start: int, seed: int) -> None:
    x = torch.randn(80, generator=torch.Generator().manual_seed(seed)) * 20
    alone = torch.cat([exp2(x[i : i + 1].clone(), polynomial) for i in range(start, start + length)])
    assert torch.equal(exp2(x[start : start + length].clone(), polynomial), alone)


@settings(max_examples=40)
@given(
    terms=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=100),
    scale=st.integers(-40, 5),
    seed=st.integers(0, 99),
    padding=st.integers(0, 40),
)
def test_exact_sums_have_no_order(terms: list[float], scale: int, seed: int, padding: int) -> None:
    x = torch.tensor(terms, dtype=torch.float64) * 2.0**scale
    total = float(exact_sum(x))
    shuffled = torch.cat([x, torch.zeros(padding, dtype=torch.float64)])
    shuffled = shuffled[torch.randperm(len(shuffled), generator=torch.Generator().manual_seed(seed))]
    assert float(exact_sum(shuffled)) == total
    assert float(exact_sum(shuffled.expand(3, -1))[1]) == total
    rounded = [Fraction(round(Fraction(term) * 2**32), 2**32) for term in x.tolist()]
    assert Fraction(total) == sum(rounded)


def test_exact_sums_of_a_few_large_negative_terms_up_to_their_limit() -> None:
    """These are rounded to multiples of 2^-33: of those a float64 holds none beyond 2^20."""
    share = Fraction(EXACT_SUM_LIMIT) * 3 / 10
    term = float(-(Fraction(math.floor(share * 2**33) // 2 * 2 + 1) / 2**33))
    assert Fraction(term).denominator == 2**33
    x = torch.full((3,), term, dtype=torch.float64)
    total = Fraction(float(exact_sum(x)))
    each = Fraction(float(exact_sum(x[:1])))
    assert total == 3 * each and abs(total) < EXACT_SUM_LIMIT
    assert EXACT_SUM_LIMIT == 2.0**-33 * 2**53, "as high as it can be: which rows are scaled down decides over their last bits"


def test_exact_sums_up_to_their_limit() -> None:
    term = EXACT_SUM_LIMIT / 2**15 - 2.0**-32
    x = torch.full((2**15,), term, dtype=torch.float64)
    assert Fraction(float(exact_sum(x))) == 2**15 * Fraction(term)


SPIKING = [enc for enc in CODES if enc.has_spikes]


def bound_of(enc: SpikeCode, digits: int) -> RankBound:
    return RankBound((enc.code_span(messages=False)[1] + 0.499) / (enc.code_max + 0.49), digits)


def rounded_up(value: float, digits: int) -> float:
    """To `digits` binary digits after the first."""
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(mantissa * 2 ** (digits + 1)), exponent - digits - 1)


@settings(max_examples=150)
@given(
    enc=st.sampled_from(SPIKING),
    digits=st.sampled_from([2, 3, 7]),
    seed=st.integers(0, 2**16),
    width=st.integers(1, 200),
    budget=st.integers(1, 30),
    spread=st.sampled_from(["normal", "steep", "ties", "zeros", "grid"]),
    scale=st.integers(-60, 60),
)
def test_rank_bounds_by_sorting(
    enc: SpikeCode, digits: int, seed: int, width: int, budget: int, spread: str, scale: int
) -> None:
    """Both ways, selection and counting, against the definition."""
    rng = np.random.default_rng(seed)
    x = np.abs(rng.normal(size=(5, width))).astype(np.float32)
    if spread == "steep":
        x = x**8
    elif spread == "ties":
        x = np.ceil(3 * x)
    elif spread == "grid":
        x = np.exp2(np.ceil(3 * x)).astype(np.float32)
    elif spread == "zeros":
        x[rng.random(x.shape) < 0.7] = 0
    x = np.ldexp(x, scale).astype(np.float32)
    bound = bound_of(enc, digits)
    rows, largest = torch.from_numpy(x), torch.from_numpy(x.max(1, keepdims=True))
    selected = bound(rows, largest, budget).flatten().tolist()
    counted = bound(rows, largest, torch.tensor(float(budget))).flatten().tolist()
    for row, by_selection, by_counting in zip(x.tolist(), selected, counted, strict=True):
        place = width - budget - 1
        wanted = rounded_up(sorted(row)[place], digits) if place >= 0 else 0.0
        negligible = bound.depth * max(row)
        for found in (by_selection, by_counting):
            assert found == wanted or max(found, wanted) < negligible or max(row) == 0
            assert sum(value > found for value in row) <= budget or found < negligible


def test_rank_bounds_of_rows_with_their_own_budgets() -> None:
    x = torch.rand(2, 6, 40, generator=torch.Generator().manual_seed(0))
    budgets = torch.arange(1.0, 7.0).view(-1, 1)
    bound = bound_of(UNSIGNED8, 3)
    together = bound(x, x.amax(-1, keepdim=True), budgets)
    for i in range(6):
        row = x[:, i : i + 1]
        assert torch.equal(together[:, i : i + 1], bound(row, row.amax(-1, keepdim=True), i + 1))


def test_rank_bounds_of_many_elements_equal_those_of_few() -> None:
    x = torch.randn(600, 130, generator=torch.Generator().manual_seed(1)).abs()
    bound, largest = bound_of(OFFSET, 3), x.amax(-1, keepdim=True)
    alone = torch.cat([bound(row, top, 13) for row, top in zip(x.split(1), largest.split(1), strict=True)])
    assert torch.equal(bound(x, largest, 13), alone)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_computes_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 300, generator=generator) * 30
    for polynomial in (EXP2, EXP2_COARSE):
        assert torch.equal(exp2(x.cuda(), polynomial).cpu(), exp2(x.clone(), polynomial))
    assert torch.equal(exact_sum(x.double().cuda()).cpu(), exact_sum(x.double()))
    bound, magnitude = bound_of(OFFSET, 3), x.abs()
    largest = magnitude.amax(-1, keepdim=True)
    assert torch.equal(bound(magnitude.cuda(), largest.cuda(), 30).cpu(), bound(magnitude, largest, 30))
