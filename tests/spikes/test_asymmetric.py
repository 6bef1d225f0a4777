"""Asymmetric codes: the step spans the row, zero points are codes, and what is sent stands for what was there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.graph.ops import Encode
from kirin_lava.graph.port import REAL, Inputs, Port
from kirin_lava.methods.site import Coding
from kirin_lava.spikes.codes import REFINED, SIGNED, Channels, SpikeCode, levels
from kirin_lava.spikes.steps import Codes, MinMax

WIDTH = 40
FINE = Channels(WIDTH, (0, 7, 8, 39))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def encode(code: SpikeCode, rule: MinMax, x: Tensor, groups: int = 1) -> Codes:
    return rule.encode(code, x, groups, 0, "site", True)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    refinement=st.sampled_from([0, 1, 2]),
    shift=st.sampled_from([-5.0, -1.0, 0.0, 0.5, 5.0]),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e6, 1e30]),
)
def test_a_code_stands_for_its_value(seed: int, refinement: int, shift: float, scale: float) -> None:
    code, rule = levels(refinement).bound(FINE), MinMax(refinement)
    x = (random(2, 5, WIDTH, seed=seed) + shift) * scale
    found = encode(code, rule, x)
    assert found.zero is not None and found.q.shape == x.shape and found.step.shape == (2, 5, 1)
    code.raster(found.q.numpy().astype(np.int64))  # refuses what a channel cannot send
    low, high = x.amin(-1, keepdim=True).clamp(max=0).double(), x.amax(-1, keepdim=True).clamp(min=0).double()
    unit = (high - low) / (16 * 2**refinement - 1)
    torch.testing.assert_close(found.step.double(), unit, rtol=1e-6, atol=0.0)
    assert (found.zero >= 0).all() and (found.zero <= torch.tensor([15 * 2**refinement, code.code_max])).all()
    assert (found.zero[..., 0] % 2**refinement == 0).all()
    error = (rule.values(code, found).double() - x.double()).abs() / unit
    fine = torch.from_numpy(FINE.mask)
    # an ordinary channel ends up to 3/4 of a step below the row's top, and its zero point is off by up to 1/2
    assert float(error[..., fine].max()) <= 1.001 and float(error[..., ~fine].max()) <= 1.251 * 2**refinement
    kept = encode(REFINED[min(refinement, 1)].bound(FINE), MinMax(min(refinement, 1), centred=True), x)
    assert kept.zero is None
    if refinement <= 1:
        zero = torch.where(fine, found.zero[..., 1:], found.zero[..., :1])
        assert torch.equal(kept.q, found.q - zero) and torch.equal(kept.step, found.step)
        assert float(kept.q.abs().max()) <= REFINED[refinement].code_max


def test_a_row_without_values_is_silent_and_one_without_negative_ones_has_no_zero_point() -> None:
    code, rule = levels(1).bound(FINE), MinMax(1)
    x = random(1, 2, WIDTH).abs()
    x[0, 0] = 0
    found = encode(code, rule, x)
    assert found.zero is not None and not found.q[0, 0].any() and not found.zero.any() and torch.isfinite(found.step).all()
    assert float(found.q[0, 1].max()) >= 30


def test_a_token_and_a_head_are_encoded_alone() -> None:
    code, rule, x = levels(2).bound(FINE), MinMax(2), random(3, 9, WIDTH)
    whole, alone = encode(code, rule, x), encode(code, rule, x[1:2, 4:5])
    for name in ("q", "step", "zero"):
        assert torch.equal(getattr(whole, name)[1, 4], getattr(alone, name)[0, 0])
    kept, rule = REFINED[1].bound(FINE), MinMax(1, centred=True)
    halves = encode(kept, rule, x, groups=2)
    for half in range(2):
        own = slice(half * WIDTH // 2, (half + 1) * WIDTH // 2)
        assert torch.equal(halves.q[..., own], encode(kept.part(own.start, own.stop), rule, x[..., own]).q)
    groups = encode(kept, rule, x, groups=4)
    heads = x.view(3, 9, 4, 10).transpose(1, 2)  # as the float model has them
    by_head = encode(kept, rule, heads)
    assert torch.equal(by_head.q.transpose(1, 2).flatten(2), groups.q) and torch.equal(by_head.step[..., 0].mT, groups.step)
    torch.testing.assert_close(Coding(kept, rule, "k").sent(heads).transpose(1, 2).flatten(2), groups.values())


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_activation_is_named(broken: float) -> None:
    x = random(1, 2, WIDTH)
    x[0, 1, 3] = broken
    with pytest.raises(FitError, match="site: an activation is NaN or infinite"):
        encode(levels(1).bound(FINE), MinMax(1), x)


def test_zero_points_of_several_groups_have_no_place() -> None:
    with pytest.raises(UsageError, match="site: zero points of 2 groups have no place in one sum"):
        encode(levels(1).bound(FINE), MinMax(1), random(1, 2, WIDTH), groups=2)
    with pytest.raises(UsageError, match="site: zero points of 2 groups have no place in one sum"):
        MinMax(1).integers(levels(1).bound(FINE), torch.ones(1, 2, WIDTH, dtype=torch.int64), 9, 2, 0, "site")
    assert MinMax(1).share(levels(1), 9, 1) == 0 and MinMax(1, centred=True).share(REFINED[1], 9, 1) == 1
    assert (MinMax(1).zero_points, MinMax(1, centred=True).zero_points) == (2, 0)
    assert MinMax(4).problem(9) is not None and MinMax(2).problem(9) is None


def test_codes_of_another_kind_are_refused() -> None:
    for code, rule in (
        (levels(1), MinMax(2)),
        (REFINED[1], MinMax(1)),
        (levels(1), MinMax(1, centred=True)),
        (SIGNED, MinMax(1)),
    ):
        with pytest.raises(UsageError, match=f"asymmetric steps of refinement {rule.refinement} do not give {code.name} codes"):
            Encode("site", "x", "y", code, rule).port(Inputs({"x": Port(REAL, WIDTH)}, None, "site"))
    with pytest.raises(UsageError, match="levels-2 codes of 40 channels in a value of width 39"):
        Encode("site", "x", "y", levels(1).bound(FINE), MinMax(1)).port(Inputs({"x": Port(REAL, 39)}, None, "site"))


def test_the_ends_of_a_row_are_the_ends_of_the_codes() -> None:
    """So that the top code, which takes 16 levels in every step, comes up in every row that is not all of one sign."""
    for refinement in (1, 2):
        code, rule, x = levels(refinement).bound(FINE), MinMax(refinement), random(1, 50, WIDTH)
        x[..., 7], x[..., 8] = 9.0, -5.0  # two fine channels
        found = encode(code, rule, x)
        assert (found.q[..., 7] >= code.code_max - 1).all() and (found.q[..., 8] == 0).all()
        x[..., 8] = -9.0 * (refinement + 1)
        assert (encode(code, rule, x).q[..., 7] == code.code_max).any()
