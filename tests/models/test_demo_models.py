"""The embedded models: they load cleanly, tell stories that hang together, and can be trained again to the byte."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from story_grammar import stories_of  # noqa: E402
from story_words import BOYS, GIRLS  # noqa: E402
from train_demo_model import CONTEXT, FAMILIES, perplexity, train  # noqa: E402

DATA = ROOT / "kirin_lava" / "models" / "data"
FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
MAX_BYTES = 1_500_000
EMBEDDED = sorted(FAMILIES)


def folder_of(family: str) -> Path:
    return DATA / FAMILIES[family].folder


@pytest.fixture(scope="module", params=EMBEDDED)
def loaded(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """Model in float32 and tokenizer of one family."""
    folder = folder_of(request.param)
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Training sets process-wide switches; put them back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("family", EMBEDDED)
def test_folder_is_complete_and_small(family: str) -> None:
    folder = folder_of(family)
    assert {path.name for path in folder.iterdir()} == FILES
    assert sum(path.stat().st_size for path in folder.iterdir()) <= MAX_BYTES
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"


def test_all_families_share_one_tokenizer() -> None:
    assert len({(folder_of(family) / "tokenizer.json").read_bytes() for family in EMBEDDED}) == 1


def test_tokenizer_begins_with_bos_and_round_trips(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    for text in ("Once upon a time, there was a fox.", " two  spaces\n\tand lines ", "Größe, 麒麟, 🦊, \x00", ""):
        ids = tokenizer(text).input_ids
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("prompt", ["Once upon a time", "Once upon a time there was a little fox named"])
def test_greedy_story_keeps_its_characters_and_ends(loaded: tuple[Any, Any], prompt: str) -> None:
    model, tokenizer = loaded
    tokens = model.generate(**tokenizer(prompt, return_tensors="pt"), do_sample=False, max_length=CONTEXT)[0].tolist()
    assert tokens[-1] == tokenizer.eos_token_id
    story = tokenizer.decode(tokens, skip_special_tokens=True)
    hero = re.search(r"(?:named|called|name was) ([A-Z][a-z]+)", story)
    assert hero is not None, story
    names = Counter(word for word in re.findall(r"\b[A-Z][a-z]+\b", story) if word in {*BOYS, *GIRLS})
    assert names[hero[1]] >= 3, story
    assert 1 <= len(names) <= 2, story  # nobody comes from nowhere


def test_perplexity_on_unseen_stories_is_far_below_a_unigram_model(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded

    def tokens_of(part: str) -> tuple[list[str], list[int]]:
        texts = stories_of((DATA / "text" / f"{part}.txt").read_text(encoding="utf-8"))
        return texts, [token for text in texts for token in (*tokenizer(text).input_ids[1:], tokenizer.eos_token_id)]

    _, known = tokens_of("calibration")
    texts, unseen = tokens_of("evaluation")
    counts = Counter(known)
    total = len(known) + len(tokenizer)  # add-one smoothing
    unigram = math.exp(-sum(math.log((counts[token] + 1) / total) for token in unseen) / len(unseen))
    assert 1.5 < perplexity(model, tokenizer, texts) < unigram / 8


@pytest.mark.parametrize("family", EMBEDDED)
@pytest.mark.usefixtures("one_thread")
def test_training_twice_gives_the_same_bytes(family: str, tmp_path: Path) -> None:
    first, second = (train(family, tmp_path / run, steps=3, seed=5) for run in ("first", "second"))
    for name in sorted(FILES):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    other = train(family, tmp_path / "other", steps=3, seed=6)
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
