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
from kirin_lava.base.exact import EXACT_SUM_LIMIT, EXP2, EXP2_COARSE, ExactMatmul, RankBound, exact_sum, exp2
from kirin_lava.spikes.codes import CODES, OFFSET, UNSIGNED8, SpikeCode

CPU = torch.device("cpu")
ULP = 2.0**-23  # of float32 numbers from 1 to 2
KERNEL = exact._int8_kernel_is_exact(wide=True)


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


def by_integers(weight: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.int64) @ weight.astype(np.int64).T


def products(weight: np.ndarray, codes: np.ndarray, largest: int, signed: bool = True) -> np.ndarray:
    sums = ExactMatmul(weight, largest, CPU, signed)(torch.from_numpy(codes).float())
    return sums.to(torch.int64).numpy()


def assert_rounded_once(weight: np.ndarray, codes: np.ndarray, largest: int, signed: bool = True) -> None:
    sums = ExactMatmul(weight, largest, CPU, signed)(torch.from_numpy(codes).float()).float().numpy()
    np.testing.assert_array_equal(sums, by_integers(weight, codes).astype(np.float32))


def assert_exact(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal, but for sums beyond 2^24: they may be rounded, and stay beyond, with their sign."""
    held = np.abs(wanted) <= 2**24
    np.testing.assert_array_equal(found[held], wanted[held])
    assert (found[~held] * np.sign(wanted[~held]) >= 2**24).all()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**16),
    outputs=st.integers(1, 90),
    inputs=st.integers(1, 900),
    rows=st.integers(1, 40),
    bits=st.sampled_from([4, 7, 8]),
    largest=st.sampled_from([7, 127, 135, 255, 2047, 4095, 32639, 32640, 32767, 32775, 65535, 2**23 - 1]),
    signed=st.booleans(),
    spread=st.sampled_from(["even", "extreme", "messages"]),
)
def test_products_equal_int64(
    seed: int, outputs: int, inputs: int, rows: int, bits: int, largest: int, signed: bool, spread: str
) -> None:
    """Few weights and many, few rows and many, one digit and several: all kernels, and whatever lies between their limits."""
    rng = np.random.default_rng(seed)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    weight = rng.integers(low, high + 1, (outputs, inputs)).astype(np.int8)
    codes = rng.integers(-largest if signed else 0, largest + 1, (rows, inputs))
    if spread == "extreme":
        weight = rng.choice([low, high], weight.shape).astype(np.int8)
        codes = np.where(codes < 0, -largest, largest)
    elif spread == "messages":
        codes = np.where(rng.random(codes.shape) < 0.05, codes, np.clip(codes, -7, 7))
    assert_exact(products(weight, codes, largest, signed), by_integers(weight, codes))
    if largest <= exact.ROUNDS_ONCE:
        assert_rounded_once(weight, codes, largest, signed)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(("largest", "signed"), [(127, True), (255, False), (2047, True), (4095, False), (32767, True)])
def test_every_code_is_multiplied_exactly(monkeypatch: pytest.MonkeyPatch, largest: int, signed: bool, kernel: bool) -> None:
    """All codes there are, a row for each: no digit and no row is lost, with the int8 kernel and without."""
    monkeypatch.setattr(exact, "_int8_kernel_is_exact", lambda wide: KERNEL and kernel)
    monkeypatch.setattr(exact, "_SUMS", 10_000)  # so that not all rows are taken at once
    codes = np.arange(-largest if signed else 0, largest + 1)[:, None] * np.array([[1, 0]])
    weight = np.array([[1, -128], [-128, 3], [127, 0]], np.int8)
    assert_exact(products(weight, codes, largest, signed), by_integers(weight, codes))


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize(("largest", "signed"), [(2047, True), (32767, True), (65535, False), (2**20, True)])
def test_sums_at_the_edge_of_float32(largest: int, signed: bool, rows: int) -> None:
    """From 2^24 - 3 to 2^24 + 3 and their negatives: exact up to 2^24, beyond it never less, though others cancel out."""
    weight = np.array([[1] + [127] * 70 + [90, -90] * 20, [-1] + [-127] * 70 + [-90, 90] * 20], np.int8)
    sums = np.arange(2**24 - 3, 2**24 + 4)
    codes = np.full((len(sums), weight.shape[1]), largest)
    codes[:, 0], left = sums % 127, sums // 127
    for k in range(1, 71):
        codes[:, k] = np.minimum(left, largest)
        left = left - codes[:, k]
    codes = np.tile(codes, (rows, 1))
    wanted = by_integers(weight, codes)
    np.testing.assert_array_equal(np.unique(wanted), [*-sums[::-1], *sums])
    assert_exact(products(weight, codes, largest, signed), wanted)


@pytest.mark.skipif(not KERNEL, reason="PyTorch has no exact int8 kernel on this CPU")
@pytest.mark.parametrize(("largest", "signed"), [(2047, True), (4095, False)])
def test_only_columns_with_higher_digits_are_multiplied_by_them(
    monkeypatch: pytest.MonkeyPatch, largest: int, signed: bool
) -> None:
    """The least codes that need two digits count, in whichever row; where too many columns hold one, all are multiplied."""
    low, high = (-128, 127) if signed else (0, 255)
    rng = np.random.default_rng(3)
    weight = rng.integers(-128, 128, (300, 240)).astype(np.int8)
    codes = np.tile(rng.integers(low, high + 1, 240), (40, 1))
    matmul = ExactMatmul(weight, largest, CPU, signed)
    taken: list[tuple[int, ...]] = []
    linear = torch.nn.functional.linear

    def watched(x: Tensor, columns: Tensor) -> Tensor:
        taken.append(tuple(columns.shape))
        return linear(x, columns)

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    for columns in (0, 1, 2, 60, 61, 240):
        codes[5:7, :columns] = np.resize([high + 1, low - 1 if signed else largest], columns)
        found = matmul(torch.from_numpy(codes).float())
        assert_exact(found.to(torch.int64).numpy(), by_integers(weight, codes))
    assert taken == [(300, 1), (300, 2), (300, 60)]


@pytest.mark.parametrize("rows", [1, 20])
def test_small_sums_of_digits_that_nearly_cancel_out(rows: int) -> None:
    """A code of -1 has the digits -1 and 255, and 1,001 times 127 times 255 is odd and beyond 2^24."""
    weight, codes = np.full((2, 1001), 127, np.int8), np.full((rows, 1001), -1)
    np.testing.assert_array_equal(products(weight, codes, 32767), by_integers(weight, codes))


def test_digits_whose_sums_pass_float32_are_split() -> None:
    """Weights and codes at their ends, 12,000 of them: sums up to 5e10, in float64."""
    rng = np.random.default_rng(2)
    weight = rng.choice([-128, 127], (3, 12_000)).astype(np.int8)
    weight[0] = 127
    for largest, signed in ((2047, True), (32767, True), (65535, False)):
        codes = rng.choice([-largest if signed else 0, largest, 5], (3, 12_000))
        codes[0] = largest
        matmul = ExactMatmul(weight, largest, CPU, signed)
        sums = matmul(torch.from_numpy(codes).float())
        assert sums.dtype == torch.float64
        np.testing.assert_array_equal(sums.numpy(), by_integers(weight, codes))


@pytest.mark.parametrize("largest", [127, 135, 255])
@pytest.mark.parametrize("signed", [True, False])
def test_sums_beyond_float32_are_split(largest: int, signed: bool) -> None:
    """A fan-in of 12,000 with extreme weights and codes: single sums reach 39600,000."""
    inputs = 12_000
    weight = np.stack([np.full(inputs, 127), np.full(inputs, -128), np.resize([127, -128, 1], inputs), np.ones(inputs)])
    codes = np.stack([np.full(inputs, largest), np.resize([largest, largest - 1, 0, 3], inputs)])
    codes = np.concatenate([codes, -codes]) if signed else codes
    matmul = ExactMatmul(weight.astype(np.int8), largest, CPU, signed)
    assert matmul.bound == 128 * inputs * largest
    for product in (matmul._packed, matmul._dense):
        if product is not None:
            assert len(product.parts) > 10
            assert product.parts[0][0] == 0 and product.parts[-1][1] == inputs
    sums = matmul(torch.from_numpy(codes).float())
    assert sums.dtype == torch.float64
    np.testing.assert_array_equal(sums.numpy(), by_integers(weight, codes))


@pytest.mark.parametrize(("last", "parts"), [(24, 1), (25, 2)])
def test_the_last_sum_below_two_to_the_24_is_not_split(last: int, parts: int) -> None:
    weight = np.array([[127] * 1040 + [last]], np.int8)
    matmul = ExactMatmul(weight, 127, CPU)
    assert (matmul.bound < 2**24) == (parts == 1) and abs(matmul.bound - 2**24) < 127
    assert {len(product.parts) for product in (matmul._packed, matmul._dense) if product is not None} == {parts}
    codes = np.full((1, 1041), 127)
    assert float(matmul(torch.from_numpy(codes).float())) == matmul.bound


@pytest.mark.skipif(not KERNEL, reason="PyTorch has no exact int8 kernel on this CPU")
def test_large_weights_are_kept_in_8_bits_alone() -> None:
    weight = np.random.default_rng(0).integers(-128, 128, (256, 300)).astype(np.int8)
    for largest in (7, 127, 2047, 32767):
        large, small = ExactMatmul(weight, largest, CPU), ExactMatmul(weight[:10], largest, CPU)
        assert large._packed is not None and large._dense is None
        assert small._packed is not None and small._dense is not None


@pytest.mark.parametrize("answer", [True, False])
def test_without_the_int8_kernel_the_sums_are_the_same(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    """As on a CPU whose kernel saturates beyond weights of 64, and on one that has none."""
    rng = np.random.default_rng(1)
    weight, codes = rng.integers(-128, 128, (300, 300)).astype(np.int8), rng.integers(-127, 128, (20, 300))
    monkeypatch.setattr(exact, "_int8_kernel_is_exact", lambda wide: answer and not wide)
    for largest, factor in ((127, 1), (2047, 16), (32767, 258)):
        for synapses in (weight, weight // 2):
            assert_exact(products(synapses, factor * codes, largest), by_integers(synapses, factor * codes))


def test_a_kernel_that_saturates_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding pairs of products in 16 bits, as x86 does without VNNI, is exact up to weights of 64 and not up to 127."""

    def saturating(x: Tensor, zero: int, packed: Tensor) -> Tensor:
        pairs = ((x + zero).unsqueeze(-2) * packed).unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1)
        return pairs.sum(-1) - zero * packed.sum(-1)

    monkeypatch.setattr(exact, "_pack", lambda weight: weight.float())
    monkeypatch.setattr(exact, "_packed_product", saturating)
    assert exact._int8_kernel_is_exact.__wrapped__(False)
    assert not exact._int8_kernel_is_exact.__wrapped__(True)


def test_a_missing_kernel_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(weight: Tensor) -> Tensor:
        raise RuntimeError("Didn't find engine for operation quantized::linear_prepack NoQEngine")

    monkeypatch.setattr(exact, "_pack", missing)
    assert not exact._int8_kernel_is_exact.__wrapped__(False)


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
    weight = np.random.default_rng(0).integers(-128, 128, (100, 300)).astype(np.int8)
    for most in (127, 2047, 32767):
        codes = (x * most / 127).round().clamp(-most, most)
        on_device = ExactMatmul(weight, most, torch.device("cuda"))(codes.cuda())
        assert torch.equal(on_device.cpu(), ExactMatmul(weight, most, CPU)(codes))


def test_two_products_of_bytes_fit_the_sixteen_bits_that_they_are_added_in() -> None:
    assert 2 * 255 * exact._PAIR_SAFE < 2**15 <= 2 * 255 * (exact._PAIR_SAFE + 1)
