"""Text from a converted model, token by token, on the integer executor or on Lava."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, require_place, save_json
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.netx.model import StockModel
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.processes.runtime import require_backend
from kirin_lava.tasks.prompt import Message, Writer, chat_prompt, read_messages, stop_ids, text_prompt
from kirin_lava.tasks.sampling import Sampler, Sampling

__all__ = ["PROMPT", "Generation", "generate"]

PROMPT = "Once upon a time"
"""What is gone on from where nothing is said."""


class _Backend(Protocol):
    """Logits (vocabulary,) of the token that follows, given the new tokens (L,)."""

    def step(self, tokens: Tensor) -> Tensor: ...

    def close(self) -> None: ...


class _Reference:
    """The integer executor with its cache."""

    def __init__(self, bundle: Bundle, device: str, counter: Counter | None, capacity: int):
        self._executor = Executor(bundle.model(), device, counter)
        self._cache = Cache(capacity=capacity)

    def step(self, tokens: Tensor) -> Tensor:
        return self._executor.forward(tokens.unsqueeze(0), self._cache, last_only=True)[0, -1].cpu()

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Generation:
    """What was generated.

    Attributes:
        tokens: new ids. text: their text. prompt_tokens: ids of the prompt.
        seconds: wall time of everything after loading. prompt_seconds: of the prompt and the first token.
        counts: spike counts of the run, JSON-able; None where nobody asked for them.
        host_fires: segments whose fire phase the host computed, because stock neurons could not hold it.
        unwritten: why the counts are in no file though they were asked for.
    """

    backend: str
    prompt_tokens: int
    tokens: list[int]
    text: str
    seconds: float
    prompt_seconds: float
    counts: dict[str, Any] | None
    host_fires: tuple[str, ...] = ()
    unwritten: str | None = None

    def summary(self) -> str:
        """One line for people."""
        rest = max(self.seconds - self.prompt_seconds, 1e-9)
        later = len(self.tokens) - 1
        rate = later / rest if later > 0 else len(self.tokens) / max(self.seconds, 1e-9)
        line = f"{len(self.tokens)} tokens by the {self.backend} backend, {rate:.1f} tokens/s"
        if later > 0:
            line += f" after {self.prompt_seconds:.1f} s for a prompt of {self.prompt_tokens}"
        if self.counts is not None:
            total = self.counts["total"]
            line += (
                f"; per token: {total['spikes_per_token']:.0f} spikes, {total['outliers_per_token']:.0f} outliers, "
                f"{100 * total['silent_share']:.1f} % of codes silent, {total['steps_per_token']:.0f} time steps"
            )
        if self.host_fires:
            line += f"; the host computed what {', '.join(self.host_fires)} fire, which stock neurons cannot hold"
        return line


def generate(
    bundle: Path,
    prompt: str | None = None,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
    backend: str = "reference",
    device: str = "cpu",
    stats: Path | None = None,
    timeout: float | None = None,
    on_text: Callable[[str], None] | None = None,
    *,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    chat: bool = False,
    messages: Sequence[Message] | Path | None = None,
    show_special: bool = False,
    count: bool = False,
) -> Generation:
    """Continue a prompt, or answer messages.

    Args:
        prompt: text, "Once upon a time" by default.
        temperature, top_k, top_p, repetition_penalty, seed: see `kirin_lava.tasks.sampling.Sampling`.
        backend: "reference"; "lava", our own Processes on Lava's CPU simulator; "stock", the `.net` files in unmodified
            lava-dl on that simulator; "loihi2", the same files on a board (see `kirin_lava.export.netx.live`).
        stats: JSON file for the spike counts.
        timeout: limit in seconds of each call to Lava.
        on_text: called with every new piece of text, the prompt first, but for messages.
        chat: the prompt is the message of a user, in the form of the model's chat template.
        messages: a conversation to answer, `[{"role": "user", "content": "..."}, ...]`, or a JSON file that holds it; instead
            of a prompt.
        show_special: special tokens are part of the text, and so is the prompt that a template makes of messages.
        count: count spikes, also without a file.

    Raises:
        BackendError: the backend is missing; before anything is loaded.
        UsageError: the prompt leaves no room in the model's context; the model has no chat template, or messages do not fit it;
            `stats` cannot be written, as far as that shows before.
    """
    if messages is not None and prompt is not None:
        raise UsageError("a prompt and messages: give one of them; the last message of a conversation is what is answered")
    if backend != "reference":
        if stats is not None or count:
            raise UsageError("--stats counts on the reference backend, which computes the same spikes; use it there")
        require_backend("cpu" if backend in ("lava", "stock") else backend)
    if stats is not None:
        require_place(stats)
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, seed)
    if isinstance(messages, Path):
        messages = read_messages(messages)
    opened = Bundle(bundle)
    if not opened.causal:
        raise UsageError(f"{bundle} is an encoder: it generates no text; `kirin-lava embed` makes vectors of texts with it")
    opened.require_whole()
    tokenizer = load_tokenizer(opened.path)
    text = PROMPT if prompt is None else prompt
    if messages is None and not chat:
        given = text_prompt(tokenizer, text)
    else:
        given = chat_prompt(tokenizer, messages or [{"role": "user", "content": text}], opened.path)
    context = opened.manifest["max_positions"]
    room = min(context - len(given.ids), max_new_tokens)
    if room < 1:
        raise UsageError(f"the prompt has {len(given.ids)} tokens, the model's context {context}: shorten it")
    stops = stop_ids(opened.path) | given.stops
    counter = Counter() if backend == "reference" and (count or stats is not None) else None
    runner: _Backend
    if backend == "reference":
        runner = _Reference(opened, device, counter, len(given.ids) + room)
    elif backend in ("stock", "loihi2"):
        runner = StockModel(opened, "cpu" if backend == "stock" else backend, timeout)
    else:
        from kirin_lava.processes.model import LavaModel

        runner = LavaModel(opened.model(), len(given.ids) + room, timeout)
    emit = on_text or (lambda piece: None)
    sampler = Sampler(sampling, given.ids)
    writer = Writer(tokenizer, given.ids, not show_special)
    tokens: list[int] = []
    if given.shown or show_special:
        emit(tokenizer.decode(given.ids, skip_special_tokens=not show_special))
    start = time.monotonic()
    try:
        logits = runner.step(torch.tensor(given.ids, dtype=torch.int64))
        prompt_seconds = time.monotonic() - start
        while True:
            token = sampler(logits)
            if token in stops:
                break
            tokens.append(token)
            if piece := writer.write(token):
                emit(piece)
            if len(tokens) == room:
                break
            logits = runner.step(torch.tensor([token]))
    finally:
        runner.close()
    counts = None if counter is None else counter.to_dict()
    seconds = time.monotonic() - start
    unwritten = None if stats is None else _write(stats, counts)
    whole = tokenizer.decode(tokens, skip_special_tokens=not show_special)
    host_fires = runner.host_fires if isinstance(runner, StockModel) else ()
    return Generation(backend, len(given.ids), tokens, whole, seconds, prompt_seconds, counts, host_fires, unwritten)


def _write(stats: Path, counts: dict[str, Any] | None) -> str | None:
    """Why the counts could not be written."""
    try:
        with disk_errors(stats):
            save_json(stats, counts)
    except UsageError as error:
        return str(error)
    return None
