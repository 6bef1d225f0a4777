"""Checkpoints with random weights, one per model type, small enough to convert in a test."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from kirin_lava.models import family_of
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.layout import Config

LLAMA = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "vocab_size": 40,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, Config] = {
    "llama": {"model_type": "llama", **LLAMA},
    "mistral": {"model_type": "mistral", **LLAMA, "sliding_window": 32},
    "qwen2": {"model_type": "qwen2", **LLAMA},
    "qwen3": {"model_type": "qwen3", **LLAMA, "head_dim": 16, "tie_word_embeddings": True},
    "opt": {
        "model_type": "opt",
        "hidden_size": 32,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "vocab_size": 40,
        "max_position_embeddings": 64,
    },
    "opt-post-norm": {
        "model_type": "opt",
        "hidden_size": 32,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "num_hidden_layers": 1,
        "vocab_size": 40,
        "max_position_embeddings": 64,
        "do_layer_norm_before": False,
    },
}


def random_checkpoint(folder: Path, kind: str, seed: int = 0) -> Checkpoint:
    """Write random weights for one of `CONFIGS` and open them. The family itself says which tensors there are."""
    config = CONFIGS[kind]
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def load(name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in tensors:
            tensors[name] = torch.randn(shape, generator=generator) / (shape[-1] ** 0.5 if len(shape) == 2 else 1.0)
        return tensors[name]

    family = family_of(config)
    family.embedding(config, load)
    for index in range(family.dimensions(config).layers):
        family.block(config, index, load)
    family.head(config, load)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return open_checkpoint(str(folder))


def random_rows(config: Config, rows: int = 2, length: int = 12, seed: int = 1) -> list[Tensor]:
    """Sequences of random ids (L,)."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, config["vocab_size"], (length,), generator=generator) for _ in range(rows)]
