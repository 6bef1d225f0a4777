"""Encoders against transformers: what the front end reads from a checkpoint computes the same, with padding and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.graph.block import CLASSES, MASKED_LM, STATES
from kirin_lava.models import family_of
from kirin_lava.models import float_model as twin
from kirin_lava.models.bert import head_of
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.sentence import FIRST, MEAN, sentence_facts
from tests.encoder_models import (
    ENCODER_VARIANTS,
    ENCODERS,
    VOCABULARY,
    padded,
    random_encoder,
    save_encoder,
    save_sentence_files,
)
from tests.variants import name_of

LENGTHS = [30, 3, 17]


def ours(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    """(B, L) ids without padding -> what the head makes, by the float twin."""
    family, config = checkpoint.family, checkpoint.config
    x = twin.embed(family.embedding(config, checkpoint.load), ids)
    for index in range(checkpoint.dimensions.layers):
        x = twin.run_block(family.block(config, index, checkpoint.load), x)
    if head_of(config) == CLASSES:
        x = x[:, :1]
    return twin.run_block(family.head(config, checkpoint.load), x)


def check(folder: Path, kind: str) -> Checkpoint:
    """What a saved checkpoint computes of every text of a padded batch equals what transformers makes of the batch."""
    checkpoint = open_checkpoint(str(folder))
    padding = 1 if "roberta" in kind else 0
    ids, mask = padded(LENGTHS, padding=padding)
    network = ENCODERS[kind][1].from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        answer = network(ids, attention_mask=mask.long())
        theirs = answer[0] if kind != "bert-pretraining" else answer.prediction_logits
        for i, length in enumerate(LENGTHS):
            found = ours(checkpoint, ids[i : i + 1, :length])[0]
            wanted = theirs[i] if head_of(checkpoint.config) == CLASSES else theirs[i, :length]
            assert float((found - wanted).norm() / wanted.norm()) < 1e-4
            assert float(wanted.std()) > 0.01
    return checkpoint


@pytest.mark.parametrize(("kind", "changes"), ENCODER_VARIANTS, ids=[name_of(*variant) for variant in ENCODER_VARIANTS])
def test_equals_transformers(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    random_encoder(kind, **changes).save_pretrained(tmp_path)
    checkpoint = check(tmp_path, kind)
    outputs = {STATES: 32, MASKED_LM: VOCABULARY, CLASSES: changes.get("num_labels", 2)}[head_of(checkpoint.config)]
    assert checkpoint.facts()["outputs"] == outputs
    assert checkpoint.dimensions.max_positions == (64 if "roberta" in kind else 66)
    assert not checkpoint.family.block(checkpoint.config, 1, checkpoint.load).causal


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["bert-lm", "roberta-classes", "distilbert"])
def test_half_precision_and_shards(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    random_encoder(kind).to(dtype).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    check(tmp_path, kind)


def test_older_names_of_norms_and_no_prefix(tmp_path: Path) -> None:
    random_encoder("bert-lm").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in tensors.items()
    }
    assert any(name.endswith("gamma") for name in renamed)
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    check(tmp_path, "bert-lm")


def test_other_heads_are_left_out_and_all_else_is_not(tmp_path: Path) -> None:
    """A pooler and a head beside the one that is asked for are no part of it; an adapter is."""
    random_encoder("bert-pretraining").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {"cls.seq_relationship.weight", "bert.pooler.dense.weight"} <= set(tensors)
    check(tmp_path, "bert-pretraining")
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("BertForPreTraining", "BertModel"))
    check(tmp_path, "bert")
    (tmp_path / "config.json").write_text(config)
    save_file({**tensors, "cls.predictions.decoder.bias": torch.ones(VOCABULARY)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"holds cls.predictions.decoder.bias and cls.predictions.bias, which differ"):
        open_checkpoint(str(tmp_path))
    save_file({**tensors, "bert.encoder.layer.0.adapter.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"holds bert.encoder.layer.0.adapter.weight, which a bert model"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["BertForTokenClassification"]},
            "whose head is not converted; supported are, of this type: BertModel",
        ),
        ({"architectures": ["BertLMHeadModel"]}, "whose head is not converted"),
        ({"hidden_act": "silu"}, "activation 'silu' is not supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is true: decoders of this family are not supported"),
        ({"add_cross_attention": True}, "attention to another text"),
        ({"embedding_size": 16}, "embedding_size 16 differs from hidden_size 32"),
        ({"model_type": "albert"}, "model_type 'albert' is not supported"),
    ],
)
def test_what_is_no_such_encoder_is_refused(changes: dict[str, Any], message: str) -> None:
    config = {**random_encoder("bert").config.to_dict(), **changes}
    with pytest.raises(UnsupportedError, match=message):
        family_of(config)


@pytest.mark.parametrize(("pooling", "wanted"), [("pooling_mode_mean_tokens", MEAN), ("pooling_mode_cls_token", FIRST)])
def test_sentence_files_say_how_states_become_a_vector(tmp_path: Path, pooling: str, wanted: str) -> None:
    assert sentence_facts(tmp_path) == {"pooling": MEAN, "normalize": True}
    save_sentence_files(tmp_path, pooling, normalize=wanted == MEAN)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": false}')
    assert sentence_facts(tmp_path) == {"pooling": wanted, "normalize": wanted == MEAN, "sentence_tokens": 24}


def test_other_steps_and_poolings_are_refused(tmp_path: Path) -> None:
    save_sentence_files(tmp_path, "pooling_mode_max_tokens")
    with pytest.raises(UnsupportedError, match="pools by pooling_mode_max_tokens; supported is one of"):
        sentence_facts(tmp_path)
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]')
    with pytest.raises(UnsupportedError, match="has a step 'Dense'"):
        sentence_facts(tmp_path)
    (tmp_path / "modules.json").write_text('[{"type": 3}]')
    with pytest.raises(UsageError, match="a step is"):
        sentence_facts(tmp_path)


def test_a_bare_encoder_says_it_in_its_facts(tmp_path: Path) -> None:
    save_sentence_files(save_encoder(tmp_path))
    assert open_checkpoint(str(tmp_path)).facts() == {"head": STATES, "outputs": 32, "pooling": MEAN, "normalize": True}
