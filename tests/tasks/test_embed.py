"""Encoders from export to vectors: the same in any company, near to those of transformers, and nothing is generated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.base.readers import read_json
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.manifest import sealed
from kirin_lava.graph.block import CLASSES, STATES
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.models.calibration_text import draw_sample
from kirin_lava.models.sentences import lines, passage_rows, sentences, tokens_of
from kirin_lava.models.text import CALIBRATION_TEXT, read_text
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.embed import embed
from kirin_lava.tasks.quality.encoders import evaluate_encoder, nearness
from kirin_lava.tasks.vectors import batches, pooled
from kirin_lava.tasks.verify import verify
from tests.conftest import Cli
from tests.encoder_models import save_encoder, save_sentence_files
from tests.exports import export

SMALL: dict[str, Any] = {"num_samples": 6, "seq_len": 40, "verify_with": "none"}
TEXTS = ["A dog runs.", "The cat, it sleeps.", "Yes.", "A cow eats grass.", "No."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of a bare encoder, of one with classes and of one that fills gaps."""
    root = tmp_path_factory.mktemp("encoders")
    for kind, recipe in (("bert", "kirin-w8a5-12"), ("roberta-classes", "kirin-w4a4-8"), ("distilbert-lm", "fast")):
        save_encoder(root / kind, kind, **({"num_labels": 3} if "classes" in kind else {}))
        if kind == "bert":
            save_sentence_files(root / kind)
        export(str(root / kind), root / f"{kind}.out", recipe, **SMALL)
    return root


def test_vectors_are_near_those_of_transformers(folder: Path) -> None:
    """Mean over the tokens of each text, normalised, as sentence-transformers has it: of a padded batch with its mask."""
    found = embed(folder / "bert.out", TEXTS)
    tokenizer, network = load_tokenizer(folder / "bert"), AutoModel.from_pretrained(folder / "bert").eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    mask = batch.attention_mask.unsqueeze(-1)
    wanted = F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    cosines = (torch.from_numpy(found.vectors) * wanted).sum(-1)
    assert float(cosines.min()) > 0.995 and found.vectors.shape == (5, 32)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-6)
    assert found.tokens == int(batch.attention_mask.sum()) and found.cut == 0


@pytest.mark.parametrize("kind", ["bert", "roberta-classes", "distilbert-lm"])
def test_a_text_has_its_vector_in_any_company(folder: Path, kind: str) -> None:
    together = embed(folder / f"{kind}.out", TEXTS).vectors
    for i, text in enumerate(TEXTS):
        assert np.array_equal(embed(folder / f"{kind}.out", [text]).vectors[0], together[i])
    assert np.array_equal(embed(folder / f"{kind}.out", TEXTS[::-1]).vectors[::-1], together)


def test_classes_come_with_their_logits(folder: Path) -> None:
    found = embed(folder / "roberta-classes.out", TEXTS)
    model = Bundle(folder / "roberta-classes.out").model()
    assert model.facts["head"] == CLASSES and model.facts["outputs"] == 3
    assert found.vectors.shape == (5, 3)
    assert list(found.labels) == [model.facts["labels"][i] for i in found.vectors.argmax(1)]
    ids = torch.tensor([load_tokenizer(folder / "roberta-classes.out")(TEXTS[1]).input_ids])
    assert np.array_equal(Executor(model).forward(ids)[0, 0].numpy(), found.vectors[1])


def test_files_hold_what_was_computed(folder: Path, tmp_path: Path, cli: Cli) -> None:
    text = tmp_path / "texts.txt"
    text.write_text("\n".join([TEXTS[0], "", f"  {TEXTS[1]}", "<|endoftext|>"]))
    ran = cli("embed", folder / "bert.out", "--text", text, "-q", "--count")
    assert ran.code == 0 and "2 texts" in ran.err and "spikes a text" in ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["text"] for row in rows] == TEXTS[:2]
    for name in ("v.npy", "v.jsonl"):
        assert cli("embed", folder / "bert.out", "--text", text, "-q", "-o", tmp_path / name).code == 0
    array = np.load(tmp_path / "v.npy")
    assert array.dtype == np.float32 and np.array_equal(array, np.array([row["vector"] for row in rows], np.float32))
    assert (tmp_path / "v.jsonl").read_text() == ran.out
    ran = cli("embed", folder / "bert.out", "--text", text, "-o", tmp_path / "v.txt")
    assert ran.code == 2 and "neither .npy (NumPy) nor .jsonl" in ran.err


