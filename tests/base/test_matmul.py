"""Products of codes and synapses are exact integers, by every kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kirin_lava.base import matmul
from kirin_lava.base.matmul import ExactMatmul

CPU = torch.device("cpu")
ULP = 2.0**-23  # of float32 numbers from 1 to 2
KERNEL = matmul._int8_kernel_is_exact(wide=True)


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
    if largest <= matmul.ROUNDS_ONCE:
        assert_rounded_once(weight, codes, largest, signed)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(("largest", "signed"), [(127, True), (255, False), (2047, True), (4095, False), (32767, True)])
def test_every_code_is_multiplied_exactly(monkeypatch: pytest.MonkeyPatch, largest: int, signed: bool, kernel: bool) -> None:
    """All codes there are, a row for each: no digit and no row is lost, with the int8 kernel and without."""
    monkeypatch.setattr(matmul, "_int8_kernel_is_exact", lambda wide: KERNEL and kernel)
    monkeypatch.setattr(matmul, "_SUMS", 10_000)  # so that not all rows are taken at once
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
    monkeypatch.setattr(matmul, "_int8_kernel_is_exact", lambda wide: answer and not wide)
    for largest, factor in ((127, 1), (2047, 16), (32767, 258)):
        for synapses in (weight, weight // 2):
            assert_exact(products(synapses, factor * codes, largest), by_integers(synapses, factor * codes))


def test_a_kernel_that_saturates_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding pairs of products in 16 bits, as x86 does without VNNI, is exact up to weights of 64 and not up to 127."""

    def saturating(x: Tensor, zero: int, packed: Tensor) -> Tensor:
        pairs = ((x + zero).unsqueeze(-2) * packed).unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1)
        return pairs.sum(-1) - zero * packed.sum(-1)

    monkeypatch.setattr(matmul, "_pack", lambda weight: weight.float())
    monkeypatch.setattr(matmul, "_packed_product", saturating)
    assert matmul._int8_kernel_is_exact.__wrapped__(False)
    assert not matmul._int8_kernel_is_exact.__wrapped__(True)


def test_a_missing_kernel_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(weight: Tensor) -> Tensor:
        raise RuntimeError("Didn't find engine for operation quantized::linear_prepack NoQEngine")

    monkeypatch.setattr(matmul, "_pack", missing)
    assert not matmul._int8_kernel_is_exact.__wrapped__(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_computes_the_same_bits() -> None:
    x = torch.randn(64, 300, generator=torch.Generator().manual_seed(0)) * 30
    weight = np.random.default_rng(0).integers(-128, 128, (100, 300)).astype(np.int8)
    for most in (127, 2047, 32767):
        codes = (x * most / 127).round().clamp(-most, most)
        on_device = ExactMatmul(weight, most, torch.device("cuda"))(codes.cuda())
        assert torch.equal(on_device.cpu(), ExactMatmul(weight, most, CPU)(codes))


def test_two_products_of_bytes_fit_the_sixteen_bits_that_they_are_added_in() -> None:
    assert 2 * 255 * matmul._PAIR_SAFE < 2**15 <= 2 * 255 * (matmul._PAIR_SAFE + 1)
