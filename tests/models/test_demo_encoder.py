"""The embedded encoder: it loads cleanly, knows its stories, can be trained again to the byte, and knows them as spikes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kirin_lava.tasks.embed import embed
from kirin_lava.tasks.verify import verify
from tests.exports import export

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from story_plots import PLOTS  # noqa: E402
from train_demo_encoder import FOLDER, LABELS, known, sentences, train  # noqa: E402

DATA = ROOT / "kirin_lava" / "models" / "data" / FOLDER
FILES = {"README.md", "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"}
UNSEEN = 1001  # a seed that no telling was trained with


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Training sets process-wide switches; put them back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def test_folder_is_complete_and_small() -> None:
    assert {path.name for path in DATA.iterdir()} == FILES
    assert sum(path.stat().st_size for path in DATA.iterdir()) <= 1_500_000
    config = json.loads((DATA / "config.json").read_text())
    assert config["dtype"] == "float16" and config["architectures"] == ["BertForSequenceClassification"]
    assert len(LABELS) == len(PLOTS) == len(set(LABELS))


def test_it_knows_most_unseen_sentences() -> None:
    model, info = AutoModelForSequenceClassification.from_pretrained(DATA, dtype=torch.float32, output_loading_info=True)
    assert not any(info.values()), info
    assert known(model.eval(), AutoTokenizer.from_pretrained(DATA), 300, UNSEEN) > 0.8


@pytest.mark.usefixtures("one_thread")
def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (train(tmp_path / run, steps=2, seed=5) for run in ("first", "second"))
    for name in sorted(FILES):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    other = train(tmp_path / "other", steps=2, seed=6)
    assert (first / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoder") / "out"
    export("demo-bert", out, "kirin-w8a5-12", num_samples=24, seq_len=48, verify_with="none")
    return out


def test_as_spikes_it_gives_the_answers_of_the_original(bundle: Path) -> None:
    texts, stories = zip(*islice(sentences(UNSEEN), 100), strict=True)
    found = embed(bundle, list(texts))
    right = sum(label == LABELS[story] for label, story in zip(found.labels, stories, strict=True))
    tokenizer = AutoTokenizer.from_pretrained(DATA)
    model = AutoModelForSequenceClassification.from_pretrained(DATA, dtype=torch.float32).eval()
    same = 0
    with torch.no_grad():
        for text, label in zip(texts, found.labels, strict=True):
            same += LABELS[int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())] == label
    assert same >= 95 and right > 75


@pytest.mark.lava
def test_lava_computes_the_same(bundle: Path) -> None:
    found = verify(bundle, level="model", tokens=5, timeout=300)
    assert found.mismatches == 0 and found.compared == 2 * len(LABELS)