def test_what_only_decoders_do_names_what_encoders_do(folder: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("run", folder / "bert.out")
    assert ran.code == 2 and "is an encoder: it generates no text; `kirin-lava embed`" in ran.err
    ran = cli("eval", folder / "bert.out", "--text", CALIBRATION_TEXT, "--stride", "3")
    assert ran.code == 2 and "without --stride" in ran.err
    executor, cache = Executor(Bundle(folder / "bert.out").model()), Cache()
    executor.forward(torch.tensor([[2, 5, 3]]), cache)
    with pytest.raises(UsageError, match="an encoder takes a text at once"):
        executor.forward(torch.tensor([[2, 5, 3]]), cache)
    export("demo", tmp_path / "demo", "fast", num_samples=1, seq_len=8, verify_with="none", layers=(0, 0))
    with pytest.raises(UsageError, match=r"is a decoder|holds only"):
        embed(tmp_path / "demo", TEXTS)


def test_long_texts_are_cut_where_the_model_says(folder: Path, tmp_path: Path) -> None:
    model = save_encoder(tmp_path / "model", num_hidden_layers=1)
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    export(str(model), tmp_path / "out", "fast", **SMALL)
    assert Bundle(tmp_path / "out").manifest["facts"]["sentence_tokens"] == 12
    found = embed(tmp_path / "out", ["abcd efgh ijkl mnop", "abc"])
    assert (found.cut, found.tokens) == (1, 12 + 5)


def test_quality_is_told_by_cosines_and_neighbours(folder: Path, cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    words = "the quick brown fox jumps over a lazy dog and then some more of it".split()
    text.write_text(" ".join(" ".join(words[i:] + words[:i]).capitalize() + "." for i in range(12)))
    found = evaluate_encoder(folder / "bert.out", text, max_rows=8)
    assert found.sentences == 8 and 0.99 < found.cosine <= 1 and found.lowest_cosine <= found.cosine
    assert 0 <= found.same_neighbour <= 1 and found.agreement is None
    ran = cli("eval", folder / "bert.out", "--text", text, "--max-rows", "8", "--json", "-q")
    assert json.loads(ran.out)["cosine"] == found.cosine
    filled = evaluate_encoder(folder / "distilbert-lm.out", text, max_rows=4)
    assert filled.agreement is not None and 0.3 < filled.agreement <= 1


def test_recipes_side_by_side(folder: Path, cli: Cli) -> None:
    given = ("--num-samples", "4", "--seq-len", "24", "--max-rows", "6", "--json", "-q")
    ran = cli("compare", "-m", folder / "bert", "kirin-w4a4-8", "kirin-w8a5-12", *given)
    found = json.loads(ran.out)
    coarse, fine = found["rows"]
    assert ran.code == 0 and found["sentences"] == 6 and fine["name"] == "kirin-w8a5-12"
    assert coarse["cosine"] < fine["cosine"] <= 1 and coarse["spikes"] > 0
    ran = cli("compare", "-m", folder / "bert", "fast", "--rivals", *given)
    assert ran.code == 2 and "is an encoder, whose vectors are compared: leave out --rivals" in ran.err


def test_the_report_says_what_a_sentence_costs(folder: Path, cli: Cli, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = cli("report", folder / "roberta-classes.out", "--html", page, "--max-rows", "5", "-q", "--json")
    found, text = json.loads(ran.out), page.read_text()
    assert ran.code == 0 and found["evaluation"]["sentences"] == 5
    per_token = found["counts"]["total"]["spikes_per_token"]
    assert found["sentence"]["spikes"] == pytest.approx(per_token * found["sentence"]["tokens"])
    assert 'data-key="sentence.spikes"' in text and 'data-key="evaluation.cosine"' in text


def test_nearness_by_hand() -> None:
    theirs = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert nearness(theirs * 3, theirs).neighbours == 1 and nearness(theirs * 3, theirs).cosine == pytest.approx(1)
    ours = torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.0, 1.0]])
    found = nearness(ours, theirs)  # the second text is nearer to the third now
    assert found.neighbours == pytest.approx(2 / 3)
    assert found.lowest == pytest.approx(float(F.cosine_similarity(ours[1], theirs[1], dim=0)))
    with pytest.raises(UsageError, match="2 sentences have no choice of neighbours"):
        nearness(ours[:2], theirs[:2])


