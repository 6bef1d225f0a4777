"""One model of every new layout from its checkpoint to Lava: what the benchmark of families does for all variants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.tasks.verify import verify
from tests.exports import export
from tests.hf_models import VOCABULARY, save_model

ONE_LAYER = [
    ("phi3", {"partial_rotary_factor": 0.5, "rope_scaling": None}),
    ("gpt2", {}),
    ("gpt_neox", {}),
    ("gemma2", {"attn_logit_softcapping": 5.0}),
    ("gemma3_text", {"layer_types": ["sliding_attention"]}),
]


@pytest.mark.parametrize("recipe", ["kirin-w4a4-12", "kirin-spikes"])
@pytest.mark.parametrize(("kind", "changes"), ONE_LAYER, ids=[kind for kind, _ in ONE_LAYER])
def test_a_bundle_gives_the_same_logits_in_one_go_and_token_by_token(
    kind: str, changes: dict[str, Any], recipe: str, tmp_path: Path
) -> None:
    """Of a model with a host and of one without: written, read, its shape as planned from config.json alone."""
    out = tmp_path / "out"
    folder = save_model(tmp_path / "model", kind, num_hidden_layers=1, **changes)
    export(str(folder), out, recipe, num_samples=2, seq_len=24, verify_with="none")
    model = Bundle(out).model()
    assert (model.embedding.fraction is None) == (recipe != "kirin-spikes")
    ids = torch.randint(0, VOCABULARY, (1, 24), generator=torch.Generator().manual_seed(1))
    together, cache = Executor(model).forward(ids), Cache()
    alone = torch.cat([Executor(model).forward(ids[:, i : i + 1], cache) for i in range(24)], 1)
    assert torch.equal(together, alone) and together.std() > 0.01


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["kirin-w4a4-8", "kirin-spikes"])
@pytest.mark.parametrize(("kind", "changes"), ONE_LAYER, ids=[kind for kind, _ in ONE_LAYER])
def test_blocks_are_exact_on_lava(kind: str, changes: dict[str, Any], recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = save_model(tmp_path / "model", kind, num_hidden_layers=1, **changes)
    export(str(folder), out, recipe, num_samples=2, seq_len=24, verify_with="none")
    found = verify(out, "block", tokens=3)
    assert found.compared > 1_000 and not found.mismatches
