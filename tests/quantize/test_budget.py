"""The outlier budget: measured per site, spent where it buys most, never overspent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kirin_lava.base.errors import UsageError
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.models.checkpoint import Checkpoint
from kirin_lava.quantize.budget import RATIOS, Curve, search_budget, spend
from tests.hf_models import save_model


def _curve(site: str, elements: float, divergence: tuple[float, ...]) -> Curve:
    return Curve(site, elements, (0.1, 0.2, 0.3), divergence, (0.1, 0.2, 0.3))


def test_it_buys_what_is_worth_most() -> None:
    curves = [_curve("cheap", 10, (1.0, 0.5, 0.49)), _curve("dear", 100, (1.0, 0.5, 0.0)), _curve("idle", 10, (0.1, 0.1, 0.1))]
    assert spend(curves, 13 / 120) == {"cheap": 0.2, "dear": 0.1, "idle": 0.1}
    assert spend(curves, 0.3) == {"cheap": 0.3, "dear": 0.3, "idle": 0.1}


@given(
    st.lists(st.tuples(st.floats(1, 1000), st.lists(st.floats(0, 1), min_size=3, max_size=3)), min_size=1, max_size=6),
    st.floats(0.101, 0.3),
)
def test_it_never_overspends(sites: list[tuple[float, list[float]]], budget: float) -> None:
    curves = [_curve(str(i), n, (d[0], d[1], d[2])) for i, (n, d) in enumerate(sites)]
    chosen = spend(curves, budget)
    used = sum(curve.elements * chosen[curve.site] for curve in curves)
    assert used <= budget * sum(curve.elements for curve in curves) * (1 + 1e-9)


def test_too_small_a_budget_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"budget of 0\.05 is below the 0\.100"):
        spend([_curve("a", 10, (1, 0.5, 0))], 0.05)


@pytest.mark.parametrize(
    ("kind", "sites"),
    [
        ("llama", {"attn.qkv", "attn.o", "mlp.gate_up", "mlp.down", "attn.q", "attn.p"}),
        ("opt", {"attn.qkv", "attn.o", "mlp.fc1", "attn.q", "attn.p"}),  # fc2 reads fired codes
    ],
)
def test_every_site_is_measured(tmp_path: Path, kind: str, sites: set[str]) -> None:
    checkpoint = Checkpoint(save_model(tmp_path, kind), kind)
    rows = [torch.randint(2, 250, (32,), generator=torch.Generator().manual_seed(i)) for i in range(2)]
    curves = search_budget(checkpoint, rows, load_recipe("kirin-w4a4-12"))
    assert {curve.site for curve in curves} == sites
    for curve in curves:
        assert curve.ratios == RATIOS
        assert 0 <= curve.divergence[-1] <= curve.divergence[0]
        assert all(share <= max(ratio, 1 / 8) + 0.1 for ratio, share in zip(RATIOS, curve.share, strict=True))
    probabilities = next(curve for curve in curves if curve.site == "attn.p")
    assert probabilities.elements == 2 * 4 * 33 / 2  # blocks, heads, mean row of 32 causal ones