def test_pooling_by_hand() -> None:
    states = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    assert pooled(states, {"head": STATES, "pooling": "mean", "normalize": False}).tolist() == [[1.5, 2.0]]
    assert pooled(states, {"head": STATES}).tolist() == [pytest.approx([0.6, 0.8])]
    assert pooled(states, {"pooling": "first", "normalize": True}).tolist() == [[1.0, 0.0]]
    with pytest.raises(UsageError, match="pooling 'max' is neither mean nor first"):
        pooled(states, {"pooling": "max"})


def test_rows_of_one_length_are_run_together() -> None:
    rows = [torch.zeros(n) for n in (3, 5, 3, 700, 3, 700, 700, 700)]
    found = list(batches(rows))
    assert found == [[0, 2, 4], [1], [3, 5], [6, 7]]


def test_sentences_of_a_text() -> None:
    text = '= Head =\n\nOne two three four five. Six seven "eight nine ten." Too short. One two three four five.\nA b c d e f'
    assert sentences(text) == ["One two three four five.", 'Six seven "eight nine ten.', "A b c d e f"]
    assert lines("a\n\n b \n<|endoftext|>\nc") == ["a", "b", "c"]


def test_what_is_calibrated_on_are_passages_between_special_tokens(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "bert")
    text = read_text(CALIBRATION_TEXT)
    rows = passage_rows(tokenizer, text, 24)
    assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id and len(row) <= 24 for row, _ in rows)
    assert all(len(held) == 1 for _, held in rows)
    drawn = draw_sample(tokenizer, text, 24, 5, 0, encoder=True)
    assert len(drawn.rows) == 5 and not drawn.warnings and drawn.used()["tokens_per_row"] == 24
    assert torch.equal(tokens_of(tokenizer, ["ab"], 24)[0], torch.tensor([2, 5, 35, 3]))


def test_facts_of_a_file_are_checked(folder: Path, tmp_path: Path) -> None:
    manifest = read_json(folder / "bert.out" / "manifest.json")
    assert [block.get("causal", True) for block in manifest["blocks"]] == [False, False, True]
    assert not Bundle(folder / "bert.out").causal
    for key, value in (("head", "eyes"), ("outputs", 0), ("normalize", 3), ("sentence_tokens", -1)):
        changed = sealed({**manifest, "facts": {**manifest["facts"], key: value}})
        (tmp_path / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(UsageError, match=f"facts.{key} is"):
            Bundle(tmp_path)


@pytest.mark.parametrize("kind", ["bert", "roberta-classes", "distilbert-lm"])
def test_training_brings_an_encoder_nearer(folder: Path, tmp_path: Path, kind: str) -> None:
    recipe = load_recipe("kirin-w4a4-8").to_dict()
    for method in ("blocks", "distill"):
        changed = {**recipe, "recovery": {**recipe["recovery"], "method": method, "steps": 8}}
        export(
            str(folder / kind),
            tmp_path / method,
            type(load_recipe("fast")).from_dict(changed, "here"),
            num_samples=12,
            seq_len=24,
            verify_with="none",
        )
        assert Bundle(tmp_path / method).complete


def test_a_family_that_is_near_is_named() -> None:
    from kirin_lava.models import family_of

    with pytest.raises(UnsupportedError, match=r"'mpnet' is not supported .*the nearest that works is bert"):
        family_of({"model_type": "mpnet"})


@pytest.mark.lava
@pytest.mark.parametrize(("kind", "level"), [("bert", "block"), ("roberta-classes", "model"), ("distilbert-lm", "model")])
def test_lava_computes_the_same(folder: Path, kind: str, level: str) -> None:
    found = verify(folder / f"{kind}.out", level=level, tokens=6, timeout=300)
    assert found.mismatches == 0 and found.compared > 0 and not found.damaged


@pytest.mark.lava
def test_vectors_on_lava_are_the_same_bits(folder: Path) -> None:
    few = TEXTS[::2]
    assert np.array_equal(embed(folder / "bert.out", few, backend="lava").vectors, embed(folder / "bert.out", few).vectors)
