"""The rows that are calibrated on: drawn from a text, and what is to be said where it gives fewer than were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.models.sentences import passage_rows
from kirin_lava.models.text import sample_rows, text_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Drawn", "draw_sample"]

_FEWEST = 2  # different tokens: of one alone there are no moments, no range and nothing to predict


@dataclass(frozen=True)
class Drawn:
    """Rows that are calibrated on.

    Attributes:
        rows: each (L,) int64, all of one length, of an encoder up to one. passages: what they hold, for `fingerprints`.
        warnings: where they are fewer or shorter than was asked for, one line; else none.
    """

    rows: list[Tensor]
    passages: list[str]
    warnings: tuple[str, ...]

    def used(self) -> dict[str, Any]:
        """What was really used, for the manifest."""
        return {
            "rows": len(self.rows),
            "tokens": sum(map(len, self.rows)),
            "tokens_per_row": max(map(len, self.rows)),
            "different_tokens": len({int(i) for row in self.rows for i in row}),
        }


def draw_sample(
    tokenizer: PreTrainedTokenizerBase, text: str, length: int, count: int, seed: int, encoder: bool = False
) -> Drawn:
    """Draw `count` rows of `length` tokens, or, for an encoder, as many passages of at most so many.

    Raises:
        UsageError: no rows, or rows of one and the same token; spaces, BOS and its like left out.
    """
    drawn = sample_rows((passage_rows if encoder else text_rows)(tokenizer, text, length), count, seed)
    rows = [row for row, _ in drawn]
    different = {int(i) for row in rows for i in row} - set(tokenizer.all_special_ids)
    seen = len(list(islice((i for i in different if str(tokenizer.decode([i])).strip()), _FEWEST)))
    if seen < _FEWEST:
        raise UsageError(
            f"the calibration text has no {_FEWEST} different tokens (spaces left out) in {len(rows)} "
            f"row{'s' * (len(rows) != 1)}: nothing can be measured on it, give a text of some sentences (--calibration)"
        )
    warnings = []
    if len(rows) < count or (len(rows[0]) < length and not encoder):
        warnings.append(
            f"the calibration text gives {len(rows)} row{'s' * (len(rows) != 1)} of {len(rows[0])} tokens, {count} of {length} "
            "were asked for: the conversion rests on fewer numbers, give a longer text (--calibration)"
        )
    return Drawn(rows, [passage for _, held in drawn for passage in held], tuple(warnings))
