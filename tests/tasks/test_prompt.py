"""Messages from files, ends of answers, and text that comes in pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from kirin_lava.base.errors import UsageError
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.prompt import Writer, chat_prompt, read_messages, text_prompt
from tests.hf_models import save_tokenizer


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("bytes")
    save_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def demo_tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(open_checkpoint("demo").path)


class Counting:
    """A tokenizer that knows how much it was asked."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer, self.most, self.all = tokenizer, 0, 0

    def decode(self, tokens: list[int], **options: Any) -> str:
        self.most, self.all = max(self.most, len(tokens)), self.all + len(tokens)
        text: str = self._tokenizer.decode(tokens, **options)
        return text


@settings(max_examples=40)
@given(text=st.text(max_size=60), cut=st.integers(0, 20), demo=st.booleans())
def test_pieces_of_a_text_are_the_text(
    text: str, cut: int, demo: bool, byte_tokenizer: PreTrainedTokenizerBase, demo_tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer = demo_tokenizer if demo else byte_tokenizer
    ids = tokenizer("begin " + text).input_ids
    cut = min(cut + 1, len(ids))
    writer = Writer(tokenizer, ids[:cut], hide_special=True)
    pieces = [writer.write(token) for token in ids[cut:]]
    whole, before = (tokenizer.decode(some, skip_special_tokens=True) for some in (ids, ids[:cut]))
    if not before.endswith("\ufffd"):
        assert before + "".join(pieces) == whole


def test_characters_come_whole(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    ids = byte_tokenizer("a\u20acb").input_ids
    writer = Writer(byte_tokenizer, ids[:1], hide_special=True)
    assert [writer.write(token) for token in ids[1:]] == ["", "", "\u20ac", "b"]


def test_a_long_text_is_not_decoded_again_and_again(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    counting = Counting(byte_tokenizer)
    ids = byte_tokenizer("word " * 400).input_ids
    writer = Writer(counting, ids[:1000], hide_special=True)
    assert "".join(writer.write(token) for token in ids[1000:]) == byte_tokenizer.decode(ids[1000:])
    assert counting.most < 20 and counting.all < 20 * 2 * len(ids)


def test_bytes_that_are_no_character_do_not_pile_up(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    counting = Counting(byte_tokenizer)
    half = byte_tokenizer("\u20ac").input_ids[1]
    writer = Writer(counting, [half], hide_special=True)
    assert "".join(writer.write(half) for _ in range(500)).count("\ufffd") > 400
    assert counting.most < 100


def test_special_tokens_are_hidden_or_shown(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    ids = byte_tokenizer("ab").input_ids
    for hide, expected in ((True, "ab"), (False, "</s>ab")):
        writer = Writer(byte_tokenizer, ids, hide)
        assert "".join(writer.write(token) for token in (1, *ids)) == expected


def test_an_empty_prompt_begins_with_the_token_that_begins_texts(byte_tokenizer: PreTrainedTokenizerBase) -> None:
    assert text_prompt(byte_tokenizer, "").ids == [byte_tokenizer.bos_token_id]


@pytest.mark.parametrize(
    ("template", "stops"),
    [
        ("{% for m in messages %}{{ m.content }}</s>{% endfor %}", {1}),
        ("{% for m in messages %}{{ m.content }}\n<s>{% endfor %}", {0, 1}),  # beside the token that ends texts
        ("{% for m in messages %}{{ m.content }}.{% endfor %}", {1}),  # a full stop is no token of its own
        ("{% for m in messages %}{{ m.content }}{% endfor %}", {1}),
        ("{% if messages[-1].role != 'user' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}", {1}),
    ],
)
def test_an_answer_ends_where_the_template_ends_it(tmp_path: Path, template: str, stops: set[int]) -> None:
    save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.chat_template = template
    prompt = chat_prompt(tokenizer, [{"role": "user", "content": "Hi"}], tmp_path)
    assert prompt.stops == stops and not prompt.shown and prompt.ids


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "holds no JSON array"),
        ("[", "cannot be read as JSON"),
        ("[]", "there is no message"),
        ('["Hi"]', "message 1 is no object"),
        ('[{"role": "user", "content": "a"}, {"role": "user"}]', 'message 2: "content" is missing'),
        ('[{"role": 7, "content": "a"}]', '"role" is no text'),
        ('[{"role": "user", "content": ["a"]}]', '"content" is no text'),
        ('[{"role": "user", "content": "\\ud800"}]', "half a character"),
        ("[" * 5000, "nested too deep"),
    ],
)
def test_files_without_messages_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "said.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        read_messages(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_messages_come_from_a_file(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "\u20ac?"}]
    file = tmp_path / "said.json"
    file.write_text(json.dumps(said))
    assert read_messages(file) == said
