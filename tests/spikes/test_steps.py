"""The step of a token and its codes: the definition by sorting, the budget, and what must not matter."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.graph.ops import Encode
from kirin_lava.graph.values import Codes, HostContext
from kirin_lava.spikes.codes import (
    CODES,
    INTEGER8,
    OFFSET,
    SIGNED,
    UNSIGNED8,
    UNSIGNED16,
    SpikeCode,
    code_named,
    integer,
    offset,
)
from kirin_lava.spikes.steps import (
    RULES,
    FixedStep,
    MinMax,
    PlaneRow,
    PlaneStep,
    RowBudget,
    StaticStep,
    StepRule,
    TokenBudget,
    message_budget,
    rule_named,
)

PLAIN = Encode("site.encode", "x", "codes", SIGNED)
BUDGET = replace(PLAIN, rule=TokenBudget(0.1))
ROWS = Encode("attn.p.encode", "p", "codes", UNSIGNED8, RowBudget(0.1))
HERE = torch.arange(1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def probabilities(heads: int, length: int, start: int = 0, seed: int = 0) -> Tensor:
    """Rows (1, H, L, J) that see the positions up to their own."""
    scores = 3 * random(1, heads, length, start + length, seed=seed)
    later = torch.arange(start + length) > torch.arange(start, start + length).view(-1, 1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)


def encode(op: Encode, x: Tensor, positions: Tensor) -> Codes:
    """Codes of x at consecutive positions."""
    codes = op.compute({op.input: x}, HostContext(positions))
    assert isinstance(codes, Codes)
    return codes


def outliers(q: Tensor, enc: SpikeCode) -> Tensor:
    """How many codes of a row (..., W) are messages."""
    result: Tensor = enc.is_message(q).sum(-1)
    return result


def same(a: Codes, b: Codes) -> bool:
    return torch.equal(a.q, b.q) and torch.equal(a.step, b.step)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**16),
    enc=st.sampled_from([OFFSET, SIGNED]),
    width=st.sampled_from([1, 2, 8, 33, 64, 200]),
    ratio=st.sampled_from([0.0, 0.03, 0.1, 0.25, 0.5]),
    steep=st.integers(1, 9),
    scale=st.integers(-30, 30),
)
def test_the_step_is_the_smallest_that_keeps_the_budget(
    seed: int, enc: SpikeCode, width: int, ratio: float, steep: int, scale: int
) -> None:
    x = random(1, 3, width, seed=seed) ** steep * 2.0**scale
    codes = encode(replace(PLAIN, code=enc, rule=TokenBudget(ratio)), x, HERE)
    budget = message_budget(ratio, width)
    assert int(outliers(codes.q, enc).max()) <= budget
    assert codes.clipped == 0 and float(codes.q.abs().max()) <= enc.code_max
    torch.testing.assert_close(codes.q * codes.step, x, rtol=0, atol=float(codes.step.max()) * 0.501)
    low, high = enc.code_span(messages=False)
    for row, step in zip(x[0].tolist(), codes.step.flatten().tolist(), strict=True):
        place = width - budget - 1
        needed = sorted(max(value / (high + 0.499), value / (low - 0.499)) for value in row)
        exact = max(needed[place] if place >= 0 else 0.0, max(map(abs, row)) / (enc.code_max + 0.49))
        assert exact * (1 - 1e-6) <= step <= exact * (1 + 2**-3 + 1e-6)  # rounded up to 4 digits


@settings(max_examples=40)
@given(seed=st.integers(0, 2**16), start=st.integers(0, 70), ratio=st.sampled_from([0.02, 0.1, 0.3]))
def test_the_step_of_a_row_is_the_smallest_that_keeps_its_budget(seed: int, start: int, ratio: float) -> None:
    """Rows of probabilities: the budget counts the positions up to the token's own; 3 digits are kept."""
    x = probabilities(2, 3, start, seed)
    codes = encode(replace(ROWS, rule=RowBudget(ratio)), x, torch.arange(start, start + 3))
    for head, token in itertools.product(range(2), range(3)):
        row, step = sorted(x[0, head, token].tolist()), float(codes.step[0, token, head])
        budget = message_budget(ratio, start + token + 1)
        assert int(outliers(codes.q[0, head, token], UNSIGNED8)) <= budget
        limit = row[-1 - budget] if budget < len(row) else 0.0
        exact = max(limit / 7.499, row[-1] / 255.49)
        assert exact * (1 - 1e-6) <= step <= exact * (1 + 2**-2 + 1e-6)


