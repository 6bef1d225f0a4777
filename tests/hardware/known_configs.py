"""config.json entries of public models, as far as a shape depends on them."""

from __future__ import annotations

from kirin_lava.models.layout import Config


def _opt(width: int, layers: int, heads: int) -> Config:
    return {
        "model_type": "opt",
        "hidden_size": width,
        "num_attention_heads": heads,
        "ffn_dim": 4 * width,
        "num_hidden_layers": layers,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": width,
    }


OPT_125M, OPT_1_3B, OPT_2_7B = _opt(768, 12, 12), _opt(2048, 24, 32), _opt(2560, 32, 32)
LLAMA_2_7B: Config = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
LONG_CONTEXTS: dict[str, Config] = {
    "mistral-nemo": {
        "model_type": "mistral",
        "hidden_size": 5120,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 14336,
        "num_hidden_layers": 40,
        "vocab_size": 131072,
        "max_position_embeddings": 1024000,
        "sliding_window": None,
    },
    "llama-3.2-1b": {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "vocab_size": 152064,
        "max_position_embeddings": 131072,
        "use_sliding_window": False,
    },
}
"""Models that say they see far more positions than anybody runs on a chip."""

PUBLIC: dict[str, Config] = {
    "llama-3.2-1b": LONG_CONTEXTS["llama-3.2-1b"],
    "gemma-2-2b": {
        "model_type": "gemma2",
        "hidden_size": 2304,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_theta": 10000.0,
    },
    "pythia-1.4b": {
        "model_type": "gpt_neox",
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "vocab_size": 50304,
        "max_position_embeddings": 2048,
        "rotary_pct": 0.25,
        "hidden_act": "gelu",
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
    },
    "phi-3-mini-4k": {
        "model_type": "phi3",
        "hidden_size": 3072,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "sliding_window": 2047,
        "rope_scaling": None,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "n_ctx": 1024,
        "vocab_size": 50257,
        "activation_function": "gelu_new",
    },
}
"""Models of today, with all that their configs say of the network."""
WEIGHTS = {
    "llama-3.2-1b": 1_235_814_400,
    "gemma-2-2b": 2_614_341_888,
    "pythia-1.4b": 1_414_647_808,
    "phi-3-mini-4k": 3_821_079_552,
    "gpt2": 124_439_808,
}
"""Their published numbers of parameters."""
