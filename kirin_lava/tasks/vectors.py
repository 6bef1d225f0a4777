"""Vectors of texts: what an encoder makes of a list of texts, in the sense of sentence-transformers.

Texts of one length are run together, so that none is padded: what is not there is not computed, on no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.block import STATES, Model
from kirin_lava.models.sentence import FIRST, MEAN

__all__ = ["batches", "longest_text", "pooled", "require_encoder", "vectors"]

Run = Callable[[Tensor], Tensor]
"""(B, L) ids of whole texts -> (B, L, width) states, or (B, 1, classes) logits."""
Progress = Callable[[str, int, int], None]

_BATCH_TOKENS = 2048


def require_encoder(model: Model, where: str) -> None:
    """Raise `UsageError` for a decoder."""
    if model.causal:
        raise UsageError(f"{where} is a decoder, which has no vector of a text; `kirin-lava run` goes on from one")


def longest_text(facts: dict[str, Any], max_positions: int) -> int:
    """Tokens to which a text is cut: those that the model was trained for, where it says so."""
    return min(max_positions, int(facts.get("sentence_tokens", max_positions)))


def batches(rows: Sequence[Tensor]) -> Iterator[list[int]]:
    """Places of rows of one length, as many as are run together; the shortest first."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    start = 0
    while start < len(order):
        length = len(rows[order[start]])
        stop = start + 1
        while stop < len(order) and len(rows[order[stop]]) == length and (stop - start + 1) * length <= _BATCH_TOKENS:
            stop += 1
        yield order[start:stop]
        start = stop


def pooled(states: Tensor, facts: dict[str, Any]) -> Tensor:
    """(B, L, width) states of texts -> (B, width) float32: their mean, or the first; normalised where the model says so."""
    pooling = facts.get("pooling", MEAN)
    if pooling not in (MEAN, FIRST):
        raise UsageError(f"pooling {pooling!r} is neither {MEAN} nor {FIRST}; the bundle is damaged, export again")
    vector = states[:, 0] if pooling == FIRST else states.double().mean(1)
    vector = vector.float()
    return F.normalize(vector, dim=-1) if facts.get("normalize", facts.get("head") == STATES) else vector


@torch.inference_mode()
def vectors(run: Run, rows: Sequence[Tensor], facts: dict[str, Any], of_first: bool, report: Progress) -> Tensor:
    """(N, width) of N rows of ids, in their order; of classes (N, classes) logits."""
    found: list[Tensor | None] = [None] * len(rows)
    done = 0
    for places in batches(rows):
        result = run(torch.stack([rows[i] for i in places])).float().cpu()
        answer = result[:, 0] if of_first else pooled(result, facts)
        for place, vector in zip(places, answer, strict=True):
            found[place] = vector
        done += len(places)
        report("texts", done, len(rows))
    return torch.stack([vector for vector in found if vector is not None])
