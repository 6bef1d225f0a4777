"""Checkpoints made by transformers itself: random weights from a seed, and a tokenizer that spells bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

CLASSES: dict[str, tuple[type[Any], type[Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
    "granite": (GraniteConfig, GraniteForCausalLM),
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM),
    "opt": (OPTConfig, OPTForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
    "gemma3_text": (Gemma3TextConfig, Gemma3ForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXForCausalLM),
}
VOCABULARY = 258
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
ROTARY: dict[str, Any] = {**COMMON, "num_key_value_heads": 2, "intermediate_size": 48}
LEARNED: dict[str, Any] = {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32}
DEFAULTS: dict[str, dict[str, Any]] = {
    "opt": LEARNED,
    "gpt2": {**COMMON, "n_inner": 48, "n_positions": 64},
    "gemma": {**ROTARY, "head_dim": 8},
    "gemma2": {**ROTARY, "head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 6},
    "gemma3_text": {**ROTARY, "head_dim": 8, "query_pre_attn_scalar": 12, "sliding_window": 6, "sliding_window_pattern": 2},
    "gpt_neox": {**COMMON, "intermediate_size": 48, "rotary_pct": 0.25},
}
"""Of types whose entries are not those of `ROTARY`."""


def random_model(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of transformers whose every parameter is drawn, biases and norms too."""
    config, model = CLASSES[kind]
    torch.manual_seed(seed)
    made: PreTrainedModel = model(config(**{**DEFAULTS.get(kind, ROTARY), **changes})).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            norm = ("norm" in name or ".ln_" in name) and not kind.startswith("gemma")
            center = 1.0 if norm and name.endswith("weight") else 0.0
            parameter.copy_(torch.randn(parameter.shape) * 0.2 + center)
    return made


def save_tokenizer(folder: Path, bos: bool = True) -> None:
    """A tokenizer of 256 bytes, <s> (0) and </s> (1)."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "</s>": 1, **{letter: i + 2 for i, letter in enumerate(letters)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "</s>", **({"bos_token": "<s>"} if bos else {})}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def save_model(folder: Path, kind: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """A whole checkpoint: weights, config and tokenizer."""
    random_model(kind, seed, **changes).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
