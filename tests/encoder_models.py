"""Encoders made by transformers itself: random weights from a seed, and a tokenizer that spells letters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

ENCODERS: dict[str, tuple[type[Any], type[Any]]] = {
    "bert": (BertConfig, BertModel),
    "bert-lm": (BertConfig, BertForMaskedLM),
    "bert-pretraining": (BertConfig, BertForPreTraining),
    "bert-classes": (BertConfig, BertForSequenceClassification),
    "roberta": (RobertaConfig, RobertaModel),
    "roberta-lm": (RobertaConfig, RobertaForMaskedLM),
    "roberta-classes": (RobertaConfig, RobertaForSequenceClassification),
    "xlm-roberta-lm": (XLMRobertaConfig, XLMRobertaForMaskedLM),
    "distilbert": (DistilBertConfig, DistilBertModel),
    "distilbert-lm": (DistilBertConfig, DistilBertForMaskedLM),
    "distilbert-classes": (DistilBertConfig, DistilBertForSequenceClassification),
}
ENCODER_VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in ENCODERS),
    ("bert", {"hidden_act": "gelu_new", "type_vocab_size": 1, "layer_norm_eps": 1e-3}),
    ("bert-lm", {"tie_word_embeddings": False, "hidden_act": "relu"}),
    ("bert-classes", {"num_labels": 5}),
    ("roberta-lm", {"tie_word_embeddings": False}),
    ("roberta-classes", {"num_labels": 3, "layer_norm_eps": 1e-5}),
    ("distilbert-lm", {"tie_word_embeddings": False, "activation": "relu"}),
    ("distilbert", {"sinusoidal_pos_embds": True}),
]
"""Kinds, and entries of their configs that differ from those of a small plain one."""
LETTERS = "abcdefghijklmnopqrstuvwxyz.,'"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = len(SPECIAL) + 2 * len(LETTERS)
SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": 66}
COMMON = {**SIZES, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
DISTIL = {**SIZES, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}


def random_encoder(kind: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A model of transformers whose every parameter is drawn, biases and norms too."""
    config, model = ENCODERS[kind]
    torch.manual_seed(seed)
    made: PreTrainedModel = model(config(**{**(DISTIL if kind.startswith("distil") else COMMON), **changes})).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            center = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(torch.randn(parameter.shape) * 0.2 + center)
    made.tie_weights()
    return made


def save_letters(folder: Path) -> None:
    """A WordPiece tokenizer of single letters: [CLS] text [SEP]."""
    words = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def save_encoder(folder: Path, kind: str = "bert", seed: int = 0, **changes: Any) -> Path:
    """A whole checkpoint: weights, config and tokenizer."""
    random_encoder(kind, seed, **changes).save_pretrained(folder)
    save_letters(folder)
    return folder


def save_sentence_files(folder: Path, pooling: str = "pooling_mode_mean_tokens", normalize: bool = True) -> None:
    """What sentence-transformers keeps beside a checkpoint."""
    steps = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    kinds = [
        {"type": f"sentence_transformers.models.{step}", "path": f"{i}_{step}" if i else ""} for i, step in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, pooling: True}))


def padded(lengths: list[int], seed: int = 0, padding: int = 0) -> tuple[Tensor, Tensor]:
    """Random ids (B, L) with padding on the right, and the mask of real ones."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(5, VOCABULARY, mask.shape, generator=generator)
    return torch.where(mask, ids, padding), mask
