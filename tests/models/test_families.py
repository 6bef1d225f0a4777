"""Every family against transformers: what the front end reads from a checkpoint computes the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Model, GPTNeoXModel, LlamaModel, OPTModel

from kirin_lava.graph.values import rotary_tables
from kirin_lava.models import family_of
from kirin_lava.models import float_model as twin
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.layout import Attention
from kirin_lava.models.rope import paired_rows, rope_of
from kirin_lava.tasks.quality.original import load_original
from tests.hf_models import random_model
from tests.variants import LLAMA3, LONG, VARIANTS, name_of

IDS = torch.randint(0, 258, (2, 30), generator=torch.Generator().manual_seed(0))


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
    # the masks of sliding windows need a newer PyTorch than Lava has in the fused attention, not in the plain one
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, attn_implementation="eager"
    )
    with torch.no_grad():
        expected = model(IDS).logits
        got = twin_logits(checkpoint, IDS)
    assert expected.std() > 0.1, "a constant would agree with anything"
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    return checkpoint


@pytest.mark.parametrize(("kind", "changes"), VARIANTS, ids=[name_of(*variant) for variant in VARIANTS])
def test_logits_equal_those_of_transformers(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    random_model(kind, **changes).save_pretrained(tmp_path)
    checkpoint = check(tmp_path)
    block = checkpoint.family.block(checkpoint.config, 0, checkpoint.load)
    head = checkpoint.family.head(checkpoint.config, checkpoint.load)
    dense = {*(op.name for op in block.denses()), *(f"head.{op.name}" for op in head.denses())}
    assert dense | {"attn.q", "attn.p"} == set(checkpoint.family.sites)


@pytest.mark.parametrize("kind", ["llama", "phi3", "opt", "gpt2", "gpt_neox", "gemma3_text"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    random_model(kind).to(dtype=dtype).save_pretrained(tmp_path)
    check(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("qwen2", {}), ("opt", {"tie_word_embeddings": True}), ("phi3", {}), ("gpt2", {}), ("gpt_neox", {}), ("gemma2", {})],
)
def test_sharded(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    random_model(kind, **changes).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    checkpoint = check(tmp_path)
    assert len(checkpoint.sha256()) == 1 + len(checkpoint.files()) > 3


@pytest.mark.parametrize(
    ("kind", "bare"), [("opt", OPTModel), ("llama", LlamaModel), ("gpt2", GPT2Model), ("gpt_neox", GPTNeoXModel)]
)
def test_bare_decoder_without_the_prefix(tmp_path: Path, kind: str, bare: type[Any]) -> None:
    model = random_model(kind, tie_word_embeddings=True)
    part = bare(model.config)
    part.load_state_dict(model.base_model.state_dict())
    part.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(twin_logits(checkpoint, IDS), model(IDS).logits, rtol=1e-4, atol=1e-4)


def windows_of(kind: str, **changes: Any) -> list[int | None]:
    """Windows of the layers of a model."""
    config = {**random_model(kind, **changes).config.to_dict(), **changes, "model_type": kind}

    def load(name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, device="meta") if len(shape) > 1 else torch.zeros(shape)

    family = family_of(config)
    blocks = [family.block(config, index, load) for index in range(family.dimensions(config).layers)]
    return [op.window for block in blocks for op in block.ops if isinstance(op, Attention)]


def test_windows_are_those_of_the_layers() -> None:
    assert windows_of("mistral", sliding_window=16) == [16, 16]
    assert windows_of("mistral", sliding_window=64) == windows_of("mistral", sliding_window=None) == [None, None]
    assert windows_of("phi3", sliding_window=20) == [20, 20]
    assert windows_of("qwen2", sliding_window=8) == [None, None]  # where use_sliding_window does not say so
    assert windows_of("qwen3", use_sliding_window=True, sliding_window=8, max_window_layers=1) == [None, 8]
    kinds = ["sliding_attention", "full_attention"]
    assert windows_of("qwen2", use_sliding_window=True, sliding_window=8, layer_types=kinds) == [8, None]
    assert windows_of("gemma2", sliding_window=8) == [8, None]
    assert windows_of("gemma3_text", sliding_window=8, layer_types=kinds[::-1], sliding_window_pattern=2) == [None, 8]
    config = random_model("mistral").config.to_dict()
    del config["sliding_window"]
    assert family_of(config).dimensions({**config, "max_position_embeddings": 8192}).max_positions == 8192


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("gpt2", {"h.0.attn.bias": (1, 1, 64, 64), "h.1.attn.masked_bias": ()}),
        (
            "gpt_neox",
            {"gpt_neox.layers.0.attention.bias": (64, 64), "gpt_neox.layers.1.attention.rotary_emb.inv_freq": (1,)},
        ),
    ],
)
def test_masks_and_tables_that_older_files_keep(tmp_path: Path, kind: str, kept: dict[str, tuple[int, ...]]) -> None:
    random_model(kind).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), **{name: torch.ones(shape) for name, shape in kept.items()}}, file, metadata={"format": "pt"})
    assert open_checkpoint(str(tmp_path)).dimensions.layers == 2


@pytest.mark.parametrize("kind", ["rope_type", "type"])
def test_a_scaling_as_transformers_5_writes_it(tmp_path: Path, kind: str) -> None:
    """It is read as the `rope_scaling` of transformers 4, which does not look there."""
    expected = random_model("llama", rope_scaling=LLAMA3, rope_theta=5e5)
    expected.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["rope_scaling"], config["rope_theta"]
    entries = {kind: "llama3", **{key: value for key, value in LLAMA3.items() if key != "rope_type"}, "rope_theta": 5e5}
    path.write_text(json.dumps({**config, "rope_parameters": entries}))
    checkpoint = open_checkpoint(str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(twin_logits(checkpoint, IDS), expected(IDS).logits, rtol=1e-4, atol=1e-4)
    load_original(checkpoint, IDS[0])  # what a ratio is measured against is the same network


@pytest.mark.parametrize(
    ("kind", "changes", "positions"),
    [
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 24}}, 24),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, 64),
        ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 4.0, **LONG}}, 64),
        ("phi3", {"rope_scaling": {"type": "su", **LONG}, "original_max_position_embeddings": 32}, 32),
    ],
)
def test_tables_that_depend_on_the_length_of_a_text_end_where_they_would_change(
    kind: str, changes: dict[str, Any], positions: int
) -> None:
    config = {**random_model(kind).config.to_dict(), **changes}
    assert family_of(config).dimensions(config).max_positions == positions


def test_a_part_of_a_head_is_turned_in_the_pairs_of_the_checkpoint() -> None:
    """Numbers that are not turned have frequency 0: cosine 1 and sine 0, so that their bits stay."""
    rope = rope_of({"model_type": "phi3"}, 16, 0.5)
    assert rope.turned == 8 and rope.frequencies[4:].eq(0).all() and rope.frequencies[:4].gt(0).all()
    rows = paired_rows(2, 16, 8)
    assert sorted(rows.tolist()) == list(range(32))
    for first in range(4):
        assert rows[first + 8] - rows[first] == 4  # as 8 numbers are paired
    cos, sin = rotary_tables(rope.frequencies, 5)
    still = [4, 5, 6, 7, 12, 13, 14, 15]
    assert cos[:, still].eq(1).all() and sin[:, still].eq(0).all()


def test_a_config_cannot_take_away_the_biases_of_qwen2(tmp_path: Path) -> None:
    random_model("qwen2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "attention_bias": False}))
    check(tmp_path)
