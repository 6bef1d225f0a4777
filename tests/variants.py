"""Variants of every family, as entries of config.json that differ from those of a small plain one: what tests, the benchmark of
families and the list in the docs go through."""

from __future__ import annotations

from typing import Any

__all__ = ["LLAMA3", "LONG", "VARIANTS", "YARN", "name_of"]

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"short_factor": [1.0, 1.1, 1.3, 2.0], "long_factor": [1.0, 2.0, 4.0, 8.0]}
HALF_LONG = {"type": "longrope", "short_factor": [1.1, 1.4], "long_factor": [2.0, 8.0]}
GRANITE = {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.4, "logits_scaling": 0.5}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "rope_theta": 500000.0, "rms_norm_eps": 1e-3}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 12, "num_key_value_heads": 1}),
    ("llama", {"num_key_value_heads": 4, "num_hidden_layers": 1}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 5, "head_dim": 6}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": True, "sliding_window": 8}),
    ("qwen3", {"head_dim": 16}),
    ("qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
    ("llama", {"rope_scaling": LLAMA3}),
    ("qwen2", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
    ("qwen3", {"head_dim": 16, "rope_scaling": YARN}),
    ("smollm3", {"rope_scaling": {**YARN, "mscale": 1.2, "mscale_all_dim": 0.8, "beta_fast": 8.0, "truncate": False}}),
    ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 4.0, **LONG}}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    ("smollm3", {"use_sliding_window": True, "sliding_window": 6, "no_rope_layers": [1, 0]}),
    ("phi3", {"sliding_window": 6}),
    ("phi3", {}),
    ("phi3", {"rope_scaling": {"type": "longrope", **LONG}, "original_max_position_embeddings": 32}),
    ("phi3", {"rope_scaling": HALF_LONG, "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5}),
    ("phi3", {"partial_rotary_factor": 0.75, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("granite", {}),
    ("granite", {**GRANITE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("smollm3", {"no_rope_layer_interval": 2}),
    ("smollm3", {"no_rope_layers": [0, 1], "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    ("opt", {}),
    ("opt", {"do_layer_norm_before": False}),
    ("opt", {"tie_word_embeddings": False}),
    ("opt", {"_remove_final_layer_norm": True}),
    ("gemma", {}),
    ("gemma", {"tie_word_embeddings": False, "attention_bias": True, "hidden_act": "gelu"}),
    ("gemma2", {}),
    ("gemma2", {"attn_logit_softcapping": 2.0, "final_logit_softcapping": None, "num_hidden_layers": 1}),
    ("gemma2", {"attn_logit_softcapping": None, "attention_bias": True, "tie_word_embeddings": False}),
    ("gemma3_text", {}),
    ("gemma3_text", {"rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"], "final_logit_softcapping": 5.0}),
    ("gpt2", {}),
    ("gpt2", {"activation_function": "gelu", "tie_word_embeddings": False, "layer_norm_epsilon": 1e-3}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": None, "reorder_and_upcast_attn": True}),
    ("gpt2", {"scale_attn_weights": False}),
    ("gpt_neox", {}),
    ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 0.5, "hidden_act": "gelu_new", "tie_word_embeddings": True}),
    ("gpt_neox", {"attention_bias": False, "rotary_pct": 1.0, "rotary_emb_base": 500.0}),
    ("gpt_neox", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
]


def name_of(kind: str, changes: dict[str, Any]) -> str:
    """Of a test: the type and the entries that differ."""
    return f"{kind}-{'-'.join(changes) or 'plain'}"
