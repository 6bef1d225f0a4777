"""Generation: where it stops, and how far it may go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.executor import Executor
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.generate import choose, generate, stop_ids
from tests.exports import export
from tests.hf_models import save_model

CONTEXT = 64
SMALL = {"recipe": "fast", "num_samples": 1, "seq_len": 8, "verify_with": "none"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that names no token that ends a text."""
    return save_model(tmp_path_factory.mktemp("generate") / "model", num_hidden_layers=1, eos_token_id=None)


@pytest.fixture(scope="module")
def bundle(model: Path) -> Path:
    out = model.with_name("bundle")
    export(str(model), out, **SMALL)  # type: ignore[arg-type]
    assert stop_ids(out) == set()
    return out


def test_tokens_are_the_most_likely_ones(bundle: Path) -> None:
    """Each by a whole new pass over all tokens before it."""
    result = generate(bundle, "Once", max_new_tokens=6)
    executor, ids = Executor(Bundle(bundle).model()), load_tokenizer(bundle)("Once").input_ids
    assert result.prompt_tokens == len(ids) and len(result.tokens) == 6
    for token in result.tokens:
        assert int(executor.forward(torch.tensor([ids]))[0, -1].argmax()) == token
        ids.append(token)


def test_a_stop_token_ends_the_text_and_is_not_part_of_it(model: Path, bundle: Path, tmp_path: Path) -> None:
    plain = generate(bundle, "Once", max_new_tokens=30).tokens
    assert len(plain) == 30
    stop = next(token for i, token in enumerate(plain) if i >= 3 and token not in plain[:i])
    settings = model / "generation_config.json"
    before = settings.read_text()
    settings.write_text(json.dumps({"eos_token_id": [stop, 1_000_000]}))
    try:
        export(str(model), tmp_path / "out", **SMALL)  # type: ignore[arg-type]
    finally:
        settings.write_text(before)
    assert generate(tmp_path / "out", "Once", max_new_tokens=30).tokens == plain[: plain.index(stop)]


@pytest.mark.parametrize(("prompt", "asked", "made"), [(60, 100, 4), (60, 4, 4), (60, 3, 3), (63, 5, 1), (10, 5, 5), (1, 1, 1)])
def test_the_text_ends_with_the_context_or_at_the_number_asked_for(bundle: Path, prompt: int, asked: int, made: int) -> None:
    result = generate(bundle, "x" * prompt, max_new_tokens=asked)
    assert (result.prompt_tokens, len(result.tokens)) == (prompt, made)
    assert prompt + made <= CONTEXT


def test_what_is_drawn_lies_among_the_most_likely() -> None:
    logits = torch.tensor([0.0, 3.0, 2.5, -1.0, 2.9])
    drawn = [choose(logits, 1.5, 3, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert set(drawn) == {1, 2, 4}
    assert {choose(logits, 1.5, 1, torch.Generator().manual_seed(seed)) for seed in range(50)} == {1}
    assert {choose(logits, 5.0, 0, torch.Generator().manual_seed(seed)) for seed in range(300)} == {0, 1, 2, 3, 4}
    assert choose(logits, 0.0, 3, torch.Generator()) == 1
