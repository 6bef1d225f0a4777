"""GGUF files as the converters of llama.cpp write them, from small models of transformers, written by the library gguf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel

from tests.hf_models import random_model

__all__ = ["WIDE", "entries_of", "save_gguf", "write_gguf"]

WIDE: dict[str, Any] = {"intermediate_size": 64, "vocab_size": 260}  # rows of whole blocks of 32; two tokens of many bytes
_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ2_XXS": (0,), "IQ4_XS": (0,)}
"""Where the half floats lie in a block."""
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    """The name of a tensor of transformers in a GGUF file."""
    place, _, end = name.rpartition(".")
    if place in _WHOLE:
        return f"{_WHOLE[place]}.{end}"
    _, _, index, part = place.split(".", 3)
    return f"blk.{index}.{_PARTS[part]}.{end}"


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as llama files have them: what transformers keeps half a head apart lies side by side."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def packed(kind: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random blocks of a type that the library cannot quantise to, with scales that are numbers."""
    block, width = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    data = np.random.default_rng(seed).integers(0, 256, (*shape[:-1], shape[-1] // block, width), dtype=np.uint8)
    for at in _SCALES[kind]:
        data[..., at : at + 2] = np.frombuffer(np.float16(0.004).tobytes(), np.uint8)
    return data.reshape(*shape[:-1], -1)


def write_gguf(
    path: Path,
    entries: Mapping[str, Any],
    tensors: Mapping[str, tuple[np.ndarray, str]],
    architecture: str = "llama",
    **options: Any,
) -> Path:
    """Write a file: entries by key, tensors by name, each with its type; values of a library type are packed already."""
    writer = gguf.GGUFWriter(path, architecture, **options)
    for key, value in entries.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    for name, (data, kind) in tensors.items():
        raw = None if kind in ("F32", "F16") else GGMLQuantizationType[kind]
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def entries_of(model: PreTrainedModel, architecture: str) -> dict[str, Any]:
    """Metadata of a model, and a tokenizer of 256 bytes, <s> (0), </s> (1), "th" and "the"."""
    c = model.config
    own = {
        "context_length": c.max_position_embeddings,
        "embedding_length": c.hidden_size,
        "block_count": c.num_hidden_layers,
        "feed_forward_length": c.intermediate_size,
        "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": c.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": float(c.rms_norm_eps),
        "rope.freq_base": float(c.rope_theta),
    }
    if architecture in ("llama", "mistral"):
        own |= {"vocab_size": c.vocab_size, "rope.dimension_count": c.hidden_size // c.num_attention_heads}
    if architecture == "qwen3":
        own |= {"attention.key_length": c.head_dim, "attention.value_length": c.head_dim}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {
        **{f"{architecture}.{key}": value for key, value in own.items()},
        "general.name": "tiny",
        "general.license": "mit",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": ["<s>", "</s>", *letters, "th", "the"],
        "tokenizer.ggml.token_type": [3, 3, *[1] * len(letters), 1, 1],
        "tokenizer.ggml.merges": ["t h", "th e"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def save_gguf(
    path: Path,
    kind: str = "llama",
    matrices: str | Callable[[str], str] = "F32",
    seed: int = 0,
    architecture: str | None = None,
    entries: Mapping[str, Any] | None = None,
    extra: Mapping[str, tuple[np.ndarray, str]] | None = None,
    **changes: Any,
) -> PreTrainedModel:
    """Write a random model; returns it in transformers with the very weights that the file has, after rounding.

    Args:
        matrices: type of the matrices, or of each by its name in the file. architecture: as the file states it, `kind` by
            default. entries: others; `...` takes one away. extra: more tensors. changes: of the config.
    """
    model = random_model(kind, seed, **{**WIDE, **changes})
    named = architecture or kind
    tensors: dict[str, tuple[np.ndarray, str]] = {}
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            short = gguf_name(name)
            wanted = "F32" if parameter.ndim == 1 else matrices if isinstance(matrices, str) else matrices(short)
            data, floats = _rounded(parameter.numpy(), wanted, len(tensors))
            parameter.copy_(torch.from_numpy(floats))
            part = name.split(".")[-2]
            if part in heads and named in ("llama", "mistral"):
                data = neighbours(data, heads[part])
            tensors[short] = (data, wanted)
    found = {**entries_of(model, named), **(entries or {})}
    write_gguf(path, {key: value for key, value in found.items() if value is not ...}, {**tensors, **(extra or {})}, named)
    return model


def _rounded(values: np.ndarray, kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the file holds, and the float32 values that this is."""
    known = GGMLQuantizationType[kind]
    try:
        data = gguf.quants.quantize(values, known)
    except NotImplementedError:
        data = packed(kind, values.shape, seed)
    return data, gguf.quants.dequantize(data, known).reshape(values.shape)