def test_shares_count_the_budget_of_every_group() -> None:
    assert TokenBudget(0.25).share(SIGNED, 96, 4) == 4 * 6 / 96
    assert TokenBudget(0.25).share(SIGNED, 96, 1) == 24 / 96
    assert TokenBudget(0.001).share(SIGNED, 96, 4) == 4 / 96, "at least one of each group"
    assert TokenBudget(0.25).share(INTEGER8, 96, 4) == 1.0
    assert (RowBudget(0.1).share(UNSIGNED8, 96, 4), RowBudget(0.1).share(INTEGER8, 96, 4)) == (0.1, 1.0)
    assert (StaticStep(1.0, 0.3).share(SIGNED, 10, 1), StaticStep(1.0).share(INTEGER8, 10, 1)) == (0.3, 1.0)


def test_every_rule_is_encoded_with_here_and_found_by_its_name() -> None:
    elsewhere = {MinMax, FixedStep, PlaneStep, PlaneRow}  # in test_asymmetric and test_planes
    assert set(RULES) == {TokenBudget, RowBudget, StaticStep} | elsewhere
    assert [rule_named(name) for name in ("RowBudget", "StaticStep", "TokenBudget")] == [RowBudget, StaticStep, TokenBudget]
    for name in ("rowbudget", "TokenBudge", "", "Zero"):
        with pytest.raises(UsageError, match=f"unknown step rule '{name}': choose one of TokenBudget, "):
            rule_named(name)


@pytest.mark.parametrize(
    "rule", [TokenBudget(0.7), TokenBudget(0.1, 9), RowBudget(-0.1), StaticStep(0.0), StaticStep(math.nan)]
)
def test_rules_from_a_file_may_be_wrong(rule: TokenBudget | RowBudget | StaticStep) -> None:
    assert rule.problem(9) is not None


def test_budgets() -> None:
    assert [message_budget(ratio, 64) for ratio in (0.0, 0.001, 0.1, 0.25, 0.5)] == [0, 1, 6, 16, 32]


@pytest.mark.parametrize("kind", ["plain", "static", "causal"])
def test_halves_are_rounded_to_even(kind: str) -> None:
    """As torch, NumPy and IEEE 754 do by default: up and down in equal parts, so that sums keep their middle."""
    largest = 100.0
    op = {
        "plain": replace(PLAIN, code=INTEGER8),
        "static": replace(PLAIN, rule=StaticStep(0.75)),
        "causal": replace(ROWS, rule=RowBudget()),
    }[kind]
    shape = (1, 1, 1, -1) if kind == "causal" else (1, 1, -1)
    step = encode(op, torch.tensor([largest]).view(shape), HERE).step.flatten()[0]
    halves = torch.arange(0, 7) + 0.5 if kind == "causal" else torch.arange(-40, 40) + 0.5
    x = halves * step
    x = x[x / step == halves]
    assert len(x) > 3
    expected = [float(math.floor(h) if math.floor(h) % 2 == 0 else math.ceil(h)) for h in (x / step).tolist()]
    codes = encode(op, torch.cat([torch.tensor([largest]), x]).view(shape), torch.tensor([len(x)]))
    assert codes.q.flatten()[1:].tolist() == expected


@pytest.mark.parametrize("enc", [code for code in CODES if not code.has_spikes], ids=lambda code: code.name)
def test_integers_use_their_whole_range(enc: SpikeCode) -> None:
    codes = encode(replace(PLAIN, code=enc), random(2, 5, 40), HERE)
    assert codes.q.abs().amax(-1).eq(enc.code_max).all()


