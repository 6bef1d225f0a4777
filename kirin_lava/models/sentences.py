"""Texts for encoders: an encoder reads whole texts between its own special tokens, not rows cut from a stream.

lines        what `embed` makes vectors of: every line that is not empty
sentences    what is compared with the original: sentences of a text, headings and the very short left out
text rows    what is calibrated on: the passages of a text, see `kirin_lava.models.passages`
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.models.passages import passages
from kirin_lava.models.text import SEPARATOR, documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["lines", "passage_rows", "sentences", "tokens_of"]

_END = re.compile(r"(?<=[.!?])[\"'\u201d]?\s+(?=[\"'\u201c(]?[A-Z0-9])")
_HEADING = re.compile(r"=.*=$")
_FEWEST_WORDS = 5


def lines(text: str) -> list[str]:
    """Lines that hold something, without the spaces around them; lines that separate documents hold nothing."""
    return [line.strip() for line in text.splitlines() if line.strip() and line.strip() != SEPARATOR]


def sentences(text: str) -> list[str]:
    """Sentences of at least five words, each once, in the order of the text."""
    found = dict.fromkeys(
        " ".join(sentence.split())
        for document in documents(text)
        for line in document.splitlines()
        if not _HEADING.match(line.strip())
        for sentence in _END.split(line)
    )
    return [sentence for sentence in found if len(sentence.split()) >= _FEWEST_WORDS]


def tokens_of(tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int) -> list[Tensor]:
    """Ids (L,) int64 of every text with the tokenizer's own special tokens, cut to `length`."""
    found = tokenizer(texts, truncation=True, max_length=length, padding=False, verbose=False).input_ids
    return [torch.tensor(ids, dtype=torch.int64) for ids in found]


def passage_rows(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[tuple[Tensor, list[str]]]:
    """As `kirin_lava.models.text.text_rows`: a row is a passage of the text, as the encoder reads it, of at most `length` ids.
    A text without a passage, because all its lines are short, is one row.

    Raises:
        UsageError: fewer than two tokens.
    """
    whole = documents(text)
    found = [passage for document in whole for passage in passages(document)] or [" ".join(" ".join(whole).split())]
    rows = tokens_of(tokenizer, found, length)
    if not whole or len(rows[0]) < 2:
        raise UsageError("the text holds no two tokens: give a longer text")
    return [(row, [passage]) for row, passage in zip(rows, found, strict=True)]
