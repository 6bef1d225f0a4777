"""Checkpoints as they should not be: every one is refused in one sentence that names the place, and nothing is written."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.base.readers import file_sha256
from kirin_lava.models.checkpoint import EMBEDDED_MODELS, Checkpoint, open_checkpoint, open_config
from kirin_lava.models.config import MOST, MOST_LAYERS
from tests.hf_models import random_model, save_model

Refused = Callable[..., str]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
NORM, QUERY = "model.layers.1.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_model(tmp_path / "llama")


@pytest.fixture
def opt(tmp_path: Path) -> Path:
    return save_model(tmp_path / "opt", "opt")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = save_model(tmp_path / "sharded")
    (folder / WEIGHTS).unlink()
    random_model("llama").save_pretrained(folder, max_shard_size="20KB")
    assert (folder / INDEX).is_file() and not (folder / WEIGHTS).exists()
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """Change entries of config.json; `...` takes one away."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def header(entries: object, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


# ---- files ------------------------------------------------------------------------------------------------------------


def test_no_folder(refused: Refused, tmp_path: Path, llama: Path) -> None:
    embedded = "embedded are: demo, demo-opt, demo-gpt2, demo-bert"
    assert f"{tmp_path}/nothing does not exist ({embedded})" in refused(2, tmp_path / "nothing")
    assert "is a file; give the folder" in refused(2, llama / WEIGHTS)
    assert "neither a folder here nor a hub id" in refused(2, "no model, surely")
    assert "neither a folder here nor a hub id" in refused(2, "x" * 5000)
    assert f"{tmp_path}/config.json does not exist" in refused(2, tmp_path)


