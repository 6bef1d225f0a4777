"""Steps found with integers alone: the budget of messages holds, nothing is clipped, quotients are exact, steps fit 24 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import FitError
from kirin_lava.base.integers import MESSAGE_LIMIT, to_real
from kirin_lava.spikes.codes import (
    INTEGER8,
    OFFSET,
    REFINED,
    SIGNED16,
    UNSIGNED16,
    Channels,
    SpikeCode,
    integer,
    levels,
    offset,
)
from kirin_lava.spikes.steps import MinMax, RowBudget, StaticStep, TokenBudget, message_budget
from kirin_lava.spikes.whole import spare_bits

CODES = [OFFSET, SIGNED16, offset(12), offset(16), INTEGER8, integer(16)]


def some_rows(width: int, count: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(width)
    x = (
        torch.randn(1, count, width, generator=generator) * 2.0 ** torch.randint(0, 21, (count, 1), generator=generator)
    ).long()
    x[0, 0], x[0, 1], x[0, 2] = 0, MESSAGE_LIMIT - 1, 1 - MESSAGE_LIMIT
    x[0, 3, 0] = 1 - MESSAGE_LIMIT
    return x.clamp(1 - MESSAGE_LIMIT, MESSAGE_LIMIT - 1)


def steps_of(found: torch.Tensor, fraction: int) -> torch.Tensor:
    s = torch.ldexp(found.double(), torch.tensor(fraction))
    assert (s == s.round()).all() and s.min() >= 1 and s.max() < 2**24
    return s.long()


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("ratio", [0.0, 0.1])
@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
def test_tokens(code: SpikeCode, ratio: float, groups: int) -> None:
    x, rule, fraction = some_rows(64), TokenBudget(ratio), 9
    found = rule.integers(code, x, fraction, groups, 0, "here")
    bits = rule.step_bits(code, fraction)
    s = steps_of(found.step, fraction + bits).repeat_interleave(64 // groups, -1)
    exact = (2 * (x << bits) + s).numpy() // (2 * s).numpy()
    assert np.array_equal(found.q.numpy(), exact)
    assert exact.min() >= code.code_min and exact.max() <= code.code_max
    if code.has_spikes:
        messages = code.is_message(found.q).unflatten(-1, (groups, -1)).sum(-1)
        assert messages.max() <= message_budget(ratio, 64 // groups)
    real = rule.encode(code, to_real(x, fraction).float(), groups, 0, "here", True)
    assert (found.step[0, 4:] / real.step[0, 4:] - 1).abs().max() < 1.3  # tiny steps are rounded up to whole ones
    large = x[0].abs().amax(-1) > 2**14
    assert (found.step[0, large] / real.step[0, large] - 1).abs().max() < 0.14


def test_a_reach_bounds_the_sum_of_the_codes() -> None:
    code, x = offset(16), some_rows(64)
    rule = TokenBudget(0.1, reach=600)
    free = TokenBudget(0.1).integers(code, x, 9, 1, 0, "here").q.abs().sum(-1)
    assert free.max() > 600 >= rule.integers(code, x, 9, 1, 0, "here").q.abs().sum(-1).max()


@pytest.mark.parametrize("start", [0, 30])
def test_rows_of_probabilities(start: int) -> None:
    generator = torch.Generator().manual_seed(start)
    length, columns = 9, start + 9
    x = (torch.rand(2, 3, length, columns, generator=generator) ** 8 * 2**20).long()
    x *= torch.ones(length, columns).tril(start).long()
    rule = RowBudget(0.1)
    found = rule.integers(UNSIGNED16, x, 20, 3, start, "here")
    assert found.q.shape == x.shape and found.step.shape == (2, length, 3)
    assert found.q.min() >= 0 and found.q.max() <= 255
    allowed = torch.tensor([message_budget(0.1, start + i + 1) for i in range(length)])
    assert (UNSIGNED16.is_message(found.q).sum(-1) <= allowed).all()
    s = steps_of(found.step, 20 + spare_bits(UNSIGNED16)).transpose(1, 2).unsqueeze(-1)
    assert torch.equal(found.q.long(), (2 * (x << spare_bits(UNSIGNED16)) + s) // (2 * s))
    alone = rule.integers(UNSIGNED16, x[:, :, -1:], 20, 3, start + length - 1, "here")
    assert torch.equal(alone.q, found.q[:, :, -1:]) and torch.equal(alone.step, found.step[:, -1:])


@pytest.mark.parametrize("step", [0.7, 2.0**-9, 0.99999999, 3e-4])
def test_a_fixed_step_is_one_integer_of_24_bits(step: float) -> None:
    x = some_rows(32)
    rule, fraction = StaticStep(step), 9
    found = rule.integers(INTEGER8, x, fraction, 1, 0, "here")
    s = steps_of(found.step, fraction + rule.step_bits(INTEGER8, fraction))
    assert len(s.unique()) == 1 and int(s.max()) >= 2**23
    assert abs(float(found.step.max()) / step - 1) < 2**-23
    wanted = (to_real(x, fraction) / step).clamp(-127, 127)
    assert (found.q - wanted).abs().max() < 0.51
    assert found.clipped == int(((to_real(x, fraction) / step).abs() > 127.5).sum())


@pytest.mark.parametrize("centred", [False, True])
def test_asymmetric_codes(centred: bool) -> None:
    x = some_rows(64)
    code = (REFINED[1] if centred else levels(2)).bound(Channels(64, (0, 7, 8, 39)))
    rule, fraction = MinMax(1, centred), 9
    found = rule.integers(code, x, fraction, 1, 0, "here")
    steps_of(found.step, fraction + rule.step_bits(code, fraction))
    back, exact = rule.values(code, found), to_real(x, fraction)
    fine = code.fine_like(found.q)
    assert ((back - exact).abs() / found.step)[..., fine].max() < 1.01  # half a code, and half of the zero point's
    assert ((back - exact).abs() / found.step)[..., ~fine].max() < 3.01


def test_a_step_beyond_24_bits_is_told() -> None:
    x = torch.full((1, 1, 8), MESSAGE_LIMIT - 1)
    with pytest.raises(FitError, match=r"attn.q.encode: a step of \d+ does not fit 24 bits"):
        TokenBudget(0.0, reach=9).integers(INTEGER8, x, 0, 1, 0, "attn.q.encode")


def test_a_row_whose_every_number_may_be_a_message_has_no_limit_of_spikes() -> None:
    """One position and a budget of one message: the step is that of the last code, the smallest there is, not of a spike."""
    x = torch.tensor([[[[1]], [[7]]]])
    found = RowBudget(0.1).integers(UNSIGNED16, x, 20, 2, 0, "here")
    assert found.q.flatten().tolist() == [16, 7 * 16]
