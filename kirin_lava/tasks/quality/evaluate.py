"""Quality on real text: perplexity, divergence and agreement of the integer network against its float original.

Both see the same rows. The default protocol is that of `kirin_lava.models.text`: rows that begin with BOS and a document, or
windows of a text without documents; all tokens of a row but its first are scored. With a stride, overlapping windows over the
whole text as one stream, where a token is scored in the first window that holds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from rich.console import Group
from rich.table import Table
from torch import Tensor

from kirin_lava.base.console import csv_lines
from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.executor import Executor
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.text import protocol, read_text, token_rows, windows
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.quality.layer_errors import LayerError, layer_errors, worst_first
from kirin_lava.tasks.quality.original import load_original, require_converted
from kirin_lava.tasks.quality.unseen import check_unseen

__all__ = ["Evaluation", "Score", "evaluate", "score", "score_all"]

_BATCH_TOKENS = 2048
_PART_ELEMENTS = 2**22  # logits that are looked at at a time, in float64
_ERROR_ROWS = 4


@dataclass(frozen=True)
class Score:
    """Sums over scored tokens. nll, kl in nats."""

    tokens: int
    nll_float: float
    nll: float
    kl: float
    agreed: int

    def __add__(self, other: Score) -> Score:
        """Sums over the tokens of both."""
        return Score(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Score)))

    @property
    def perplexity_float(self) -> float:
        """Perplexity of the original."""
        return math.exp(self.nll_float / self.tokens)

    @property
    def perplexity(self) -> float:
        """Perplexity of the integer network."""
        return math.exp(self.nll / self.tokens)


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`; perplexities per token of the model's own tokenizer, kl in nats per token."""

    bundle: str
    recipe: str
    text: str
    protocol: str
    rows: int
    tokens: int
    perplexity_float: float
    perplexity: float
    ratio: float
    kl: float
    top1_agreement: float
    perplexity_lava: float | None = None
    lava_tokens: int | None = None
    layer_errors: tuple[LayerError, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_csv(self) -> str:
        """One line per layer where their errors were asked for, else one line of all that is known of the whole."""
        if self.layer_errors:
            return csv_lines([error.to_dict() for error in self.layer_errors])
        return csv_lines([{name: value for name, value in asdict(self).items() if name != "layer_errors"}])

    def table(self) -> Group:
        """For people."""
        table = Table(title=f"{self.bundle} ({self.recipe}) on {self.text}: {self.protocol}")
        for column in ("network", "perplexity", "ratio", "KL (nats)", "top-1 agreement"):
            table.add_column(column, justify="left" if column == "network" else "right")
        table.add_row("original, float32", f"{self.perplexity_float:.4f}", "1", "0", "100 %")
        table.add_row(
            "integer network",
            f"{self.perplexity:.4f}",
            f"{self.ratio:.4f}",
            f"{self.kl:.4f}",
            f"{100 * self.top1_agreement:.2f} %",
        )
        if self.perplexity_lava is not None:
            table.add_row(f"spikes on Lava, first {self.lava_tokens} tokens", f"{self.perplexity_lava:.4f}", "", "", "")
        return Group(table, worst_first(list(self.layer_errors))) if self.layer_errors else Group(table)


class Network(Protocol):
    """What can be scored: the integer executor, or a rival."""

    device: torch.device

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, vocabulary) logits."""
        ...


def score(
    network: Network,
    original: Callable[[Tensor], Tensor],
    rows: list[Tensor],
    fresh: list[int] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Score:
    """`score_all` of one network."""
    return score_all([network], original, rows, fresh, progress)[0]


@torch.inference_mode()
def score_all(
    networks: Sequence[Network],
    original: Callable[[Tensor], Tensor],
    rows: list[Tensor],
    fresh: list[int] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Score]:
    """Run networks over rows of tokens, each beside the original, which computes every row once.

    Args:
        original: (B, L) ids -> (B, L, vocabulary) logits.
        fresh: for every row the number of its last tokens to score; None scores all but the first token.
    """
    sums = [Score(0, 0.0, 0.0, 0.0, 0)] * len(networks)
    index = 0
    while index < len(rows):
        length = len(rows[index])
        batch = [i for i in range(index, min(index + max(1, _BATCH_TOKENS // length), len(rows))) if len(rows[i]) == length]
        ids = torch.stack([rows[i] for i in batch])
        counted = torch.ones(len(batch), length - 1, dtype=torch.bool)
        for i, row in enumerate(batch):
            if fresh is not None:
                counted[i, : length - 1 - fresh[row]] = False
        theirs, target = original(ids)[:, :-1][counted], ids[:, 1:][counted]
        for which, network in enumerate(networks):
            ours = network.forward(ids.to(network.device))[:, :-1]
            sums[which] = sums[which] + _scored(ours[counted.to(ours.device)], theirs, target)
            del ours  # before the next network's: of a large vocabulary one is hundreds of megabytes
        index += len(batch)
        if progress is not None:
            progress("evaluate", index, len(rows))
    return sums


def _scored(ours: Tensor, theirs: Tensor, target: Tensor) -> Score:
    """Sums over tokens from logits (tokens, vocabulary) and the ids (tokens,) that follow; a part at a time, in float64."""
    result = Score(0, 0.0, 0.0, 0.0, 0)
    part = max(1, _PART_ELEMENTS // ours.shape[-1])
    for mine, wanted, ids in zip(ours.split(part), theirs.split(part), target.split(part), strict=True):
        p = F.log_softmax(mine.double(), -1)
        q = F.log_softmax(wanted.to(p.device).double(), -1)
        column = ids.to(p.device).unsqueeze(-1)
        agreed = int((p.argmax(-1) == q.argmax(-1)).sum())
        nll_float, nll = -float(q.gather(-1, column).sum()), -float(p.gather(-1, column).sum())
        result = result + Score(len(ids), nll_float, nll, float((q.exp() * (q - p)).sum()), agreed)
    return result


def evaluate(
    bundle: Path | str,
    text: Path | str,
    seq_len: int = 256,
    stride: int | None = None,
    max_rows: int | None = None,
    original: str | None = None,
    lava: bool = False,
    layer_errors_too: bool = False,
    device: str = "cpu",
    timeout: float | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a bundle of a decoder on a text file; of an encoder, see `kirin_lava.tasks.quality.encoders.evaluate_encoder`.

    Args:
        seq_len: tokens per row. stride: windows with this stride over the whole text instead of rows.
        original: the float checkpoint; None for the one that the bundle was made from.
        layer_errors_too: also the signal-to-noise of every layer, on the first rows.
        lava: also run the spiking network on Lava over the first row; its perplexity must equal the integer network's.

    Raises:
        UsageError: the evaluation text is the calibration text, or holds a passage that was calibrated on; the original is
            not what was converted, or transformers reads another network from it.
    """
    text = Path(text)
    opened = Bundle(Path(bundle))
    if not opened.causal:
        raise UsageError(
            f"{bundle} is an encoder, which predicts no next token: `load(...).evaluate_vectors` compares its vectors"
        )
    opened.require_whole()
    content = read_text(text)
    check_unseen(opened, content, text)
    model = opened.model()
    tokenizer = load_tokenizer(opened.path)
    length = min(seq_len, model.max_positions)
    fresh = None
    if stride is None:
        rows = token_rows(tokenizer, content, length)
    else:
        rows = windows(tokenizer, content, length, stride)
        fresh = [len(row) - 1 if i == 0 else min(stride, len(row) - 1) for i, row in enumerate(rows)]
        tail = len(rows[-1]) - (length - stride)
        fresh[-1] = max(1, tail) if len(rows) > 1 and len(rows[-1]) < length else fresh[-1]
    rows, fresh = rows[:max_rows], None if fresh is None else fresh[:max_rows]
    source = opened.manifest["source"]
    checkpoint = open_checkpoint(original or source["model"], None if original else source["revision"])
    require_converted(checkpoint, model, source["sha256"], named=original is not None)
    teacher = load_original(checkpoint, rows[0], device)
    result = score(Executor(model, device), lambda ids: teacher(ids).logits, rows, fresh, progress)
    errors: list[LayerError] = []
    if layer_errors_too:
        errors = layer_errors(checkpoint, model, [row for row in rows[:_ERROR_ROWS] if len(row) == len(rows[0])])
    lava_perplexity = lava_tokens = None
    if lava:
        from kirin_lava.tasks.verify.blocks import lava_logits

        logits = lava_logits(opened, rows[0], timeout, progress)
        nll = F.cross_entropy(logits[:-1].double(), rows[0][1:])
        lava_perplexity, lava_tokens = math.exp(float(nll)), len(rows[0])
    return Evaluation(
        bundle=str(bundle),
        recipe=opened.recipe.name,
        text=text.name,
        protocol=protocol(tokenizer, content, length, stride),
        rows=len(rows),
        tokens=result.tokens,
        perplexity_float=result.perplexity_float,
        perplexity=result.perplexity,
        ratio=result.perplexity / result.perplexity_float,
        kl=result.kl / result.tokens,
        top1_agreement=result.agreed / result.tokens,
        perplexity_lava=lava_perplexity,
        lava_tokens=lava_tokens,
        layer_errors=tuple(errors),
    )
