"""`load`: a bundle, or a `.net` file, as an object that runs, verifies and describes itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.executor import Executor
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.embed import Embedding, embed
from kirin_lava.tasks.generate import Generation, generate
from kirin_lava.tasks.inspect.bundle import BundleReport, inspect_bundle
from kirin_lava.tasks.inspect.net import NetReport, inspect_net
from kirin_lava.tasks.prompt import Message
from kirin_lava.tasks.quality.encoders import EncoderEvaluation, evaluate_encoder
from kirin_lava.tasks.quality.harness import HarnessResult, harness
from kirin_lava.tasks.quality.original import load_original, require_converted
from kirin_lava.tasks.report import Report, make_report
from kirin_lava.tasks.verified import verify_and_tell
from kirin_lava.tasks.verify import Choice, Verification

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Loaded", "load"]

Progress = Callable[[str, int, int], None]


def load(path: Path | str) -> Loaded:
    """Open a bundle, or any `.net` file for inspection.

    Raises:
        UsageError: nothing is there. What a file holds is read, and refused, when it is asked for.
    """
    return Loaded(Path(path))


class Loaded:
    """What `export` wrote. Files are read when they are needed, and the network is kept once it is built.

    Attributes:
        path: the folder, or the file.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise UsageError(f"{path} is not there; give the folder that `kirin-lava export` wrote")
        self.path = path

    def __repr__(self) -> str:
        return f"Loaded({str(self.path)!r})"

    @cached_property
    def bundle(self) -> Bundle:
        """The files, for those who need them one by one."""
        return Bundle(self.path)

    @property
    def recipe(self) -> Recipe:
        """How it was converted."""
        return self.bundle.recipe

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the source."""
        tokenizer: PreTrainedTokenizerBase = load_tokenizer(self.bundle.path)
        return tokenizer

    @cached_property
    def _executor(self) -> Executor:
        return Executor(self.bundle.model())

    def forward(self, tokens: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        """Logits of every position, by the integer executor: the same as those of the spikes.

        Args:
            tokens: ids (L,) or (B, L).

        Returns:
            (L, vocabulary) or (B, L, vocabulary), float32.
        """
        ids = torch.as_tensor(tokens, dtype=torch.int64)
        logits: Tensor = self._executor.forward(ids.reshape(-1, ids.shape[-1]))
        return logits.reshape(*ids.shape, -1)

    def generate(
        self,
        prompt: str | None = None,
        max_new_tokens: int = 100,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        backend: str = "reference",
        device: str = "cpu",
        stats: Path | str | None = None,
        timeout: float | None = None,
        on_text: Callable[[str], None] | None = None,
        *,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        chat: bool = False,
        messages: Sequence[Message] | Path | str | None = None,
        show_special: bool = False,
        count: bool = False,
    ) -> Generation:
        """Continue a prompt, or answer messages; see `kirin_lava.tasks.generate.generate`."""
        return generate(
            self.path,
            prompt,
            max_new_tokens,
            temperature,
            top_k,
            seed,
            backend,
            device,
            None if stats is None else Path(stats),
            timeout,
            on_text,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            chat=chat,
            messages=Path(messages) if isinstance(messages, str) else messages,
            show_special=show_special,
            count=count,
        )

    def embed(
        self,
        text: str | Path | list[str],
        output: str | Path | None = None,
        backend: str = "reference",
        device: str = "cpu",
        count: bool = False,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Embedding:
        """Vectors of texts, of an encoder; see `kirin_lava.tasks.embed.embed`."""
        return embed(self.path, text, output, backend, device, count, timeout, progress)

    def evaluate_vectors(
        self,
        text: Path | str,
        seq_len: int = 256,
        max_rows: int | None = None,
        original: str | None = None,
        lava: bool = False,
        device: str = "cpu",
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> EncoderEvaluation:
        """How near an encoder is to its original; see `kirin_lava.tasks.quality.encoders.evaluate_encoder`."""
        return evaluate_encoder(self.path, text, seq_len, max_rows, original, lava, device, timeout, progress)

    def verify(
        self,
        level: str = "segment",
        backend: str = "lava",
        tokens: int = 64,
        timeout: float | None = None,
        progress: Progress | None = None,
        sample: str | None = None,
        windows: int | None = None,
        seed: int = 0,
    ) -> Verification:
        """Compute every integer again, or those of a sample, and compare; see `kirin_lava.tasks.verify.verify`. `.require()`
        raises on a mismatch."""
        choice = Choice(sample, windows, seed)
        return verify_and_tell(
            self.path, level=level, backend=backend, tokens=tokens, timeout=timeout, progress=progress, choice=choice
        )

    def report(
        self,
        html: Path | str | None = None,
        text: Path | str | None = None,
        figures: Path | str | None = None,
        max_rows: int | None = 32,
        profiles: Sequence[str] = (),
        context: int | None = None,
        methods: Path | str | None = None,
        lava: bool = False,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Write the page, and the same numbers beside the manifest; see `kirin_lava.tasks.report.make_report`."""
        on, page, pictures, table = (None if path is None else Path(path) for path in (text, html, figures, methods))
        return make_report(self.path, on, page, pictures, max_rows, profiles, context, table, lava, timeout, progress)

    def inspect(self) -> BundleReport | NetReport:
        """What the bundle, or the `.net` file, holds."""
        return inspect_bundle(self.path) if self.path.is_dir() else inspect_net(self.path)

    def harness(
        self, tasks: Sequence[str], include: Path | str | None = None, limit: int | None = None, device: str = "cpu"
    ) -> HarnessResult:
        """Accuracy on tasks of lm-evaluation-harness; see `kirin_lava.tasks.quality.harness.harness`."""
        return harness(self.path, tuple(tasks), None if include is None else Path(include), limit, device)

    def original(self, device: str = "cpu") -> PreTrainedModel:
        """The float model that the bundle was made from, as transformers loads it; `UsageError` where that has changed."""
        source = self.bundle.manifest["source"]
        checkpoint = open_checkpoint(source["model"], source["revision"])
        require_converted(checkpoint, self.bundle.model(), source["sha256"], named=False)
        return load_original(checkpoint, self.tokenizer("a", return_tensors="pt").input_ids[0], device)
