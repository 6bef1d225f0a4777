"""Text from a converted model, token by token, on the integer executor or on Lava."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, require_place, save_json
from kirin_lava.base.readers import read_json
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.netx.model import StockModel
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.processes.runtime import require_backend

__all__ = ["Generation", "choose", "generate", "stop_ids"]


class _Backend(Protocol):
    """Logits (vocabulary,) of the token that follows, given the new tokens (L,)."""

    def step(self, tokens: Tensor) -> Tensor: ...

    def close(self) -> None: ...


class _Reference:
    """The integer executor with its cache."""

    def __init__(self, bundle: Bundle, device: str, counter: Counter):
        self._executor = Executor(bundle.model(), device, counter)
        self._cache = Cache()

    def step(self, tokens: Tensor) -> Tensor:
        return self._executor.forward(tokens.unsqueeze(0), self._cache, last_only=True)[0, -1].cpu()

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Generation:
    """What was generated.

    Attributes:
        tokens: new ids. text: their text. prompt_tokens: ids of the prompt.
        seconds: wall time of everything after loading.
        counts: spike counts of the run, JSON-able; None where the backend does not count.
        host_fires: segments whose fire phase the host computed, because stock neurons could not hold it.
        unwritten: why the counts are in no file though they were asked for.
    """

    backend: str
    prompt_tokens: int
    tokens: list[int]
    text: str
    seconds: float
    counts: dict[str, Any] | None
    host_fires: tuple[str, ...] = ()
    unwritten: str | None = None

    def summary(self) -> str:
        """One line for people."""
        rate = len(self.tokens) / self.seconds if self.seconds else 0.0
        line = f"{len(self.tokens)} tokens by the {self.backend} backend, {rate:.1f} tokens/s"
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
    prompt: str = "Once upon a time",
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    top_k: int = 0,
    seed: int = 0,
    backend: str = "reference",
    device: str = "cpu",
    stats: Path | None = None,
    timeout: float | None = None,
    on_text: Callable[[str], None] | None = None,
) -> Generation:
    """Continue a prompt.

    Args:
        temperature: 0 takes the most likely token; top_k: 0 draws from all tokens.
        backend: "reference"; "lava", our own Processes on Lava's CPU simulator; "stock", the `.net` files in unmodified
            lava-dl on that simulator; "loihi2", the same files on a board (see `kirin_lava.export.netx.live`).
        stats: JSON file for the spike counts.
        timeout: limit in seconds of each call to Lava.
        on_text: called with every new piece of text, the prompt first.

    Raises:
        BackendError: the backend is missing; before anything is loaded.
        UsageError: the prompt leaves no room in the model's context; `stats` cannot be written, as far as that shows before.
    """
    if backend != "reference":
        if stats is not None:
            raise UsageError("--stats counts on the reference backend, which computes the same spikes; use it there")
        require_backend("cpu" if backend in ("lava", "stock") else backend)
    if stats is not None:
        require_place(stats)
    opened = Bundle(bundle)
    opened.require_whole()
    tokenizer = load_tokenizer(opened.path)
    ids = torch.tensor(tokenizer(prompt).input_ids, dtype=torch.int64)
    if not len(ids):
        ids = torch.tensor([tokenizer.bos_token_id or 0])
    room = opened.manifest["max_positions"] - len(ids)
    if room < 1:
        context = opened.manifest["max_positions"]
        raise UsageError(f"the prompt has {len(ids)} tokens, the model's context {context}: shorten it")
    stops = stop_ids(opened.path)
    counter = Counter()
    runner: _Backend
    if backend == "reference":
        runner = _Reference(opened, device, counter)
    elif backend in ("stock", "loihi2"):
        runner = StockModel(opened, "cpu" if backend == "stock" else backend, timeout)
    else:
        from kirin_lava.processes.model import LavaModel

        capacity = len(ids) + min(max_new_tokens, room)
        runner = LavaModel(opened.model(), capacity, timeout)
    emit = on_text or (lambda piece: None)
    generator = torch.Generator().manual_seed(seed)
    tokens: list[int] = []
    shown = tokenizer.decode(ids, skip_special_tokens=True)
    emit(shown)
    start = time.monotonic()
    try:
        logits = runner.step(ids)
        while True:
            token = choose(logits, temperature, top_k, generator)
            if token in stops:
                break
            tokens.append(token)
            text = tokenizer.decode([*ids.tolist(), *tokens], skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # half a character
                emit(text[len(shown) :])
                shown = text
            if len(tokens) == min(max_new_tokens, room):
                break
            logits = runner.step(torch.tensor([token]))
    finally:
        runner.close()
    counts = counter.to_dict() if backend == "reference" else None
    seconds = time.monotonic() - start
    unwritten = None if stats is None else _write(stats, counts)
    whole = tokenizer.decode(tokens, skip_special_tokens=True)
    host_fires = runner.host_fires if isinstance(runner, StockModel) else ()
    return Generation(backend, len(ids), tokens, whole, seconds, counts, host_fires, unwritten)


def _write(stats: Path, counts: dict[str, Any] | None) -> str | None:
    """Why the counts could not be written."""
    try:
        with disk_errors(stats):
            save_json(stats, counts)
    except UsageError as error:
        return str(error)
    return None


def choose(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """The next token from logits (vocabulary,)."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits.double() - logits.max().double()) / temperature  # the largest is 0, however cold it is
    if top_k:
        least = scaled.topk(min(top_k, len(scaled))).values[-1]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    return int(torch.multinomial(scaled.softmax(-1), 1, generator=generator))


def stop_ids(folder: Path) -> set[int]:
    """End-of-text ids of the source's generation config, or of its config where that has none."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = read_json(path).get("eos_token_id") if path.is_file() else None
        ids = {i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
        if ids:
            return ids
    return set()
