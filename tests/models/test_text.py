"""Text files and their rows of tokens, with the texts and tokenizers that people really have."""

from __future__ import annotations

import hashlib
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerBase

from kirin_lava.base.errors import UsageError
from kirin_lava.models.checkpoint import EMBEDDED_MODELS
from kirin_lava.models.passages import fingerprints, passages
from kirin_lava.models.text import (
    CALIBRATION_TEXT,
    EVALUATION_TEXT,
    all_passages,
    documents,
    protocol,
    read_text,
    sample_rows,
    text_rows,
    token_rows,
    windows,
)
from tests.hf_models import save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """Bytes as tokens, with BOS."""
    folder = tmp_path_factory.mktemp("bytes")
    save_tokenizer(folder)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return loaded


@pytest.fixture(scope="module")
def no_bos(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """The same without BOS, as Qwen has it."""
    folder = tmp_path_factory.mktemp("bytes")
    save_tokenizer(folder, bos=False)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return loaded


@pytest.fixture(scope="module")
def adds_bos(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """One that puts BOS in front by itself, as Llama has it."""
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(EMBEDDED_MODELS["demo"])
    return loaded


def separated(*parts: str) -> str:
    return "\n<|endoftext|>\n".join(parts)


def spelled(tokenizer: PreTrainedTokenizerBase, rows: list[torch.Tensor]) -> list[str]:
    return [str(tokenizer.decode(row)) for row in rows]


def test_rows_begin_with_bos_and_a_document(tokenizer: PreTrainedTokenizerBase) -> None:
    text = separated("alpha beta gamma", "delta", "epsilon zeta eta", "theta iota kappa lambda")
    rows = spelled(tokenizer, token_rows(tokenizer, text, 12))
    assert rows == ["<s>alpha beta ", "<s>delta<s>epsil"[: len("<s>delta<s>epsil")], "<s>theta iota "]


def test_rows_without_bos(no_bos: PreTrainedTokenizerBase) -> None:
    assert no_bos.bos_token_id is None
    rows = token_rows(no_bos, separated("alpha beta", "gamma delta", "eps"), 6)
    assert spelled(no_bos, rows) == ["alpha ", "gamma "]
    assert all(row.dtype == torch.int64 and len(row) == 6 for row in rows)


def test_a_text_shorter_than_a_row(tokenizer: PreTrainedTokenizerBase, no_bos: PreTrainedTokenizerBase) -> None:
    assert spelled(tokenizer, token_rows(tokenizer, separated("ab", "c"), 256)) == ["<s>ab<s>c"]
    assert spelled(tokenizer, token_rows(tokenizer, "ab\n\nc", 256)) == ["ab\n\nc"]
    assert spelled(tokenizer, token_rows(tokenizer, separated("a", ""), 256)) == ["<s>a"]
    with pytest.raises(UsageError, match="no two tokens: give a longer text"):
        token_rows(no_bos, "a", 256)


@pytest.mark.parametrize("text", ["", "\n\n \n", "<|endoftext|>\n<|endoftext|>"])
def test_no_text(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert documents(text) == []
    with pytest.raises(UsageError, match="no two tokens"):
        token_rows(tokenizer, text, 16)


@pytest.mark.parametrize("text", ["", "a", "<|endoftext|>\n"])
def test_empty_windows(no_bos: PreTrainedTokenizerBase, text: str) -> None:
    with pytest.raises(UsageError, match="no two tokens"):
        windows(no_bos, text, 16, 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: give a text"),
        (b" \n\t\r\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        ("Füße".encode("latin-1"), "cannot be read as UTF-8"),
        ("Once upon a time".encode("utf-16"), "cannot be read as UTF-8"),
        (bytes(range(256)), "cannot be read as UTF-8"),
    ],
)
def test_files_without_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"odd\.txt .*{message}"):
        read_text(path)


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no.txt"):
        with pytest.raises(UsageError, match=str(path)):
            read_text(path)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_endings_and_byte_order_marks_change_nothing(tmp_path: Path, ending: str, mark: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes((mark + "one\ntwo\n\nthree\n<|endoftext|> \t\nfour\n".replace("\n", ending)).encode())
    assert documents(read_text(path)) == ["one\ntwo\n\nthree", "four"]


def test_a_text_without_separator_lines_is_one_document() -> None:
    for text in (
        "Once upon a time, A.\n\nMore of A.\n\nOne day, B.\n\n\nMore of B.\n\nEnd of B.",
        "In GPT-2 the token <|endoftext|> ends a document.",
    ):
        assert documents(text) == [text]
    assert documents("a\n\nb\n<|endoftext|>\n\nc<|endoftext|>\nd <|endoftext|> d") == ["a\n\nb", "c", "d <|endoftext|> d"]


def test_a_stream_is_cut_into_windows_as_the_tokenizer_writes_it(
    tokenizer: PreTrainedTokenizerBase, adds_bos: PreTrainedTokenizerBase
) -> None:
    """What perplexity on WikiText-2 is measured on: one call of the tokenizer, no BOS inside, what is left over unused."""
    text = "  = A title = \n\n alpha beta gamma\n\n\n delta epsilon"
    for one in (tokenizer, adds_bos):
        ids = one(text).input_ids
        for length in (2, 7, len(ids) - 1, len(ids), 100):
            wanted = [ids[i : i + length] for i in range(0, len(ids), length)]
            wanted = [row for row in wanted if len(row) == length] or wanted
            assert [row.tolist() for row in token_rows(one, text, length)] == wanted
    assert [row.tolist().count(adds_bos.bos_token_id) for row in token_rows(adds_bos, text, 7)][:2] == [1, 0]


def test_the_protocol_says_how_a_text_was_read(
    tokenizer: PreTrainedTokenizerBase, no_bos: PreTrainedTokenizerBase, adds_bos: PreTrainedTokenizerBase
) -> None:
    stream, apart = "a\n\nb", separated("a", "b", "caf\ufffd")
    assert protocol(adds_bos, stream, 8) == "one stream, windows of 8 tokens, no overlap, its start alone has BOS"
    for one in (tokenizer, no_bos):
        assert protocol(one, stream, 8, 4) == "one stream, windows of 8 tokens, stride 4, without BOS"
    begun = "rows of 8 tokens, each begins with a document, broken documents left out: 1"
    assert protocol(tokenizer, apart, 8) == begun
    assert protocol(no_bos, separated("a", "b"), 8, 4) == "documents as one stream, windows of 8 tokens, stride 4"
    assert protocol(tokenizer, separated("a", "b"), 8, 4).startswith("documents as one stream, behind BOS, windows of 8")


def test_documents_with_broken_characters_are_dropped() -> None:
    broken = [
        "caf\ufffd",
        "donâ€™t",
        "café".encode().decode("latin-1"),
        "Füße".encode().decode("cp1252"),
        "5 £".encode().decode("cp1252"),
    ]
    whole = ["café", "Füße", "NÃO FALAR", "IRMÃ.", "Âge d'or", "don’t", "日本語", "🙂"]
    assert documents(separated(*broken, *whole)) == whole


def test_all_documents_broken(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UsageError, match="broken by a wrong decoding"):
        token_rows(tokenizer, separated("caf\ufffd", "th\ufffd"), 16)


def test_a_stream_keeps_a_few_broken_characters_and_many_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "\n\n".join(["plain"] * 18 + ["caf\ufffd"] * 2)
    assert spelled(tokenizer, token_rows(tokenizer, text, len(text) + 2 * 2)) == [text]
    for read in (lambda: token_rows(tokenizer, text + "\n\nth\ufffd", 16), lambda: windows(tokenizer, "th\ufffd", 16, 4)):
        with pytest.raises(UsageError, match=r"(3 of the 21|1 of the 1) paragraphs .* broken by a wrong decoding \('(caf|th)"):
            read()


def test_a_huge_paragraph_is_read_only_as_far_as_a_row_goes(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "word " * 2_000_000 + "\n<|endoftext|>\n"
    seen: list[int] = []

    def counting(part: str, **options: bool) -> object:
        seen.append(len(part))
        return tokenizer(part, **options)

    counting.bos_token_id = tokenizer.bos_token_id  # type: ignore[attr-defined]
    rows = token_rows(counting, text, 64)
    assert spelled(tokenizer, rows) == ["<s>" + text[:63]]
    assert sum(seen) < 10_000


def test_a_huge_paragraph_of_few_tokens_is_read_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    """Where a part of it gives too few tokens, all of it is read."""
    text = "ab" * 1000 + "\n<|endoftext|>\n"

    def coarse(part: str, **_: bool) -> object:
        return type("Encoded", (), {"input_ids": [7] * (len(part) // 500)})

    coarse.bos_token_id = None  # type: ignore[attr-defined]
    assert [len(row) for row in token_rows(coarse, text, 4)] == [4]


def test_windows_cover_every_token(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("abcdefghijklmnopqrstuvwxyz").input_ids
    for length, stride in ((8, 8), (8, 3), (8, 1), (26, 26), (100, 50)):
        found = windows(tokenizer, "abcdefghijklmnopqrstuvwxyz", length, stride)
        covered = {int(i) for window in found for i in window}
        assert covered == set(ids) and all(1 < len(w) <= length for w in found)
    for stride in (0, -1, 9):
        with pytest.raises(UsageError, match=f"stride of {stride} .* 1 to 8"):
            windows(tokenizer, "abcdefghijklmnopqrstuvwxyz", 8, stride)


def test_windows_over_documents_hold_no_separator(tokenizer: PreTrainedTokenizerBase) -> None:
    assert spelled(tokenizer, windows(tokenizer, separated("abc", "de", "caf\ufffd"), 5, 2)) == ["<s>abc<s>", "bc<s>de"]


def test_sample_rows_are_drawn_by_the_seed_in_the_order_of_the_text() -> None:
    rows = [torch.tensor([i, i]) for i in range(50)]
    drawn = [int(row[0]) for row in sample_rows(rows, 10, 3)]
    assert drawn == sorted(set(drawn)) and len(drawn) == 10
    assert drawn == [int(row[0]) for row in sample_rows(rows, 10, 3)]
    assert drawn != [int(row[0]) for row in sample_rows(rows, 10, 4)]
    assert sample_rows(rows, 50, 0) is rows


def test_the_texts_that_come_along_share_no_passage() -> None:
    calibration, evaluation = (read_text(path) for path in (CALIBRATION_TEXT, EVALUATION_TEXT))
    for text in (calibration, evaluation):
        assert len(documents(text)) > 10 and len(fingerprints(all_passages(text))) == len(all_passages(text)) > 10
    assert not set(fingerprints(all_passages(calibration))) & set(fingerprints(all_passages(evaluation)))


@pytest.mark.parametrize("model", [name for name in EMBEDDED_MODELS if name != "demo-bert"])  # an encoder has no stream
def test_the_rows_of_the_texts_that_come_along(model: str) -> None:
    """What every number of the embedded models rests on: another row is another ratio."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODELS[model])
    digests = []
    for path, count in ((CALIBRATION_TEXT, 48), (EVALUATION_TEXT, 37)):
        rows = token_rows(tokenizer, read_text(path), 256)
        assert len(rows) == count and all(len(row) == 256 and row[0] == tokenizer.bos_token_id for row in rows)
        digests.append(hashlib.sha256(torch.stack(rows).numpy().tobytes()).hexdigest()[:16])
    assert digests == ["4ab24138efa5ba8a", "be151b7e87b83b17"]


LONG = [
    f"Paragraph {i} is long enough to be told from every other one that somebody could have written about {i}."
    for i in range(6)
]


def test_rows_say_which_passages_they_hold(tokenizer: PreTrainedTokenizerBase) -> None:
    a, b, c, d, *_ = LONG
    found = text_rows(tokenizer, separated(a, b, f"{c}\n\n{d}", "short"), 150)
    assert [held for _, held in found] == [[a, b], [c, d]]  # the rest fills no row
    assert [held for _, held in text_rows(tokenizer, separated(f"{a}\n\n{b}", c), 50)] == [[a, b], [c]]
    stream = "\n\n".join(LONG)
    rows = text_rows(tokenizer, stream, len(a) + 10)
    assert [held for _, held in rows] == [LONG[:2], LONG[1:3], LONG[2:4], LONG[3:5], LONG[4:]]
    # a tokenizer in Python cannot say where its tokens stand
    assert [held for _, held in text_rows(_Letters(), stream, 400)] == [LONG]


class _Letters(PreTrainedTokenizer):
    """A tokenizer in Python: a token per letter."""

    vocab_size = 256

    def get_vocab(self) -> dict[str, int]:
        return {chr(i): i for i in range(256)}

    def _tokenize(self, text: str) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token)


def test_passages_are_found_again_however_documents_are_separated() -> None:
    texts = [separated(*LONG), "\n\n".join(LONG), "\n".join(LONG), "\n \n".join(f"  {p.replace(' ', '  ')} \t" for p in LONG)]
    assert [all_passages(text) for text in texts] == [LONG] * 4
    wrapped = "\n\n".join(textwrap.fill(p, 40) for p in LONG)
    assert all_passages(wrapped) == LONG and passages("= Reception =\n\nThe end.\nOf it.") == []


def test_a_huge_line_has_passages_that_a_change_hardly_moves() -> None:
    words = [f"word{i * i}" for i in range(5000)]
    whole = passages(" ".join(words))
    changed = passages(" ".join([*words[:2000], "new", *words[2001:]]))
    assert 50 < len(whole) < 150 and len(set(whole) - set(changed)) <= 3
    assert " ".join(whole) == " ".join(words)
    assert len(passages("x" * 3_000_000)) == 1 == len(passages(" " * 3_000_000 + "\n" + "word " * 500_000))
