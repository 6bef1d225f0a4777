"""Text files and their rows of tokens, with the texts and tokenizers that people really have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kirin_lava.base.errors import UsageError
from kirin_lava.models.text import (
    CALIBRATION_TEXT,
    EVALUATION_TEXT,
    document_rows,
    documents,
    fingerprints,
    plain_windows,
    read_text,
    sample_rows,
    token_rows,
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


def spelled(tokenizer: PreTrainedTokenizerBase, rows: list[torch.Tensor]) -> list[str]:
    return [str(tokenizer.decode(row)) for row in rows]


def test_rows_begin_with_bos_and_a_document(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "alpha beta gamma\n\ndelta\n\nepsilon zeta eta\n\ntheta iota kappa lambda"
    rows = spelled(tokenizer, token_rows(tokenizer, text, 12))
    assert rows == ["<s>alpha beta ", "<s>delta<s>epsil"[: len("<s>delta<s>epsil")], "<s>theta iota "]


def test_rows_without_bos(no_bos: PreTrainedTokenizerBase) -> None:
    assert no_bos.bos_token_id is None
    rows = token_rows(no_bos, "alpha beta\n\ngamma delta\n\neps", 6)
    assert spelled(no_bos, rows) == ["alpha ", "gamma "]
    assert all(row.dtype == torch.int64 and len(row) == 6 for row in rows)


def test_a_text_shorter_than_a_row(tokenizer: PreTrainedTokenizerBase, no_bos: PreTrainedTokenizerBase) -> None:
    assert spelled(tokenizer, token_rows(tokenizer, "ab\n\nc", 256)) == ["<s>ab<s>c"]
    assert spelled(tokenizer, token_rows(tokenizer, "a", 256)) == ["<s>a"]
    with pytest.raises(UsageError, match="no two tokens: give a longer text"):
        token_rows(no_bos, "a", 256)


@pytest.mark.parametrize("text", ["", "\n\n \n", "<|endoftext|>\n<|endoftext|>"])
def test_no_text(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assert documents(text) == []
    with pytest.raises(UsageError, match="no two tokens"):
        token_rows(tokenizer, text, 16)


def test_empty_plain_windows(no_bos: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UsageError, match="no two tokens"):
        plain_windows(no_bos, "", 16, 8)


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
    path.write_bytes((mark + "one\ntwo\n\nthree\n \t\nfour\n".replace("\n", ending)).encode())
    assert documents(read_text(path)) == ["one\ntwo", "three", "four"]


def test_stories() -> None:
    text = "Once upon a time, A.\n\nMore of A.\n\nOne day, B.\n\n\nMore of B.\n\nEnd of B."
    assert documents(text) == ["Once upon a time, A.\n\nMore of A.", "One day, B.\n\nMore of B.\n\nEnd of B."]
    assert documents("a\n\nb\n<|endoftext|>\n\nc<|endoftext|>") == ["a\n\nb", "c"]


def test_documents_with_broken_characters_are_dropped() -> None:
    broken = [
        "caf\ufffd",
        "donâ€™t",
        "café".encode().decode("latin-1"),
        "Füße".encode().decode("cp1252"),
        "5 £".encode().decode("cp1252"),
    ]
    whole = ["café", "Füße", "NÃO FALAR", "IRMÃ.", "Âge d'or", "don’t", "日本語", "🙂"]
    assert documents("\n\n".join(broken + whole)) == whole


def test_all_documents_broken(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UsageError, match="broken by a wrong decoding"):
        token_rows(tokenizer, "caf\ufffd\n\nth\ufffd", 16)


def test_a_huge_paragraph_is_read_only_as_far_as_a_row_goes(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "word " * 2_000_000
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
    text = "ab" * 1000

    def coarse(part: str, **_: bool) -> object:
        return type("Encoded", (), {"input_ids": [7] * (len(part) // 500)})

    coarse.bos_token_id = None  # type: ignore[attr-defined]
    assert [len(row) for row in token_rows(coarse, text, 4)] == [4]


def test_plain_windows_cover_every_token(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("abcdefghijklmnopqrstuvwxyz").input_ids
    for length, stride in ((8, 8), (8, 3), (8, 1), (26, 26), (100, 50)):
        windows = plain_windows(tokenizer, "abcdefghijklmnopqrstuvwxyz", length, stride)
        covered = {int(i) for window in windows for i in window}
        assert covered == set(ids) and all(1 < len(w) <= length for w in windows)
    for stride in (0, -1, 9):
        with pytest.raises(UsageError, match=f"stride of {stride} .* 1 to 8"):
            plain_windows(tokenizer, "abcdefghijklmnopqrstuvwxyz", 8, stride)


def test_sample_rows_are_drawn_by_the_seed_in_the_order_of_the_text() -> None:
    rows = [torch.tensor([i, i]) for i in range(50)]
    drawn = [int(row[0]) for row in sample_rows(rows, 10, 3)]
    assert drawn == sorted(set(drawn)) and len(drawn) == 10
    assert drawn == [int(row[0]) for row in sample_rows(rows, 10, 3)]
    assert drawn != [int(row[0]) for row in sample_rows(rows, 10, 4)]
    assert sample_rows(rows, 50, 0) is rows


def test_the_texts_that_come_along_share_no_document() -> None:
    calibration, evaluation = (documents(read_text(path)) for path in (CALIBRATION_TEXT, EVALUATION_TEXT))
    assert len(calibration) > 10 and len(evaluation) > 10
    assert not set(calibration) & set(evaluation)
    assert not set(fingerprints(calibration)) & set(fingerprints(evaluation))
    assert len(fingerprints(calibration)) == len(calibration)


def test_rows_say_which_documents_they_hold(tokenizer: PreTrainedTokenizerBase) -> None:
    found = document_rows(tokenizer, "alpha beta gamma\n\ndelta\n\nepsilon zeta eta\n\ntheta", 12)
    assert [held for _, held in found] == [["alpha beta gamma"], ["delta", "epsilon zeta eta"]]  # the rest fills no row


def test_headings_have_no_fingerprint() -> None:
    long = "A story that is long enough to be told from every other story that somebody could have written."
    assert fingerprints(["= Reception =", long, long]) == fingerprints([long]) and len(fingerprints([long])) == 1