def test_the_hub_is_not_asked_when_offline(tmp_path: Path) -> None:
    """In a process of its own, because huggingface_hub reads the variable when it is loaded."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "kirin_lava", "export", "-m", "nobody/nothing", "-o", str(tmp_path / "out")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: nobody/nothing is no folder here and cannot be fetched from the hub: it is not in the")
    assert "HF_HUB_OFFLINE is set" in ran.stderr and ran.stderr.count("\n") == 1 and ran.stdout == ""
    assert not (tmp_path / "out").exists()


def test_missing_weights(refused: Refused, llama: Path) -> None:
    (llama / WEIGHTS).rename(llama / "other.safetensors")
    assert f"{llama}: there is no {WEIGHTS} and no {INDEX}" in refused(2, llama)


def test_pickles_are_never_opened(refused: Refused, llama: Path, tmp_path: Path) -> None:
    (llama / WEIGHTS).unlink()
    witness = tmp_path / "opened"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (witness,)

    (llama / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    assert "pytorch_model.bin is a pickle, which is never opened: save it as safetensors" in refused(2, llama)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged, fetch it again"),
        (b"not a model", "damaged, fetch it again"),
        (b"<!DOCTYPE html><html>404</html>", "damaged, fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run `git lfs pull`"),
        (struct.pack("<Q", 2**63) + b"{}", "damaged"),
        (struct.pack("<Q", 200_000_000) + b"{}", "damaged"),
        (struct.pack("<Q", 100_000) + b"[" * 100_000, "damaged"),
        (header([]), "damaged"),
        (header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}), "damaged"),  # the data is missing
        (header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)), "damaged"),
        (header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)), "damaged"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)), "damaged"),
    ],
)
def test_files_that_are_no_safetensors(refused: Refused, llama: Path, content: bytes, message: str) -> None:
    (llama / WEIGHTS).write_bytes(content)
    said = refused(2, llama)
    assert f"{llama / WEIGHTS} cannot be read as safetensors" in said and message in said


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_weights(refused: Refused, llama: Path, share: float) -> None:
    whole = (llama / WEIGHTS).read_bytes()
    (llama / WEIGHTS).write_bytes(whole[: int(share * len(whole))])
    assert f"{llama / WEIGHTS} cannot be read as safetensors" in refused(2, llama)


def test_missing_tensor(refused: Refused, llama: Path) -> None:
    edit_weights(llama, lambda tensors: tensors.pop(NORM))
    assert f"the checkpoint has no tensor {NORM}; 20 others are there" in refused(2, llama)


def test_missing_head_of_an_untied_model(refused: Refused, llama: Path) -> None:
    edit_weights(llama, lambda tensors: tensors.pop("lm_head.weight"))
    assert "has no tensor lm_head.weight" in refused(2, llama)
    edit_config(llama, tie_word_embeddings=True)
    open_checkpoint(str(llama))


def test_a_tied_model_may_keep_its_head_alone(llama: Path) -> None:
    edit_config(llama, tie_word_embeddings=True)
    edit_weights(llama, lambda tensors: tensors.pop("model.embed_tokens.weight"))
    checkpoint = open_checkpoint(str(llama))
    table = checkpoint.load("model.embed_tokens.weight", (258, 32))
    assert torch.equal(table, load_file(llama / WEIGHTS)["lm_head.weight"])


def test_wrong_shape(refused: Refused, llama: Path) -> None:
    edit_weights(llama, lambda tensors: tensors.update({QUERY: torch.zeros(32, 31)}))
    assert f"{llama / WEIGHTS}: {QUERY} has shape (32, 31), config.json asks for (32, 32)" in refused(2, llama)


def test_fewer_layers_in_the_config_than_in_the_file(refused: Refused, llama: Path) -> None:
    edit_config(llama, num_hidden_layers=1)
    said = refused(3, llama)
    assert "holds model.layers.1." in said and "(1 layers)" in said
    edit_config(llama, num_hidden_layers=3)
    assert "has no tensor model.layers.2.input_layernorm.weight" in refused(2, llama)


@pytest.mark.parametrize("name", ["self_attn.q_proj.bias", "self_attn.q_proj.lora_A.weight", "mlp.up_proj.weight_scale"])
def test_tensors_that_would_be_left_out(refused: Refused, llama: Path, name: str) -> None:
    edit_weights(llama, lambda tensors: tensors.update({f"model.layers.0.{name}": torch.ones(32)}))
    assert f"holds model.layers.0.{name}, which a llama model with this config.json has no place for" in refused(3, llama)


def test_older_files_keep_what_follows_from_the_config(llama: Path) -> None:
    edit_weights(llama, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    open_checkpoint(str(llama))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_that_are_no_floats(refused: Refused, llama: Path, dtype: torch.dtype) -> None:
    edit_weights(llama, lambda tensors: tensors.update({QUERY: torch.ones(32, 32).to(dtype)}))
    said = refused(3, llama)
    assert f"{llama / WEIGHTS}: {QUERY} is " in said and "supported are: F16, BF16, F32, F64" in said


@pytest.mark.parametrize(("dtype", "size"), [("F8_E8M0", 1024), ("F4", 512), ("U64", 8192), ("C64", 8192)])
def test_types_that_torch_may_not_know(refused: Refused, tmp_path: Path, llama: Path, dtype: str, size: int) -> None:
    tensors = load_file(llama / WEIGHTS)
    entries: dict[str, Any] = {QUERY: {"dtype": dtype, "shape": [32, 32], "data_offsets": [0, size]}}
    data = bytes(size)
    for name, tensor in tensors.items():
        if name != QUERY:
            raw = tensor.numpy().tobytes()
            offsets = [len(data), len(data) + len(raw)]
            entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": offsets}
            data += raw
    (llama / WEIGHTS).write_bytes(header(entries, data))
    assert f"{QUERY} is {dtype}; supported are: F16" in refused(3, llama)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("name", [QUERY, "model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight"])
def test_weights_that_are_not_finite(refused: Refused, llama: Path, name: str, value: float) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name].double()  # 1e300 is infinite as float32
        tensors[name][3, 5] = value
        tensors[name][4, 0] = value

    edit_weights(llama, damage)
    said = refused(2, llama, "--num-samples", 1, "--seq-len", 8)
    shown = "inf" if value == 1e300 else str(value)
    assert f"{llama / WEIGHTS}: {name}[3, 5] is {shown} as float32, and 2 of its" in said


# ---- shards -----------------------------------------------------------------------------------------------------------


def edit_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_shards_are_read_like_one_file(sharded: Path, llama: Path) -> None:
    one, many = open_checkpoint(str(llama)), open_checkpoint(str(sharded))
    assert len(many.files()) > 2
    for name, tensor in load_file(llama / WEIGHTS).items():
        assert torch.equal(one.load(name, tuple(tensor.shape)), many.load(name, tuple(tensor.shape)))
    assert many.sha256() == {p.name: file_sha256(p) for p in [sharded / "config.json", *many.files()]}


def test_a_single_file_goes_before_an_index(sharded: Path, llama: Path) -> None:
    """As in transformers, which would otherwise compare with other weights."""
    random_model("llama", seed=9).save_pretrained(llama)
    (sharded / WEIGHTS).write_bytes((llama / WEIGHTS).read_bytes())
    assert [p.name for p in open_checkpoint(str(sharded)).files()] == [WEIGHTS]


def test_missing_shard(refused: Refused, sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    assert f"{sharded}: the weight file {shard.name} is missing; fetch the checkpoint again" in refused(2, sharded)


def test_damaged_shard(refused: Refused, sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1])
    assert f"{shard} cannot be read as safetensors" in refused(2, sharded)


@pytest.mark.parametrize(
    "target", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "x.bin", "", 3, None, ["x"], ".."]
)
def test_an_index_that_points_elsewhere(refused: Refused, sharded: Path, target: object) -> None:
    (sharded.parent / "secret.safetensors").write_bytes((sharded / sorted(sharded.glob("*.safetensors"))[0]).read_bytes())
    edit_index(sharded, lambda names: names.update({QUERY: target}))
    assert f"{INDEX}: {QUERY} points to {target!r}, not to a safetensors file beside it" in refused(2, sharded)


def test_a_shard_without_the_tensor_of_the_index(refused: Refused, sharded: Path) -> None:
    edit_index(sharded, lambda names: names.update({"model.layers.9.none": names[QUERY]}))
    assert "holds no tensor model.layers.9.none, though model.safetensors.index.json says so" in refused(2, sharded)


def test_a_shard_that_another_one_should_be(refused: Refused, sharded: Path) -> None:
    other = sorted(sharded.glob("*.safetensors"))
    edit_index(sharded, lambda names: names.update({QUERY: next(p.name for p in other if p.name != names[QUERY])}))
    assert f"holds no tensor {QUERY}" in refused(2, sharded)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": []}', "[]", "{", "\x00", '"x"'])
def test_damaged_index(refused: Refused, sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    assert str(sharded / INDEX) in refused(2, sharded)


# ---- config.json ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b"[" * 100_000, b'{"hidden_size": 1' + b"0" * 10_000 + b"}"]
)
def test_a_config_that_is_no_config(refused: Refused, llama: Path, content: bytes) -> None:
    (llama / "config.json").write_bytes(content)
    assert str(llama / "config.json") in refused(2, llama)


SIZES = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size vocab_size".split()
BAD_SIZES: list[Any] = ["64", 0, -1, 1.5, True, False, [64], {}, 2**25, 10**39, "NaN"]


@pytest.mark.parametrize("key", [*SIZES, "head_dim", "max_position_embeddings"])
@pytest.mark.parametrize("value", BAD_SIZES, ids=lambda value: str(value)[:12])
def test_sizes_of_the_wrong_kind(llama: Path, key: str, value: Any) -> None:
    edit_config(llama, **{key: value})
    with pytest.raises(UsageError, match=rf"config\.json: {key} is .*, not an integer from 1 to \d+; fetch"):
        open_checkpoint(str(llama))


@pytest.mark.parametrize("key", ["model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
@pytest.mark.parametrize("value", [..., None])
def test_sizes_that_are_missing(refused: Refused, llama: Path, key: str, value: Any) -> None:
    edit_config(llama, **{key: value})
    assert f"config.json: there is no '{key}'; a complete Hugging Face config is needed" in refused(2, llama)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llama", {"model_type": ["llama"]}, "model_type is ['llama'], not a string"),
        ("llama", {"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', not a positive number"),
        ("llama", {"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0"),
        ("llama", {"rms_norm_eps": True}, "rms_norm_eps is True"),
        ("llama", {"rope_theta": float("nan")}, "rope_theta is NaN, which is no number of JSON"),
        ("llama", {"rope_theta": float("inf")}, "rope_theta is Infinity, which is no number of JSON"),
        ("llama", {"rope_theta": 0}, "rope_theta is 0"),
        ("llama", {"rope_theta": 10**400}, "rope_theta is a number of 401 digits, at most 40 are read"),
        ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', not true or false"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ("llama", {"attention_bias": "no"}, "attention_bias is 'no'"),
        ("llama", {"mlp_bias": []}, "mlp_bias is []"),
        ("llama", {"hidden_act": ["silu"]}, "hidden_act is ['silu'], not a string"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling is 'linear', not an object"),
        ("llama", {"rope_scaling": {"type": 2}}, "type is 2, not a string"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "there is no 'factor'"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": -2.0}}, "factor is -2.0, not a positive number"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "there is no 'low_freq_factor'"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "llama3", **dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor"), 2)}},
            "there is no 'original_max_position_embeddings'",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"type": "linear", "factor": 4.0}},
            "rope_parameters and rope_scaling state two scalings",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "longrope", "short_factor": [1, 2], "long_factor": [1, 2], "factor": 2}},
            "short_factor has 2 numbers instead of 4",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "longrope", "short_factor": 7}},
            "short_factor is 7, not a list of positive numbers",
        ),
        ("llama", {"model_type": "phi3", "partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5, not at most 1"),
        ("llama", {"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers does not state 0 or 1 for every layer"),
        ("llama", {"rope_parameters": [1]}, "rope_parameters is [1], not an object"),
        ("llama", {"layer_types": "full_attention"}, "layer_types is 'full_attention', not a list of strings"),
        ("llama", {"quantization_config": "int8"}, "quantization_config is 'int8', not an object"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("llama", {"num_key_value_heads": 8}, "num_attention_heads 4 is not a multiple of num_key_value_heads 8"),
        ("llama", {"num_attention_heads": 6, "head_dim": ...}, "hidden_size 32 is not a multiple of num_attention_heads 6"),
        ("llama", {"head_dim": 7}, "heads of width 7 have no rotary embedding"),
        ("llama", {"model_type": "mistral", "sliding_window": -4}, "sliding_window is -4"),
        ("opt", {"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        ("opt", {"ffn_dim": "48"}, "ffn_dim is '48', not an integer"),
        ("opt", {"enable_bias": "yes"}, "enable_bias is 'yes', not true or false"),
        ("opt", {"do_layer_norm_before": 0}, "do_layer_norm_before is 0"),
        ("opt", {"word_embed_proj_dim": "32"}, "word_embed_proj_dim is '32'"),
        ("opt", {"tie_word_embeddings": "x" * 10_000}, "not true or false"),
    ],
)
def test_entries_of_the_wrong_kind(
    request: pytest.FixtureRequest, refused: Refused, kind: str, changes: dict[str, Any], message: str
) -> None:
    folder = request.getfixturevalue(kind)
    edit_config(folder, **changes)
    said = refused(2, folder)
    assert f"{folder / 'config.json'}: " in said and message in said and len(said) < 500


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (
            "llama",
            {"model_type": "bloom"},
            "model_type 'bloom' is not supported (missing: a bias of scores by distance (ALiBi); the nearest that works is "
            "gpt_neox); supported are: llama, mistral, qwen2, qwen3, phi3, granite, smollm3, opt, gpt2, gpt_neox, gemma, ",
        ),
        ("llama", {"model_type": ""}, "model_type '' is not supported; supported are: llama"),
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu' is not supported in this family; supported is: silu"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "mrope", "factor": 8.0}},
            "rope scaling 'mrope' is not supported here; supported are: default, linear, dynamic, yarn, longrope, llama3",
        ),
        ("llama", {"partial_rotary_factor": 0.5}, "partial rotary embedding is not supported here; supported is"),
        (
            "llama",
            {"model_type": "phi3", "partial_rotary_factor": 0.4},
            "rotary embedding of 3 of the 8 numbers of a head is not",
        ),
        (
            "llama",
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "already ('gptq'); supported are: float",
        ),
        ("llama", {"quantization_config": {"load_in_8bit": True}}, "quantised already ('unknown method')"),
        (
            "llama",
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8},
            "sliding-window attention without a window is not supported; s",
        ),
        ("llama", {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]}, "sliding-window attention"),
        ("llama", {"max_position_embeddings": 2**20, "head_dim": 1024}, "rotary tables of 1048576 positions times 1024"),
        (
            "opt",
            {"hidden_size": 2**12, "num_attention_heads": 2, "word_embed_proj_dim": ...},
            "heads of width 2048 are not supp",
        ),
        ("opt", {"activation_function": "gelu"}, "activation 'gelu' is not supported in this family; supported is: relu"),
        ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim 16 differs from hidden_size 32"),
        ("opt", {"enable_bias": False}, "enable_bias is false; supported are"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine is false; supported are"),
    ],
)
def test_models_that_are_not_supported(
    request: pytest.FixtureRequest, refused: Refused, kind: str, changes: dict[str, Any], message: str
) -> None:
    folder = request.getfixturevalue(kind)
    edit_config(folder, **changes)
    said = refused(3, folder)
    assert f"{folder / 'config.json'}: " in said and message in said


def test_sizes_that_would_fill_the_memory_are_refused_at_once(llama: Path) -> None:
    for key, most in (("num_hidden_layers", MOST_LAYERS), ("hidden_size", MOST), ("vocab_size", MOST)):
        before = (llama / "config.json").read_text()
        edit_config(llama, **{key: most})
        with pytest.raises((UsageError, UnsupportedError), match=r"has shape|has no tensor|not a multiple"):
            open_checkpoint(str(llama))
        (llama / "config.json").write_text(before)


# ---- tokenizer --------------------------------------------------------------------------------------------------------


def test_missing_tokenizer(refused: Refused, llama: Path) -> None:
    for path in llama.glob("*token*"):
        path.unlink()
    assert f"{llama} has no tokenizer: neither tokenizer.json nor tokenizer.model nor vocab.json" in refused(2, llama)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "none"}}'])
def test_damaged_tokenizer(refused: Refused, llama: Path, content: str) -> None:
    (llama / "tokenizer.json").write_text(content)
    assert f"{llama}: the tokenizer cannot be loaded (" in refused(2, llama)


def test_code_that_comes_with_a_tokenizer_is_not_run(refused: Refused, llama: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (llama / "custom.py").write_text(f"open({str(witness)!r}, 'w')\nclass Custom: pass\n")
    config = json.loads((llama / "tokenizer_config.json").read_text())
    config.update(tokenizer_class="Custom", auto_map={"AutoTokenizer": ["custom.Custom", "custom.Custom"]})
    (llama / "tokenizer_config.json").write_text(json.dumps(config))
    assert "the tokenizer cannot be loaded" in refused(2, llama)
    assert not witness.exists()


def test_a_tokenizer_of_another_model(refused: Refused, tmp_path: Path) -> None:
    """Its ids lie outside the embedding."""
    folder = save_model(tmp_path / "small", vocab_size=50)
    said = refused(2, folder)
    assert "token id" in said and "vocabulary of 50" in said


# ---- reading ----------------------------------------------------------------------------------------------------------


def test_a_tensor_comes_as_float32(llama: Path) -> None:
    tensors = load_file(llama / WEIGHTS)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, llama / WEIGHTS)
        loaded = Checkpoint(llama, "x").load(QUERY, (32, 32))
        assert loaded.dtype == torch.float32 and torch.equal(loaded, tensors[QUERY].to(dtype).float())


def test_names_and_revisions(llama: Path) -> None:
    checkpoint = open_checkpoint(str(llama))
    assert (checkpoint.name, checkpoint.revision, checkpoint.family.model_types[0]) == ("llama", None, "llama")


def test_a_folder_does_not_hide_an_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "demo")
    assert open_checkpoint("demo").path == EMBEDDED_MODELS["demo"]
    assert open_config("demo") == open_checkpoint("demo").config != open_config("./demo")
    assert open_checkpoint("./demo").path.resolve() == tmp_path / "demo"
