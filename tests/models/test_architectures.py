"""What `architectures` names decides: a language model or its decoder is converted, any other head is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.models.checkpoint import open_checkpoint, open_config
from tests.hf_models import random_model, save_model, save_tokenizer

Refused = Callable[..., str]
PREFIXES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "opt": "OPT"}
LANGUAGE_MODELS = {
    **{kind: (f"{prefix}ForCausalLM", f"{prefix}Model") for kind, prefix in PREFIXES.items()},
    "phi3": ("Phi3ForCausalLM", "Phi3Model"),
    "granite": ("GraniteForCausalLM", "GraniteModel"),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Model"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Model"),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXModel"),
    "gemma": ("GemmaForCausalLM", "GemmaModel"),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Model"),
    "gemma3_text": ("Gemma3ForCausalLM", "Gemma3TextModel"),
}
HEADS = [
    (kind, f"{prefix}{head}")
    for kind, prefix in PREFIXES.items()
    for head in ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    if hasattr(transformers, f"{prefix}{head}")
]


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("kind", "name"), HEADS)
def test_other_heads_are_refused(refused: Refused, tmp_path: Path, kind: str, name: str) -> None:
    """With tied embeddings they have all that a language model needs. Without the entry, the head itself gives them away."""
    folder = tmp_path / "model"
    config = random_model(kind, tie_word_embeddings=True).config
    made = getattr(transformers, name)(config)
    made.save_pretrained(folder)
    save_tokenizer(folder)
    said = refused(3, folder)
    assert (
        f"architectures names '{name}'" in said
        and f"supported are: language models (such as {kind.title()}ForCausalLM)" in said
    )
    with pytest.raises(UnsupportedError, match=name):
        open_config(str(folder))  # a dry run needs no weights
    for empty in (True, False):
        edit(folder, architectures=[] if empty else None)
        if name.endswith("QuestionAnswering") and kind in ("llama", "qwen2", "qwen3"):  # all its names have another prefix
            assert "has no tensor model.embed_tokens.weight" in refused(2, folder)
        else:
            assert "has no place for" in refused(3, folder)


@pytest.mark.parametrize(
    "names", [["GPT2LMHeadModel"], ["LlamaForCausalLM", "LlamaForSequenceClassification"], ["Qwen2ForCausalLM"], [""]]
)
def test_other_names_are_refused(refused: Refused, tmp_path: Path, names: list[str]) -> None:
    edit(save_model(tmp_path / "model"), architectures=names)
    assert f"architectures names '{names[-1]}', whose head or layers are not those of a llama" in refused(3, tmp_path / "model")


def test_architectures_that_are_no_list(refused: Refused, tmp_path: Path) -> None:
    edit(save_model(tmp_path / "model"), architectures="LlamaForCausalLM")
    assert "architectures is 'LlamaForCausalLM', not a list of strings" in refused(2, tmp_path / "model")


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_language_models_and_their_decoders_convert(tmp_path: Path, kind: str) -> None:
    folder = save_model(tmp_path / "model", kind, tie_word_embeddings=True)
    for names in (*([name] for name in LANGUAGE_MODELS[kind]), [], None):
        edit(folder, architectures=names)
        assert open_checkpoint(str(folder)).family.model_types


@pytest.mark.parametrize("name", ["v_head.summary.weight", "score.weight", "model.vision.weight"])
def test_tensors_that_no_language_model_has(refused: Refused, tmp_path: Path, name: str) -> None:
    """A value head of reinforcement learning leaves `architectures` as it was."""
    file = save_model(tmp_path / "model") / "model.safetensors"
    save_file({**load_file(file), name: torch.ones(1, 32)}, file, metadata={"format": "pt"})
    assert f"holds {name}, which a llama model with this config.json has no place for" in refused(3, file.parent)


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_a_tied_head_that_differs_is_refused_and_an_equal_one_is_not(refused: Refused, tmp_path: Path, kind: str) -> None:
    """transformers 4 runs the embedding in its place, 5 the head."""
    folder = save_model(tmp_path / "model", kind, tie_word_embeddings=False)
    edit(folder, tie_word_embeddings=True)
    assert "holds lm_head.weight, which differs from model" in refused(3, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    embedding = next(tensor for key, tensor in tensors.items() if key.endswith("embed_tokens.weight"))
    save_file({**tensors, "lm_head.weight": embedding.clone()}, file, metadata={"format": "pt"})
    assert open_checkpoint(str(folder)).family.model_types
