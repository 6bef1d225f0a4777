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