def test_a_row_without_a_budget_ends_at_its_largest() -> None:
    """Without messages, and without spikes."""
    row = torch.rand((1, 2, 1, 40), generator=torch.Generator().manual_seed(0))
    for code, ratio, top in ((UNSIGNED16, 0.0, 15), (code_named("unsigned-integer-8"), 0.1, 255)):
        codes = RowBudget(ratio).encode(code, row, 2, 39, "p", True)
        torch.testing.assert_close(codes.step.flatten(), row.amax(-1).flatten() / (top + 0.5), rtol=1e-4, atol=0.0)
        assert codes.q.amax(-1).eq(top).all()


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_where_codes_sum_to_more_than_their_reach_the_step_grows_and_no_further(ratio: float) -> None:
    x = random(2, 9, 64) * 2.0 ** torch.arange(9).view(9, 1)
    x[:, 4, 1:] = 0  # a token of one number, whose code alone stays below
    code, free = offset(16), TokenBudget(ratio)
    plain = encode(replace(PLAIN, code=code, rule=free), x, HERE)
    sums = plain.q.abs().sum(-1)
    reach = int(sums.median())
    found = encode(replace(PLAIN, code=code, rule=replace(free, reach=reach)), x, HERE)
    few = sums <= reach
    assert few.any() and not few.all()
    assert torch.equal(found.q[few], plain.q[few]) and torch.equal(found.step[few], plain.step[few])
    grown = found.q.abs().sum(-1)[~few]
    assert (grown <= reach).all() and (grown >= reach - 64 - 2e-4 * reach).all()
    torch.testing.assert_close(found.q * found.step, x, rtol=0, atol=float(found.step.max()) * 0.501)


@pytest.mark.parametrize("narrow", [True, False])
def test_a_reach_is_compared_with_a_sum_that_is_not_rounded(narrow: bool) -> None:
    """2^24 + 1, which float32 does not hold, beside a token of many zeros and among many tokens."""
    x = torch.full((1, 1 if narrow else 600, 513), 32767.0)
    x[..., -1] = 513.0
    assert int(x[0, 0].long().sum()) == 2**24 + 1
    codes = encode(replace(PLAIN, code=integer(16), rule=TokenBudget(0.0, reach=2**24)), x, HERE)
    assert (codes.q.long().abs().sum(-1) <= 2**24).all()


@pytest.mark.parametrize(("rule", "allowed"), [
    (TokenBudget(0.0), True), (TokenBudget(0.5), True), (TokenBudget(0.5001), False), (TokenBudget(-1e-9), False),
    (TokenBudget(math.nan), False), (RowBudget(0.5), True), (RowBudget(0.6), False), (TokenBudget(0.1, reach=9), False),
    (TokenBudget(0.1, reach=10), True), (TokenBudget(0.6, reach=10), False), (StaticStep(1e-30), True),
    (StaticStep(-1.0), False), (StaticStep(math.inf), False),
])  # fmt: skip
def test_what_a_rule_may_say(rule: StepRule, allowed: bool) -> None:
    assert (rule.problem(9) is None) == allowed
    assert rule.no_integers(OFFSET) is None and rule.zero_points == 0 and rule.unfit(OFFSET) is None


def test_messages_are_counted_where_there_are_spikes() -> None:
    assert (TokenBudget(0.1).budget(OFFSET, 64), TokenBudget(0.1).budget(INTEGER8, 64)) == (6, None)
    assert (RowBudget(0.1).budget(UNSIGNED8, 64), StaticStep(1.0, 0.1).budget(OFFSET, 64)) == (6, None)


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_silence_stays_silent(ratio: float) -> None:
    x = random(1, 3, 16)
    x[0, 1] = 0
    codes = encode(replace(PLAIN, rule=TokenBudget(ratio)), x, HERE)
    assert not codes.q[0, 1].any() and codes.q[0, 0].any()
    assert torch.isfinite(codes.step).all() and (codes.step > 0).all()


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30, 1e37])
def test_extreme_scales(scale: float) -> None:
    codes = encode(BUDGET, random(1, 4, 64).clamp(-3, 3) * scale, HERE)
    assert torch.isfinite(codes.step).all() and float(codes.q.abs().max()) <= 127
    assert scale < 1e-35 or codes.q.abs().amax(-1).ge(7).all()


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**16),
    groups=st.sampled_from([1, 4]),
    ratio=st.sampled_from([0.0, 0.1]),
    enc=st.sampled_from([OFFSET, INTEGER8]),
    batch=st.integers(1, 3),
    length=st.integers(1, 60),
)
def test_a_token_is_encoded_alone(seed: int, groups: int, ratio: float, enc: SpikeCode, batch: int, length: int) -> None:
    op = replace(PLAIN, code=enc, groups=groups, rule=TokenBudget(ratio))
    x = random(batch, length, 160, seed=seed)
    together = encode(op, x, torch.arange(length))
    assert together.q.shape == x.shape and together.step.shape == (batch, length, groups)
    for row, token in {(0, 0), (batch - 1, length - 1), (seed % batch, seed % length)}:
        alone = encode(op, x[row : row + 1, token : token + 1].clone(), torch.tensor([token]))
        assert torch.equal(alone.q[0, 0], together.q[row, token]) and torch.equal(alone.step[0, 0], together.step[row, token])


