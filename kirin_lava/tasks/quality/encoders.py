"""Quality of an encoder: how near the vectors of the integer network are to those of its float original.

Both see the same sentences, each on its own. Two numbers tell what a search or a clustering would notice: the cosine between
the two vectors of a sentence, and whether its nearest neighbour among the others is the same one. A ratio of perplexities means
nothing here: nothing is predicted. Of a head with classes or a masked language model the share of equal answers is told, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Group
from rich.table import Table
from torch import Tensor

from kirin_lava.base.console import csv_lines
from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.block import CLASSES, MASKED_LM, Model
from kirin_lava.graph.executor import Executor
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.sentences import sentences, tokens_of
from kirin_lava.models.text import read_text
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.quality.original import load_encoder, require_converted
from kirin_lava.tasks.quality.unseen import check_unseen
from kirin_lava.tasks.vectors import batches, longest_text, vectors

__all__ = ["EncoderEvaluation", "Nearness", "agreement", "evaluate_encoder", "nearness", "original_vectors", "sentence_rows"]

Progress = Callable[[str, int, int], None]

_FEWEST = 3  # sentences, for there to be a choice of neighbours


@dataclass(frozen=True)
class Nearness:
    """Two lists of vectors of the same texts.

    Attributes:
        cosine: mean over the texts. lowest: least of them. neighbours: share whose nearest neighbour is the same text.
    """

    cosine: float
    lowest: float
    neighbours: float


@dataclass(frozen=True)
class EncoderEvaluation:
    """Result of `evaluate` on an encoder; see `Nearness`.

    Attributes:
        head: of the model. agreement: share of equal answers of a head with logits; None without one.
        cosine_lava: of the vector that Lava computes of the first sentence, with that of the integer network: 1.
    """

    bundle: str
    recipe: str
    text: str
    protocol: str
    sentences: int
    tokens: int
    cosine: float
    lowest_cosine: float
    same_neighbour: float
    head: str
    agreement: float | None = None
    cosine_lava: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_csv(self) -> str:
        """One line."""
        return csv_lines([self.to_dict()])

    def table(self) -> Group:
        """For people."""
        table = Table(title=f"{self.bundle} ({self.recipe}) on {self.text}: {self.protocol}")
        columns = ["network", "cosine, mean", "lowest", "same neighbour"] + (
            ["same answer"] if self.agreement is not None else []
        )
        for column in columns:
            table.add_column(column, justify="left" if column == "network" else "right")
        answers = [] if self.agreement is None else [f"{100 * self.agreement:.2f} %"]
        table.add_row("original, float32", "1", "1", "100 %", *(["100 %"] if answers else []))
        numbers = f"{self.cosine:.4f}", f"{self.lowest_cosine:.4f}", f"{100 * self.same_neighbour:.1f} %"
        table.add_row("integer network", *numbers, *answers)
        if self.cosine_lava is not None:
            table.add_row("spikes on Lava, first sentence", f"{self.cosine_lava:.6f}", "", "", *([""] if answers else []))
        return Group(table)


def nearness(ours: Tensor, theirs: Tensor) -> Nearness:
    """Of vectors (N, width) of the same N texts.

    Raises:
        UsageError: fewer than three texts.
    """
    if len(ours) < _FEWEST:
        raise UsageError(f"{len(ours)} sentences have no choice of neighbours: give a text with at least {_FEWEST}")
    mine, wanted = (F.normalize(x.double(), dim=-1) for x in (ours, theirs))
    cosines = (mine * wanted).sum(-1)
    nearest = [_nearest(x) for x in (mine, wanted)]
    return Nearness(float(cosines.mean()), float(cosines.min()), float((nearest[0] == nearest[1]).double().mean()))


def _nearest(x: Tensor) -> Tensor:
    """(N,) place of the nearest other of normalised vectors (N, width)."""
    likeness = x @ x.T
    return likeness.fill_diagonal_(-torch.inf).argmax(-1)


def sentence_rows(tokenizer: Any, content: str, length: int, most: int | None, name: str) -> list[Tensor]:
    """Ids of the sentences of a text, of the first `most` of them, evenly spread over the text where there are more."""
    found = sentences(content)
    if most is not None and most < len(found):
        found = [found[len(found) * i // most] for i in range(most)]
    if not found:
        raise UsageError(f"{name} holds no sentence of five words: give another text")
    return tokens_of(tokenizer, found, length)


def original_vectors(network: Any, rows: Sequence[Tensor], facts: dict[str, Any], report: Progress) -> Tensor:
    """(N, width) of the encoder in transformers, of the states below its head."""

    def run(ids: Tensor) -> Tensor:
        states: Tensor = network.base_model(ids.to(network.device)).last_hidden_state
        return states

    return vectors(run, rows, facts, False, report)


@torch.inference_mode()
def agreement(model: Model, executor: Executor, network: Any, rows: Sequence[Tensor]) -> float | None:
    """Share of equal answers: classes, or tokens at every place; None where there is no head."""
    if model.facts.get("head") not in (CLASSES, MASKED_LM):
        return None
    same = total = 0
    for places in batches(rows):
        ids = torch.stack([rows[i] for i in places])
        wanted = network(ids.to(network.device))
        logits = wanted.prediction_logits if hasattr(wanted, "prediction_logits") else wanted.logits
        equal = executor.forward(ids).cpu().argmax(-1).flatten() == logits.cpu().argmax(-1).flatten()
        same, total = same + int(equal.sum()), total + len(equal)
    return same / total


def evaluate_encoder(
    bundle: Path | str,
    text: Path | str,
    seq_len: int = 256,
    max_rows: int | None = None,
    original: str | None = None,
    lava: bool = False,
    device: str = "cpu",
    timeout: float | None = None,
    progress: Progress | None = None,
) -> EncoderEvaluation:
    """Evaluate an encoder on the sentences of a text file; other arguments and errors as of `evaluate`.

    Args:
        seq_len: longest sentence, in tokens. max_rows: as many sentences, evenly spread over the text.
    """
    text, report = Path(text), progress or (lambda what, done, total: None)
    opened = Bundle(Path(bundle))
    opened.require_whole()
    content = read_text(text)
    check_unseen(opened, content, text)
    model = opened.model()
    length = min(seq_len, longest_text(model.facts, model.max_positions))
    rows = sentence_rows(load_tokenizer(opened.path), content, length, max_rows, text.name)
    source = opened.manifest["source"]
    checkpoint: Checkpoint = open_checkpoint(original or source["model"], None if original else source["revision"])
    require_converted(checkpoint, model, source["sha256"], named=original is not None)
    network = load_encoder(checkpoint, max(rows, key=len), device)
    executor = Executor(model, device)
    ours = vectors(executor.states, rows, model.facts, False, report)
    found = nearness(ours, original_vectors(network, rows, model.facts, report))
    on_lava = None
    if lava:
        on_lava = _on_lava(model, rows[0], ours[0], timeout, report)
    return EncoderEvaluation(
        bundle=str(bundle),
        recipe=opened.recipe.name,
        text=text.name,
        protocol=f"{len(rows)} sentences, each on its own",
        sentences=len(rows),
        tokens=sum(map(len, rows)),
        cosine=found.cosine,
        lowest_cosine=found.lowest,
        same_neighbour=found.neighbours,
        head=str(model.facts.get("head")),
        agreement=agreement(model, executor, network, rows),
        cosine_lava=on_lava,
    )


def _on_lava(model: Model, row: Tensor, vector: Tensor, timeout: float | None, report: Progress) -> float:
    from kirin_lava.processes.model import LavaModel

    with LavaModel(model, len(row), timeout, report) as encoder:
        theirs = vectors(lambda ids: torch.stack([encoder.states(i) for i in ids]), [row], model.facts, False, report)
    return float(F.cosine_similarity(theirs[0].double(), vector.double(), dim=0))
