"""Every family against transformers: what the front end reads from a checkpoint computes the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaModel, OPTModel

from kirin_lava.graph.values import rotary_tables
from kirin_lava.models import float_model as twin
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from tests.hf_models import random_model

IDS = torch.tensor([[0, 7, 99, 4, 257, 31, 8, 8, 120, 55, 2, 3], [0, 200, 1, 1, 66, 5, 4, 3, 2, 9, 77, 251]])

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "rope_theta": 500000.0, "rms_norm_eps": 1e-3}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 12, "num_key_value_heads": 1}),
    ("llama", {"num_key_value_heads": 4, "num_hidden_layers": 1}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 16, "head_dim": 6}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": True, "sliding_window": 8}),
    ("qwen3", {"head_dim": 16}),
    ("qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    ("opt", {}),
    ("opt", {"do_layer_norm_before": False}),
    ("opt", {"tie_word_embeddings": False}),
    ("opt", {"_remove_final_layer_norm": True}),
]


def twin_logits(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    """(B, L) ids -> (B, L, vocabulary), by the float twin alone."""
    family, config, d = checkpoint.family, checkpoint.config, checkpoint.dimensions
    frequencies = family.rotary(config)
    rotary = None if frequencies is None else rotary_tables(frequencies, d.max_positions)
    x = twin.embed(family.embedding(config, checkpoint.load), ids)
    for index in range(d.layers):
        x = twin.run_block(family.block(config, index, checkpoint.load), x, rotary)
    return twin.run_block(family.head(config, checkpoint.load), x)


def check(folder: Path) -> Checkpoint:
    """Logits of a saved checkpoint equal those of transformers, which reads the same files."""
    checkpoint = open_checkpoint(str(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        expected = model(IDS).logits
        got = twin_logits(checkpoint, IDS)
    assert expected.std() > 0.1, "a constant would agree with anything"
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    return checkpoint


@pytest.mark.parametrize(("kind", "changes"), VARIANTS, ids=[f"{kind}-{'-'.join(c) or 'plain'}" for kind, c in VARIANTS])
def test_logits_equal_those_of_transformers(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    random_model(kind, **changes).save_pretrained(tmp_path)
    checkpoint = check(tmp_path)
    block = checkpoint.family.block(checkpoint.config, 0, checkpoint.load)
    head = checkpoint.family.head(checkpoint.config, checkpoint.load)
    dense = {*(op.name for op in block.denses()), *(f"head.{op.name}" for op in head.denses())}
    assert dense | {"attn.q", "attn.p"} == set(checkpoint.family.sites)


@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    random_model(kind).to(dtype=dtype).save_pretrained(tmp_path)
    check(tmp_path)


@pytest.mark.parametrize(("kind", "changes"), [("qwen2", {}), ("opt", {"tie_word_embeddings": True})])
def test_sharded(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    random_model(kind, **changes).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    checkpoint = check(tmp_path)
    assert len(checkpoint.sha256()) == 1 + len(checkpoint.files()) > 3


@pytest.mark.parametrize(("kind", "bare"), [("opt", OPTModel), ("llama", LlamaModel)])
def test_bare_decoder_without_the_prefix(tmp_path: Path, kind: str, bare: type[Any]) -> None:
    model = random_model(kind, tie_word_embeddings=True)
    part = bare(model.config)
    part.load_state_dict(model.model.state_dict())
    part.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(twin_logits(checkpoint, IDS), model(IDS).logits, rtol=1e-4, atol=1e-4)


def test_mistral_sees_as_far_as_its_window(tmp_path: Path) -> None:
    random_model("mistral", sliding_window=16, max_position_embeddings=8192).save_pretrained(tmp_path)
    assert open_checkpoint(str(tmp_path)).dimensions.max_positions == 16
    config = json.loads((tmp_path / "config.json").read_text())
    for window, positions in ((None, 8192), ("absent", 4096)):  # transformers takes 4096 where it is absent
        config["sliding_window"] = window
        if window == "absent":
            del config["sliding_window"]
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert open_checkpoint(str(tmp_path)).dimensions.max_positions == positions


def test_a_config_cannot_take_away_the_biases_of_qwen2(tmp_path: Path) -> None:
    random_model("qwen2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_bias": False}))
    check(tmp_path)