def test_slices_are_encoded_as_copies() -> None:
    x = random(2, 30, 96)
    for op in (replace(BUDGET, groups=4), BUDGET, replace(PLAIN, code=INTEGER8, groups=2)):
        part = x[..., 32:64]
        assert same(encode(op, part, HERE), encode(op, part.clone(), HERE))


def test_groups_have_their_own_steps() -> None:
    x = random(1, 1, 24) * torch.tensor([1.0, 1000.0, 0.001]).repeat_interleave(8)
    codes = encode(replace(BUDGET, groups=3), x, HERE)
    for i in range(3):
        alone = encode(BUDGET, x[..., 8 * i : 8 * i + 8], HERE)
        assert torch.equal(codes.q[..., 8 * i : 8 * i + 8], alone.q) and codes.step[0, 0, i] == alone.step[0, 0, 0]


def test_a_static_step_clips_and_counts() -> None:
    x = torch.tensor([[[0.0, 0.5, 1.5, -2.5, 126.9, 127.4, 127.6, -1e9]]])
    codes = encode(replace(PLAIN, rule=StaticStep(1.0)), x, HERE)
    assert codes.q.flatten().tolist() == [0, 0, 2, -2, 127, 127, 127, -127]
    assert codes.clipped == 2 and codes.step.flatten().tolist() == [1.0]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("op", [PLAIN, BUDGET, replace(PLAIN, rule=StaticStep(0.1)), ROWS], ids=lambda op: op.name)
def test_a_broken_activation_is_named(op: Encode, broken: float) -> None:
    x = probabilities(2, 4) if op.rule.by_row else random(2, 4, 8)
    x.view(-1)[5] = abs(broken) if op.rule.by_row else broken  # no probability is negative
    with pytest.raises(FitError, match=f"{op.name}: an activation is NaN or infinite"):
        encode(op, x, torch.arange(4))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**16),
    start=st.integers(0, 90),
    length=st.integers(1, 70),
    ratio=st.sampled_from([0.0, 0.03, 0.1]),
    enc=st.sampled_from([UNSIGNED8, UNSIGNED16]),
)
def test_probabilities_know_only_their_own_row(seed: int, start: int, length: int, ratio: float, enc: SpikeCode) -> None:
    op = replace(ROWS, rule=RowBudget(ratio), code=enc, groups=3)
    x = probabilities(3, length, start, seed)
    together = encode(op, x, torch.arange(start, start + length))
    assert together.step.shape == (1, length, 3)
    for i in {0, length // 2, length - 1}:
        seen = start + i + 1
        alone = encode(op, x[:, :, i : i + 1, :seen].clone(), torch.tensor([start + i]))
        assert torch.equal(alone.q, together.q[:, :, i : i + 1, :seen]) and torch.equal(alone.step[:, 0], together.step[:, i])
        assert not together.q[:, :, i, seen:].any()
        assert int(outliers(alone.q, enc).max()) <= message_budget(ratio, seen)
    assert float(together.q.max()) <= 255 and float(together.q.min()) >= 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("op", [PLAIN, replace(BUDGET, groups=4), replace(PLAIN, code=INTEGER8), ROWS])
def test_cuda_encodes_alike(op: Encode) -> None:
    x = probabilities(2, 30) if op.rule.by_row else random(2, 30, 64)
    positions = torch.arange(30)
    there, here = encode(op, x.cuda(), positions), encode(op, x, positions)
    assert torch.equal(there.q.cpu(), here.q) and torch.equal(there.step.cpu(), here.step)
