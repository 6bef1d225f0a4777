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
    "llama-3.2-1b": {  # without its scaled rotary embedding, which no conversion supports
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
