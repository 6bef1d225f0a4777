"""Generation: where it stops, and how far it may go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import read_json
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph import executor
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.generate import generate
from kirin_lava.tasks.prompt import stop_ids
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


@pytest.mark.parametrize("threads", [2, 3])
def test_tokens_are_those_of_one_thread(bundle: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt is divided over the threads, and a token is not."""
    monkeypatch.setattr(executor, "_FEW_TOKENS", 4)
    monkeypatch.setattr(executor, "_PIECE", 8)
    one = generate(bundle, "Once upon a time there was", 20, 0.8)
    torch.set_num_threads(threads)
    try:
        assert generate(bundle, "Once upon a time there was", 20, 0.8).tokens == one.tokens
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)


def test_counts_are_made_where_they_are_asked_for_and_change_nothing(bundle: Path, tmp_path: Path) -> None:
    plain, counted = generate(bundle, "Once", 6), generate(bundle, "Once", 6, count=True)
    filed = generate(bundle, "Once", 6, stats=tmp_path / "stats.json")
    assert plain.tokens == counted.tokens == filed.tokens
    assert plain.counts is None and counted.counts == filed.counts
    assert json.loads(json.dumps(filed.counts)) == read_json(tmp_path / "stats.json")
    assert "spikes" not in plain.summary() and " spikes, " in counted.summary() and "tokens/s after" in plain.summary()

    counter = Counter()  # the same run, by hand
    ids, cache, runner = load_tokenizer(bundle)("Once").input_ids, Cache(), Executor(Bundle(bundle).model(), observer=counter)
    for piece in (ids, *([token] for token in plain.tokens[:-1])):
        runner.forward(torch.tensor([piece]), cache, last_only=True)
    assert counted.counts == counter.to_dict()


def test_a_prompt_and_messages_exclude_each_other(bundle: Path) -> None:
    with pytest.raises(UsageError, match="a prompt and messages: give one of them"):
        generate(bundle, "Once", messages=[{"role": "user", "content": "Hi"}])


def test_a_model_without_a_template_takes_no_messages(bundle: Path) -> None:
    with pytest.raises(UsageError, match="has no chat template, so the model was not trained on messages"):
        generate(bundle, "Once", chat=True)


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def talking(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights with a chat template, in the file where transformers keeps it."""
    source = tmp_path_factory.mktemp("talking") / "model"
    shutil.copytree(model, source)
    (source / "chat_template.jinja").write_text(TEMPLATE)
    export(str(source), source.with_name("bundle"), **SMALL)  # type: ignore[arg-type]
    return source.with_name("bundle")


def test_a_chat_goes_on_from_what_the_template_makes(talking: Path, bundle: Path, tmp_path: Path) -> None:
    """<s> is 0 and </s> is 1; the template's end of an answer stops it."""
    assert (talking / "chat_template.jinja").read_text() == TEMPLATE
    tokenizer = load_tokenizer(talking)
    said = [{"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(said, add_generation_prompt=True)
    result = generate(talking, "Hi", 6, chat=True)
    assert result.prompt_tokens == len(ids)
    runner, expected = Executor(Bundle(talking).model()), list(ids)
    for _ in range(6):
        token = int(runner.forward(torch.tensor([expected]))[0, -1].argmax())
        if token == 1:
            break
        expected.append(token)
    assert result.tokens == expected[len(ids) :]
    file = tmp_path / "said.json"
    file.write_text(json.dumps(said))
    assert generate(talking, None, 6, messages=said).tokens == result.tokens
    assert generate(talking, None, 6, messages=file).tokens == result.tokens
    assert generate(talking, "Hi", 6).tokens == generate(bundle, "Hi", 6).tokens, "plain text is no message"


def test_people_see_the_answer_or_everything(talking: Path) -> None:
    pieces: dict[bool, list[str]] = {True: [], False: []}
    results = {
        special: generate(talking, "Hi", 6, 1.0, chat=True, show_special=special, on_text=shown.append)
        for special, shown in pieces.items()
    }
    assert results[True].tokens == results[False].tokens
    assert "".join(pieces[True]).startswith("<s>user:Hi</s><s>assistant:")
    assert "assistant" not in "".join(pieces[False])
    for special, expected in ((False, "Once"), (True, "<s>Once")):
        plain: list[str] = []
        generate(talking, "<s>Once", 1, show_special=special, on_text=plain.append)
        assert plain[0] == expected


def test_what_a_template_does_not_take_is_one_line(talking: Path) -> None:
    with pytest.raises(UsageError, match="the chat template does not take these messages: no tools here"):
        generate(talking, messages=[{"role": "tool", "content": "x"}])
