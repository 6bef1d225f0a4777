"""Tokenizers of GGUF files: the tokens are those of the tokenizer that the file was made from, in the bundle's files too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, LlamaTokenizerFast

from kirin_lava.base.errors import KirinError, UnsupportedError, UsageError
from kirin_lava.export.manifest import SOURCE_FILES
from kirin_lava.models.sources.gguf_file import GgufFile
from kirin_lava.models.tokenizer import load_tokenizer
from tests.gguf_models import save_gguf

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["t h", "th e", "Ġ the", "2 0", "20 2", "202 4", "Ġ 2", "Ġ a", "Ġ Ġ", "! !", "Ċ Ċ", "e Ì", "eÌ ģ"]
TOKENS = ["<s>", "</s>", *LETTERS, *(merge.replace(" ", "") for merge in MERGES), "ring", "<turn>", "<more>"]
KINDS = [3, 3, *[1] * (len(TOKENS) - 4), 3, 4]
TEXTS = [
    "the other day in 2024, 20241 of them",
    "ring the ring",  # a token that no merge makes
    "  two  blanks\n\n\tand\r\n a line's end!!  ",
    "<s>the<turn> the<more>the</s>",
    "naïve café e\u0301 ١٢٣ 中文 🙂 a²",
    "",
]
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


def write(file: Path, cut: str = "gpt-2", **entries: Any) -> GgufFile:
    found = {"pre": cut, "tokens": TOKENS, "token_type": KINDS, "merges": MERGES, **entries}
    save_gguf(file, vocab_size=len(found["tokens"]), entries={f"tokenizer.ggml.{key}": value for key, value in found.items()})
    return GgufFile(file)


def original(cut: str) -> Tokenizer:
    """As tokenizer.json of GPT-2, SmolLM, Llama 3 and Qwen2 state it."""
    from tokenizers import Regex

    merges = [tuple(merge.split()) for merge in MERGES]
    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=cut == "llama-bpe"))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut in ("gpt-2", "smollm"))
    before = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "llama-bpe": [pre_tokenizers.Split(Regex(LLAMA3), "isolated")],
        "qwen2": [pre_tokenizers.Split(Regex(QWEN), "isolated")],
    }
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before.get(cut, []), plain])
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ("<s>", "</s>", "<turn>")])
    tokenizer.add_tokens([AddedToken("<more>", normalized=False)])
    return tokenizer


@pytest.mark.parametrize("cut", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_byte_pairs(file: Path, tmp_path: Path, cut: str) -> None:
    source, wanted = write(file, cut), original(cut)
    made = source.tokenizer()
    first = [0] if cut == "llama-bpe" else []  # where the file does not say
    folder = tmp_path / "saved"
    folder.mkdir()
    names = source.save(folder, SOURCE_FILES)
    again = load_tokenizer(folder)
    for text in TEXTS:
        ids = wanted.encode(text, add_special_tokens=False).ids
        assert made(text).input_ids == again(text).input_ids == [*first, *ids], text
        assert made.decode(ids) == again.decode(ids) == wanted.decode(ids, skip_special_tokens=False)
        assert made.decode(ids, skip_special_tokens=True) == wanted.decode(ids)
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert "tokenizer.model" not in names and {"tokenizer.json", "config.json", "generation_config.json"} <= set(names)


def test_ways_to_cut_differ(file: Path) -> None:
    """A text of digits and an accent tells all four apart."""
    found = {
        cut: tuple(write(file, cut).tokenizer().tokenize("2024 e\u0301!\n\n"))
        for cut in ("gpt-2", "smollm", "llama-bpe", "qwen2")
    }
    assert len(set(found.values())) == 4, found


def test_it_is_that_of_transformers(file: Path) -> None:
    """What transformers makes of the same file, where that follows it: tokens of the user and the way to cut are left out."""
    made = write(file, add_bos_token=True).tokenizer()
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in [text.replace("<more>", "") for text in TEXTS]:
        assert made(text).input_ids == theirs(text).input_ids, text


def test_special_tokens_template_and_ends(file: Path, tmp_path: Path) -> None:
    template = "{% for message in messages %}<turn>{{ message['content'] }}</s>{% endfor %}"
    extra = {"tokenizer.chat_template": template}
    entries = {"tokens": TOKENS, "token_type": KINDS, "merges": MERGES, "eot_token_id": len(TOKENS) - 2, "padding_token_id": 1}
    save_gguf(file, vocab_size=len(TOKENS), entries={f"tokenizer.ggml.{key}": value for key, value in entries.items()} | extra)
    source = GgufFile(file)
    source.save(tmp_path, SOURCE_FILES)
    for made in (source.tokenizer(), load_tokenizer(tmp_path)):
        assert (made.bos_token, made.eos_token, made.pad_token, made.unk_token) == ("<s>", "</s>", "</s>", None)
        assert made.apply_chat_template([{"role": "user", "content": "the"}], tokenize=False) == "<turn>the</s>"
        assert set(made("the")) == {"input_ids", "attention_mask"}
    assert template == json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 0, "eos_token_id": [1, len(TOKENS) - 2], "pad_token_id": 1}


def test_begin_and_end(file: Path) -> None:
    made = write(file, add_bos_token=True, add_eos_token=True).tokenizer()
    inner = made("the", add_special_tokens=False).input_ids
    assert made("the").input_ids == [0, *inner, 1]
    assert made("the", "the").input_ids == [0, *inner, 1, 0, *inner, 1]
    assert write(file, "llama-bpe", add_bos_token=False).tokenizer()("the").input_ids == inner


# ---- sentencepiece ----------------------------------------------------------------------------------------------------

PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁",
    "t",
    "h",
    "e",
    "a",
    "▁t",
    "he",
    "▁the",
    "th",
    "  ",
]
PIECE_KINDS = [2, 3, 3, *[6] * 256, *[1] * 9, 4]
SCORES = [0.0] * 259 + [-9.0, -10.0, -11.0, -12.0, -13.0, -1.0, -0.5, -2.0, -3.0, 0.0]


def sentencepiece(file: Path, **entries: Any) -> GgufFile:
    found = {
        "model": "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "merges": ...,
        "pre": ...,
        **entries,
    }
    return write(file, **{"cut": ..., "tokens": PIECES, "token_type": PIECE_KINDS, "scores": SCORES, **found})


def test_sentencepiece(file: Path, tmp_path: Path) -> None:
    """Against what transformers makes of the same pieces; what has no piece is spelt in bytes."""
    source = sentencepiece(file)
    source.save(tmp_path, SOURCE_FILES)
    theirs = LlamaTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
    for made in (source.tokenizer(), load_tokenizer(tmp_path)):
        for text in ["the heat", "then\n中 the", " the ", "tea<s>the</s>", ""]:
            assert made(text).input_ids == theirs(text).input_ids, text
            assert made.decode(made(text).input_ids) == theirs.decode(theirs(text).input_ids), text
        assert made.tokenize("the  the") == ["▁the", "  ", "▁the"]
    assert (made.bos_token, made.eos_token, made.unk_token) == ("<s>", "</s>", "<unk>")


def test_sentencepiece_without_a_blank_in_front(file: Path) -> None:
    made = sentencepiece(file, add_space_prefix=False, add_bos_token=False).tokenizer()
    assert made.tokenize("the the") == ["t", "he", "▁the"]
    assert made.decode(made("the the").input_ids) == "the the"


# ---- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "kind", "message"),
    [
        (
            {"pre": "tekken"},
            UnsupportedError,
            "cuts text in a way named 'tekken' .tokenizer.ggml.pre.; supported are: gpt-2, smollm",
        ),
        ({"pre": ...}, UnsupportedError, "cuts text in a way named ''"),
        ({"model": "bert"}, UnsupportedError, "has a tokenizer of the kind 'bert'; supported are: gpt2"),
        ({"model": ...}, UnsupportedError, "holds no tokenizer"),
        ({"tokens": ...}, UsageError, "tokenizer.ggml.tokens: it is missing or empty"),
        ({"tokens": [*TOKENS[:-1], "a"]}, UsageError, "tokenizer.ggml.tokens: 'a' is there twice"),
        ({"tokens": list(range(300))}, UsageError, "tokenizer.ggml.tokens is no array of str"),
        ({"tokens": "abc"}, UsageError, "tokenizer.ggml.tokens is 'abc', not an array"),
        ({"tokens": TOKENS[:-1]}, UsageError, "tokenizer.ggml.token_type has 274 items, there are 273 tokens"),
        ({"merges": ...}, UsageError, "tokenizer.ggml.merges: it is missing or empty"),
        ({"merges": ["th e", "t"]}, UsageError, "tokenizer.ggml.merges: an item is no pair"),
        ({"merges": ["zz z"]}, UsageError, "the tokenizer cannot be made"),
        ({"bos_token_id": 999}, UsageError, "tokenizer.ggml.bos_token_id is 999, there are 274 tokens"),
        ({"model": "llama"}, UsageError, "tokenizer.ggml.scores has 0 items, there are 274 tokens"),
    ],
)
def test_refused(file: Path, entries: dict[str, Any], kind: type[KirinError], message: str) -> None:
    found = {"pre": "gpt-2", "tokens": TOKENS, "token_type": KINDS, "merges": MERGES, **entries}
    save_gguf(file, vocab_size=len(TOKENS), entries={f"tokenizer.ggml.{key}": value for key, value in found.items()})
    with pytest.raises(kind, match=message) as caught:
        GgufFile(file).tokenizer()
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
