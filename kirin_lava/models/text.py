"""Text in, rows of tokens out: the one protocol by which calibration and evaluation read a text file.

Documents are separated by lines `<|endoftext|>` (the mark may also end a document's last line). A row begins with BOS and a
document, goes on with the next documents (each behind a BOS) and is cut at its length; the next row begins with the next
document that is unused. Documents with characters that a wrong decoding left behind are dropped.

A text without such a line is one stream: it is tokenised once, as the tokenizer does it by itself, and cut into windows that
do not overlap; what is left over at the end fills no window. That is how perplexity is commonly defined on WikiText-2. The
tokenizer's own special tokens (BOS for Llama and OPT, none for Qwen) stand at the start of the stream alone, so that all
windows but the first begin in the middle of the text; nothing is dropped from a stream.

What was calibrated on is told again by the fingerprints of its passages, so that no evaluation runs on it.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from kirin_lava.base import readers
from kirin_lava.base.errors import UsageError
from kirin_lava.models.passages import cut, passages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "CALIBRATION_TEXT",
    "EVALUATION_TEXT",
    "SEPARATOR",
    "all_passages",
    "documents",
    "is_stream",
    "protocol",
    "read_text",
    "sample_rows",
    "text_rows",
    "token_rows",
    "windows",
]

_T = TypeVar("_T")

_DATA = Path(__file__).parent / "data" / "text"
CALIBRATION_TEXT, EVALUATION_TEXT = _DATA / "calibration.txt", _DATA / "evaluation.txt"

SEPARATOR = "<|endoftext|>"
_SEPARATOR = re.compile(re.escape(SEPARATOR) + r"[ \t]*$", re.MULTILINE)
_PARAGRAPHS = re.compile(r"\n[ \t]*\n")
# UTF-8 that was read as Latin-1 or Windows-1252: a lead byte as a letter, a following byte as a sign. "NÃO" is fine.
_BROKEN = re.compile("\ufffd|â€|[ÃÂ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]")
_MOST_BROKEN = 0.1  # of the paragraphs of a stream; some of a large collection are no reason to refuse it
_LETTERS_PER_TOKEN = 32  # more than any text has; what lies behind is cut off anyway and not worth reading


def read_text(path: Path) -> str:
    """A UTF-8 text file; `UsageError` where it cannot be read or is empty."""
    text = readers.read_text(path)
    if not text.strip():
        raise UsageError(f"{path} is empty: give a text with at least one sentence")
    return text


def is_stream(text: str) -> bool:
    """Whether the text has no separator line."""
    return _SEPARATOR.search(text) is None


def documents(text: str) -> list[str]:
    """The documents of a text, in order, broken ones left out; a stream is one document.

    Raises:
        UsageError: a stream of which more than a tenth of the paragraphs are broken.
    """
    if is_stream(text):
        _require_decoded(text)
        return [text] if text.strip() else []
    return [part for part in _parts(text) if not _BROKEN.search(part)]


def all_passages(text: str) -> list[str]:
    """The passages of all documents, which `fingerprints` takes."""
    return [passage for document in documents(text) for passage in passages(document)]


def protocol(tokenizer: PreTrainedTokenizerBase, text: str, length: int, stride: int | None = None) -> str:
    """How `token_rows`, or with a stride `windows`, reads this text: one line for people."""
    if not is_stream(text):
        start = "" if tokenizer.bos_token_id is None else ", behind BOS"
        rows = f"rows of {length} tokens, each begins with a document"
        if stride is not None:
            rows = f"documents as one stream{start}, windows of {length} tokens, stride {stride}"
        broken = len(_parts(text)) - len(documents(text))
        return rows + (f", broken documents left out: {broken}" if broken else "")
    first = tokenizer("a", verbose=False).input_ids[:1]
    start = "its start alone has BOS" if set(first) & set(tokenizer.all_special_ids) else "without BOS"
    step = "no overlap" if stride is None else f"stride {stride}"
    return f"one stream, windows of {length} tokens, {step}, {start}"


def token_rows(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[Tensor]:
    """The rows of `text_rows` alone."""
    return [row for row, _ in text_rows(tokenizer, text, length)]


def text_rows(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[tuple[Tensor, list[str]]]:
    """Rows of exactly `length` ids (L,) int64, each with the passages of the documents it holds (the last may be cut), of a
    stream with the passages that it touches; one shorter row where the whole text is shorter than that.

    Raises:
        UsageError: fewer than two tokens, or nothing but broken characters.
    """
    rows = _stream_rows(tokenizer, text, length) if is_stream(text) else _document_rows(tokenizer, text, length)
    if not rows or len(rows[0][0]) < 2:
        broken = " (or its characters are broken by a wrong decoding)" if text.strip() and not documents(text) else ""
        raise UsageError(f"the text holds no two tokens{broken}: give a longer text")
    return rows


def windows(tokenizer: PreTrainedTokenizerBase, text: str, length: int, stride: int) -> list[Tensor]:
    """Windows of at most `length` ids over the whole text as one stream, each `stride` further than the last; documents stand
    in it one behind the other, each behind a BOS.

    Raises:
        UsageError: fewer than two tokens, or a stride that would leave tokens out.
    """
    if not 0 < stride <= length:
        raise UsageError(f"a stride of {stride} leaves out tokens between windows of {length}: it must be 1 to {length}")
    if is_stream(text):
        found = [] if not documents(text) else _ids(tokenizer, text, True)
    else:
        start = _bos(tokenizer)
        found = [id for document in documents(text) for id in [*start, *_ids(tokenizer, document, False)]]
    ids = torch.tensor(found)
    if len(ids) < 2:
        raise UsageError("the text holds no two tokens: give a longer text")
    starts = range(0, max(1, len(ids) - length + stride), stride)
    return [ids[i : i + length] for i in starts if len(ids[i : i + length]) > 1]


def sample_rows(rows: list[_T], count: int, seed: int) -> list[_T]:
    """At most `count` rows, drawn without replacement by a seeded generator, in the order of the text."""
    if len(rows) <= count:
        return rows
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
    return [rows[i] for i in chosen.sort().values.tolist()]


def _parts(text: str) -> list[str]:
    return [part for part in map(str.strip, _SEPARATOR.split(text)) if part]


def _require_decoded(text: str) -> None:
    if not _BROKEN.search(text):
        return
    paragraphs = [part for part in _PARAGRAPHS.split(text) if part.strip()]
    broken = [part.strip() for part in paragraphs if _BROKEN.search(part)]
    if len(broken) > _MOST_BROKEN * len(paragraphs):
        raise UsageError(
            f"{len(broken)} of the {len(paragraphs)} paragraphs of the text hold characters that are broken by a wrong "
            f"decoding ({broken[0][:40]!r}): save it anew as UTF-8"
        )


def _document_rows(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[tuple[Tensor, list[str]]]:
    start = _bos(tokenizer)
    rows: list[tuple[Tensor, list[str]]] = []
    row: list[int] = []
    held: list[str] = []
    for document in documents(text):
        row += start + _first_ids(tokenizer, document, length)
        held += passages(document)
        if len(row) >= length:
            rows.append((torch.tensor(row[:length]), held))
            row, held = [], []
    return rows or [(torch.tensor(row, dtype=torch.int64), held)]


def _stream_rows(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[tuple[Tensor, list[str]]]:
    if not documents(text):
        return []
    found = list(cut(text))
    starts, stops = [start for start, _, _ in found], [stop for _, stop, _ in found]
    if not tokenizer.is_fast:  # it does not say where its tokens stand: any row may hold any passage
        ids = _ids(tokenizer, text, True)
        spans = [(0, len(text))] * len(ids)
    else:
        encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
        ids, spans = encoded.input_ids, encoded.offset_mapping
    rows = []
    for i in range(0, max(1, len(ids) - length + 1), length):
        places = spans[i : i + length]
        first, last = min((a for a, b in places if b > a), default=0), max((b for _, b in places), default=0)
        touched = found[bisect_right(stops, first) : bisect_left(starts, last)]
        rows.append((torch.tensor(ids[i : i + length], dtype=torch.int64), [words for _, _, words in touched]))
    return rows


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> Sequence[int]:
    ids: Sequence[int] = tokenizer(text, add_special_tokens=special, verbose=False).input_ids
    return ids


def _first_ids(tokenizer: PreTrainedTokenizerBase, document: str, length: int) -> list[int]:
    """Ids of a document; of a huge one only as many as any row can take."""
    limit = _LETTERS_PER_TOKEN * length
    if len(document) > limit:
        ids = list(_ids(tokenizer, document[:limit], False))
        if len(ids) > length:  # the last ones may be half a word
            return ids[:length]
    return list(_ids(tokenizer, document, False))
