"""Integer arithmetic: shifts and quotients that round as they say, counts of digits, and an overflow that is told."""

from __future__ import annotations

import math

import pytest
import torch

from kirin_lava.base.errors import FitError
from kirin_lava.base.integers import (
    MESSAGE_LIMIT,
    bit_length,
    bounded,
    divided,
    fraction_of,
    rescaled,
    shifted,
    to_fixed,
    to_real,
)


def numbers(bits: int, count: int = 4000) -> torch.Tensor:
    return torch.randint(-(2**bits), 2**bits, (count,), generator=torch.Generator().manual_seed(bits))


@pytest.mark.parametrize("bits", [-7, -1, 0, 1, 2, 17, 40, 61, 62, 63, 200])
def test_shifts_round_half_up_by_numbers_and_by_tensors(bits: int) -> None:
    x = torch.cat([numbers(52), numbers(8), torch.tensor([0, 1, -1, 3, -3])])
    exact = [
        math.floor((2 * n + 2**bits) / 2 ** (bits + 1)) if bits < 0 else (2 * n + 2**bits) >> (bits + 1) for n in x.tolist()
    ]
    exact = [n << -bits for n in x.tolist()] if bits < 0 else exact
    if bits <= 62:
        assert shifted(x, torch.full_like(x, bits)).tolist() == exact
    assert shifted(x, bits).tolist() == ([0] * len(x) if bits > 62 else exact)
    assert rescaled(x, 5 + bits, 5).tolist() == shifted(x, bits).tolist()


def test_quotients_are_exact_and_round_half_up() -> None:
    x, y = numbers(40), numbers(20).abs() + 1
    assert divided(x, y).tolist() == [(2 * a + b) // (2 * b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    assert divided(torch.tensor([3, -3, 5, -5]), 2).tolist() == [2, -1, 3, -2]


def test_digits_are_counted_at_every_power_of_two() -> None:
    x = torch.tensor([n for bits in range(62) for n in (2**bits - 1, 2**bits, 2**bits + 1)])
    assert bit_length(x).tolist() == [n.bit_length() for n in x.tolist()]


def test_what_does_not_fit_a_message_is_told_with_its_place() -> None:
    edge = torch.tensor([MESSAGE_LIMIT - 1, 1 - MESSAGE_LIMIT])
    assert bounded(edge, "mlp.gate", 4) is edge
    with pytest.raises(FitError, match=r"mlp.gate: -8388608 in units of 2\^-4 .*-5.243e\+05.* 4-fold headroom.*host: float"):
        bounded(torch.tensor([5, -MESSAGE_LIMIT]), "mlp.gate", 4)
    assert bounded(torch.zeros(0, dtype=torch.int64), "x", 0).numel() == 0


@pytest.mark.parametrize(("numbers", "worst"), [
    ([0, MESSAGE_LIMIT], 8388608), ([-MESSAGE_LIMIT - 1, MESSAGE_LIMIT], -8388609),
    ([-MESSAGE_LIMIT, MESSAGE_LIMIT + 5], 8388613), ([MESSAGE_LIMIT, -MESSAGE_LIMIT], 8388608),
])  # fmt: skip
def test_the_number_furthest_out_is_told_in_its_units(numbers: list[int], worst: int) -> None:
    with pytest.raises(FitError, match=rf"^o: {worst} in units of 2\^3 \(that is {worst * 8:.4g}".replace("+", r"\+")):
        bounded(torch.tensor(numbers), "o", -3)


def test_units_are_no_coarser_than_two_to_the_sixteen() -> None:
    assert fraction_of(2.0**36) == -16 and fraction_of(2.0**37 - 2.0**10) == -16
    with pytest.raises(FitError, match=r"an activation of 1\.374e\+11 is too large for units from 2\^16 on"):
        fraction_of(2.0**37)
    assert [fraction_of(2.0**exponent) for exponent in (-19, -20, -21, -50)] == [39, 40, 40, 40]
    assert [fraction_of(3.0, headroom) for headroom in (0, 1, 2, 3)] == [21, 20, 19, 18]


@pytest.mark.parametrize("peak", [1e-9, 0.3, 0.5, 1.0, 1.001, 77.0, 3e4, 4e6])
def test_units_leave_the_headroom_and_are_the_finest_that_do(peak: float) -> None:
    fraction = fraction_of(peak)
    assert 4 * peak * 2.0**fraction < MESSAGE_LIMIT
    assert fraction == 40 or 8 * peak * 2.0 ** (fraction + 1) > MESSAGE_LIMIT


def test_peaks_that_no_unit_holds() -> None:
    assert fraction_of(0.0) == 21
    for peak in (math.nan, math.inf, 1e13):
        with pytest.raises(FitError, match="activation"):
            fraction_of(peak)


def test_fixed_and_back() -> None:
    x = torch.tensor([0.3, -1.5, 2.0**-20])
    assert to_fixed(x, 8).tolist() == [77, -384, 0]
    assert to_real(to_fixed(x, 8), 8).tolist() == [77 / 256, -1.5, 0.0]
