"""`embed`: a vector of every line of a text, by the integer executor or by the spiking network on Lava."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, require_place, save_text, whole_file
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.block import Model
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Executor
from kirin_lava.models.sentences import lines, tokens_of
from kirin_lava.models.text import read_text
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.processes.runtime import require_lava
from kirin_lava.tasks.vectors import longest_text, require_encoder, vectors

__all__ = ["Embedding", "embed"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Embedding:
    """Vectors of texts.

    Attributes:
        texts: in order. vectors: (texts, width) float32; of an encoder of classes (texts, classes), the logits.
        tokens: of all texts, special ones among them. cut: texts that were longer than the model reads.
        labels: the class of every text; empty where the model has none.
        counts: spikes of the run, plain values; None where nobody asked for them.
    """

    backend: str
    texts: tuple[str, ...]
    vectors: np.ndarray = field(repr=False)
    tokens: int
    cut: int
    seconds: float
    labels: tuple[str, ...] = ()
    counts: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "vectors": self.vectors.tolist()}

    def to_lines(self) -> str:
        """JSON, a line a text."""
        rows = []
        for i, (text, vector) in enumerate(zip(self.texts, self.vectors, strict=True)):
            label = {"label": self.labels[i]} if self.labels else {}
            rows.append(json.dumps({"text": text, **label, "vector": [float(x) for x in vector]}, ensure_ascii=False))
        return "".join(f"{row}\n" for row in rows)

    def save(self, path: Path) -> None:
        """Write a NumPy array (.npy), or JSON lines (.jsonl), whole or not at all."""
        _check_name(path)
        with disk_errors(path.parent):
            if path.suffix == ".npy":
                with whole_file(path) as part, open(part, "wb") as file:
                    np.save(file, self.vectors)
            else:
                save_text(path, self.to_lines())

    def summary(self) -> str:
        """One line for people."""
        spikes = ""
        if self.counts is not None:
            total = self.counts["total"]
            spikes = f", {total['spikes_per_token'] * self.tokens / len(self.texts):,.0f} spikes a text"
        return (
            f"{len(self.texts)} texts, {self.tokens} tokens, {self.vectors.shape[1]} numbers each, on {self.backend}: "
            f"{self.seconds:.1f} s{spikes}{f'; {self.cut} texts were cut' if self.cut else ''}"
        )


def embed(
    bundle: Path | str,
    text: Path | str | list[str],
    output: Path | str | None = None,
    backend: str = "reference",
    device: str = "cpu",
    count: bool = False,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Embedding:
    """Vectors of texts: states of the last layer, pooled and normalised as the model says; of an encoder with classes, logits.

    Args:
        text: a file, a line a text, or the texts themselves.
        output: file to write, .npy or .jsonl.
        backend: "reference" (the integer executor) or "lava" (the spiking network on Lava's CPU simulator; the same numbers).
        count: count spikes.

    Raises:
        UsageError: a decoder; no text; a file that is neither .npy nor .jsonl.
    """
    report = progress or (lambda what, done, total: None)
    if backend not in ("reference", "lava"):
        raise UsageError(f"unknown backend {backend!r}: choose reference or lava")
    if count and backend != "reference":
        raise UsageError("spikes are counted on the reference; leave out the backend")
    if backend == "lava":
        require_lava()
    if output is not None:
        _check_name(Path(output))
        require_place(Path(output))
    opened = Bundle(Path(bundle))
    opened.require_whole()
    texts = text if isinstance(text, list) else lines(read_text(Path(text)))
    if not texts:
        raise UsageError("no texts: give at least one line")
    model = opened.model()
    require_encoder(model, str(bundle))
    tokenizer = load_tokenizer(opened.path)
    length = longest_text(model.facts, model.max_positions)
    rows = tokens_of(tokenizer, texts, length)
    whole = tokenizer(texts, padding=False, truncation=False, verbose=False).input_ids
    counter = Counter() if count else None
    start = time.monotonic()
    if backend == "lava":
        found = _on_lava(model, rows, timeout, report)
    else:
        executor = Executor(model, device, counter)
        run = executor.forward if model.of_first else executor.states
        found = vectors(run, rows, model.facts, model.of_first, report)
    result = Embedding(
        backend=backend,
        texts=tuple(texts),
        vectors=found.numpy(),
        tokens=sum(map(len, rows)),
        cut=sum(len(ids) > length for ids in whole),
        seconds=time.monotonic() - start,
        labels=_labels(model, found) if model.of_first else (),
        counts=None if counter is None else counter.to_dict(),
    )
    if output is not None:
        result.save(Path(output))
    return result


def _on_lava(model: Model, rows: list[Tensor], timeout: float | None, report: Progress) -> Tensor:
    from kirin_lava.processes.model import LavaModel

    quiet: Progress = lambda what, done, total: None  # noqa: E731
    with LavaModel(model, max(map(len, rows)), timeout, quiet) as encoder:

        def run(ids: Tensor) -> Tensor:
            step = encoder.step if model.of_first else encoder.states
            return torch.stack([step(row) for row in ids])

        return vectors(run, rows, model.facts, model.of_first, report)


def _labels(model: Model, logits: Tensor) -> tuple[str, ...]:
    names = model.facts.get("labels") or []
    return tuple(str(names[i]) if i < len(names) else str(i) for i in logits.argmax(-1).tolist())


def _check_name(path: Path) -> None:
    if path.suffix not in (".npy", ".jsonl"):
        raise UsageError(f"{path} is neither .npy (NumPy) nor .jsonl (JSON, a line a text)")
