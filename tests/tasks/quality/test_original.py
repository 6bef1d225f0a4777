"""The float original: it is what was converted, however its config.json is written, or nothing is measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kirin_lava.base.errors import UsageError
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.text import read_text, token_rows
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.options import Sample
from kirin_lava.tasks.quality.compare import compare
from kirin_lava.tasks.quality.evaluate import evaluate
from kirin_lava.tasks.quality.original import load_original, require_same_logits, twin_logits
from tests.conftest import Cli
from tests.exports import export
from tests.hf_models import save_model

ROW = torch.tensor([0, *range(40, 71)])
WORDS = "the fox and the hare ran far away from the old dark wood to the sea "


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "judge.txt"
    path.write_text(WORDS[::-1] * 12)
    return path


def edit(folder: Path, *gone: str, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in gone}))


def converted(model: Path, out: Path, **options: Any) -> Path:
    arguments: dict[str, Any] = {"recipe": "fast", "num_samples": 2, "seq_len": 32, "verify_with": "none", **options}
    export(str(model), out, **arguments)
    return out


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling"])
def test_a_config_of_transformers_5_gives_the_network_that_is_converted(
    tmp_path: Path, text: Path, kind: str, place: str
) -> None:
    """It keeps the base of the rotary embedding in a place where transformers 4 does not look."""
    model = save_model(tmp_path / "model", kind, rope_theta=500000.0)
    ids = token_rows(load_tokenizer(model), read_text(text), 32)
    wanted = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(torch.stack(ids)).logits
    edit(model, "rope_theta", **{place: {"rope_theta": 500000.0, "rope_type": "default"}})
    loaded = load_original(open_checkpoint(str(model)), ids[0])
    torch.testing.assert_close(loaded(torch.stack(ids)).logits, wanted, rtol=1e-5, atol=1e-5)
    nll = F.cross_entropy(wanted[:, :-1].flatten(0, 1).double(), torch.stack(ids)[:, 1:].flatten())
    result = evaluate(converted(model, tmp_path / "out"), text, seq_len=32, layer_errors_too=True)
    assert result.perplexity_float == pytest.approx(math.exp(nll), rel=1e-5)
    if place == "rope_parameters" and kind == "llama":
        assert compare(str(model), ["fast"], text, Sample(tokens=32)).perplexity_float == pytest.approx(math.exp(nll), rel=1e-5)


def _weight(loaded: Any) -> None:
    with torch.no_grad():
        loaded.model.layers[1].mlp.up_proj.weight[:8] += 0.2


@pytest.mark.parametrize(
    ("changes", "edits", "message"),
    [
        ({"rope_theta": 500000.0}, {}, r"rope_theta is absent there and 500000\.0 in transformers"),
        ({"rms_norm_eps": 0.3}, {"rms_norm_eps": 1e-6}, r"rms_norm_eps is 1e-06 there and 0\.3 in transformers"),
        ({}, {"tie_word_embeddings": True}, r"tie_word_embeddings is True there and False in transformers"),
        ({}, {"head_gain": 2.0}, r"head_gain 2\.0 is not read"),
    ],
)
def test_another_network_is_refused_and_the_entries_are_named(
    tmp_path: Path, changes: dict[str, Any], edits: dict[str, Any], message: str
) -> None:
    """A network of transformers that read config.json otherwise, for whatever reason."""
    model = save_model(tmp_path / "model", **changes)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if edits.get("tie_word_embeddings"):
        tensors = load_file(model / "model.safetensors")
        del tensors["lm_head.weight"]
        save_file(tensors, model / "model.safetensors")
    if "head_gain" in edits:
        _weight(network)
    edit(model, "rope_theta", **edits)
    with pytest.raises(UsageError, match=rf"not the network that is converted: .* differ by \d.* %.*transformers 4.*{message}"):
        require_same_logits(open_checkpoint(str(model)), network, ROW)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "opt"])
def test_float_noise_is_no_difference(tmp_path: Path, kind: str) -> None:
    model = save_model(tmp_path / "model", kind)
    checkpoint = open_checkpoint(str(model))
    loaded = load_original(checkpoint, ROW)
    torch.testing.assert_close(loaded(ROW[None]).logits, twin_logits(checkpoint, ROW[None]), rtol=1e-4, atol=1e-4)


def test_logits_that_are_no_numbers_are_a_difference(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    network.lm_head.weight.data[3, 3] = torch.nan
    with pytest.raises(UsageError, match="not the network that is converted"):
        require_same_logits(open_checkpoint(str(model)), network, ROW)


def test_an_original_that_transformers_cannot_load_is_refused_in_one_line(cli: Cli, tmp_path: Path, text: Path) -> None:
    """Widths of heads that the files do not have by its defaults: converted by their shapes, but nothing to compare with."""
    model = save_model(tmp_path / "model", "qwen3", head_dim=128)
    edit(model, head_dim=None)
    out = converted(model, tmp_path / "out")
    ran = cli("eval", out, "--text", text, "--seq-len", "32")
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert f"error: {model}: transformers cannot load the original, so there is nothing to compare with: " in ran.err


def test_a_checkpoint_that_changed_since_is_refused(cli: Cli, tmp_path: Path, text: Path) -> None:
    model = save_model(tmp_path / "model")
    out = converted(model, tmp_path / "out")
    edit(model, rms_norm_eps=0.1)
    for command in (("eval", out, "--text", text), ("eval", out, "--text", text, "--layer-errors")):
        ran = cli(*command)
        assert ran.code == 2 and f"{model} has changed since it was converted (config.json): convert it again" in ran.err
    with pytest.raises(UsageError, match=r"input_layernorm has an epsilon of 0\.1, not 1e-06"):
        evaluate(out, text, original=str(model))
    edit(model, "rope_theta", rms_norm_eps=1e-6, rope_parameters={"rope_theta": 20.0})
    with pytest.raises(UsageError, match=r"rotary embedding differs \(rope_theta\)"):
        evaluate(out, text, original=str(model))


def test_an_original_by_name_is_the_one_that_was_converted(tmp_path: Path, text: Path) -> None:
    out = converted(save_model(tmp_path / "model"), tmp_path / "out")
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(tmp_path / "model").save_pretrained(sharded, max_shard_size="20KB")
    here = evaluate(out, text, seq_len=32)
    assert evaluate(out, text, seq_len=32, original=str(sharded)).perplexity_float == here.perplexity_float
    other, wide = save_model(tmp_path / "other", seed=1), save_model(tmp_path / "wide", intermediate_size=64)
    for model, message in ((other, "token embeddings differ"), (wide, "hidden is 64, not 48")):
        with pytest.raises(UsageError, match=f"{model.name} is not the checkpoint that was converted: its {message}"):
            evaluate(out, text, original=str(model))


@pytest.mark.parametrize(("window", "context"), [(64, 128), (64, 64), (32, 128), (None, 64)])
def test_rows_that_reach_a_sliding_window(cli: Cli, tmp_path: Path, text: Path, window: int | None, context: int) -> None:
    """Up to its window a model sees the whole context; there the fused attention of transformers ended in a traceback."""
    model = save_model(tmp_path / "model", "mistral", sliding_window=window, max_position_embeddings=context)
    out = converted(model, tmp_path / "out")
    for options in (("--seq-len", "64"), ("--seq-len", "256", "--stride", "16", "--max-rows", "3")):
        ran = cli("eval", out, "--text", text, "--json", *options)
        assert ran.code == 0, ran.err
        assert 0.8 < json.loads(ran.out)["ratio"] < 1.25
    ran = cli("report", out, "--text", text, "--json")
    assert ran.code == 0 and "missing" not in json.loads(ran.out)["evaluation"], ran.err
