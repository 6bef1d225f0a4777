"""Text in, rows of tokens out: the one protocol by which calibration and evaluation read a text file.

Documents are separated by a line `<|endoftext|>`; in a text without one, a paragraph that opens a story ("Once upon a time",
"One day", ...) starts a document, and in a text without such openings every paragraph is one. Documents with characters that
a wrong decoding left behind are dropped. A row begins with BOS and a document, goes on with the next documents (each behind a
BOS) and is cut at its length; the next row begins with the next document that is unused.

Documents are told again by their fingerprints, so that no evaluation runs on one that was calibrated on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from kirin_lava.base import readers
from kirin_lava.base.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "CALIBRATION_TEXT",
    "EVALUATION_TEXT",
    "document_rows",
    "documents",
    "fingerprints",
    "plain_windows",
    "read_text",
    "sample_rows",
    "token_rows",
]

_T = TypeVar("_T")

_DATA = Path(__file__).parent / "data" / "text"
CALIBRATION_TEXT, EVALUATION_TEXT = _DATA / "calibration.txt", _DATA / "evaluation.txt"

_SEPARATOR = "<|endoftext|>"
_OPENING = re.compile(r"(Once upon a time|Once there was|One day|Once,|There once was|A long time ago|Long ago)\b")
_PARAGRAPHS = re.compile(r"\n[ \t]*\n")
# UTF-8 that was read as Latin-1 or Windows-1252: a lead byte as a letter, a following byte as a sign. "NÃO" is fine.
_BROKEN = re.compile("\ufffd|â€|[ÃÂ][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]")
_LETTERS_PER_TOKEN = 32  # more than any text has; what lies behind is cut off anyway and not worth reading
_HEADING = 80  # letters; what is shorter stands in many texts ("The End.")
_MIN_OPENINGS = 0.05  # of all paragraphs, for a text to count as stories


def read_text(path: Path) -> str:
    """A UTF-8 text file; `UsageError` where it cannot be read or is empty."""
    text = readers.read_text(path)
    if not text.strip():
        raise UsageError(f"{path} is empty: give a text with at least one sentence")
    return text


def documents(text: str) -> list[str]:
    """The documents of a text, in order, broken ones left out."""
    if _SEPARATOR in text:
        parts = [part.strip() for part in text.split(_SEPARATOR)]
    else:
        paragraphs = [part.strip() for part in _PARAGRAPHS.split(text) if part.strip()]
        openings = [bool(_OPENING.match(part)) for part in paragraphs]
        if sum(openings) < _MIN_OPENINGS * len(paragraphs):
            parts = paragraphs
        else:
            parts = []
            for paragraph, opens in zip(paragraphs, openings, strict=True):
                if opens or not parts:
                    parts.append(paragraph)
                else:
                    parts[-1] += "\n\n" + paragraph
    return [part for part in parts if part and not _BROKEN.search(part)]


def fingerprints(found: Iterable[str]) -> list[str]:
    """Hashes of documents, sorted; headings and the like have none."""
    return sorted({hashlib.sha256(part.encode()).hexdigest()[:16] for part in found if len(part) >= _HEADING})


def token_rows(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[Tensor]:
    """The rows of `document_rows` alone."""
    return [row for row, _ in document_rows(tokenizer, text, length)]


def document_rows(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[tuple[Tensor, list[str]]]:
    """Rows of exactly `length` ids (L,) int64, each with the documents it holds, of which the last may be cut; one shorter row
    where the whole text is shorter than that.

    Raises:
        UsageError: fewer than two tokens.
    """
    start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    rows: list[tuple[Tensor, list[str]]] = []
    row: list[int] = []
    held: list[str] = []
    for document in documents(text):
        row += start + _first_ids(tokenizer, document, length)
        held.append(document)
        if len(row) >= length:
            rows.append((torch.tensor(row[:length]), held))
            row, held = [], []
    if not rows:
        if len(row) < 2:
            broken = "" if documents(text) else " (or its characters are broken by a wrong decoding)"
            raise UsageError(f"the text holds no two tokens{broken}: give a longer text")
        rows.append((torch.tensor(row), held))
    return rows


def _first_ids(tokenizer: PreTrainedTokenizerBase, document: str, length: int) -> list[int]:
    """Ids of a document; of a huge one only as many as any row can take."""
    limit = _LETTERS_PER_TOKEN * length
    if len(document) > limit:
        ids: list[int] = tokenizer(document[:limit], add_special_tokens=False, verbose=False).input_ids
        if len(ids) > length:  # the last ones may be half a word
            return ids[:length]
    whole: list[int] = tokenizer(document, add_special_tokens=False, verbose=False).input_ids
    return whole


def plain_windows(tokenizer: PreTrainedTokenizerBase, text: str, length: int, stride: int) -> list[Tensor]:
    """Windows of at most `length` ids over the whole text as one stream, each `stride` further than the last.

    Raises:
        UsageError: fewer than two tokens, or a stride that would leave tokens out.
    """
    if not 0 < stride <= length:
        raise UsageError(f"a stride of {stride} leaves out tokens between windows of {length}: it must be 1 to {length}")
    ids = torch.tensor(tokenizer(text, verbose=False).input_ids)
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
