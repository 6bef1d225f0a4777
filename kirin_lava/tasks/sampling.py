"""How the next token is drawn, with the meaning that these words have in transformers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError

__all__ = ["Sampler", "Sampling", "choose"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: logits are divided by it; 0 takes the most likely token.
        top_k: only so many of the most likely ones, and those that are as likely as the last of them; 0 for all.
        top_p: only the most likely ones that together are this likely; 1 for all. It looks at what top_k left.
        repetition_penalty: logits of tokens that came before, in the prompt too, are divided by it, negative ones multiplied;
            1 for none.
        seed: of what is drawn.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("temperature", self.temperature >= 0 and math.isfinite(self.temperature), "0 or more"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("top_p", 0 <= self.top_p <= 1, "from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0"),
        ):
            if not fits:
                raise UsageError(f"{name} is {getattr(self, name)}: give a number {wanted}")

    def scores(self, logits: Tensor) -> Tensor:
        """Logits (vocabulary,) as float64 scores at this temperature, the largest 0 and those left out -inf."""
        scaled = (logits.double() - logits.max().double()) / self.temperature  # the largest is 0, however cold it is
        if self.top_k:
            least = scaled.topk(min(self.top_k, len(scaled))).values[-1]
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        if self.top_p < 1:
            ordered, places = scaled.sort(descending=True, stable=True)
            likely = ordered.softmax(-1)
            before = likely.cumsum(-1) - likely
            out = before >= self.top_p
            out[0] = False
            scaled = scaled.masked_fill(out.new_zeros(len(out)).scatter(0, places, out), -torch.inf)
        return scaled


class Sampler:
    """Draws token after token, and knows which came before."""

    def __init__(self, sampling: Sampling, seen: Iterable[int] = ()) -> None:
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)
        self._seen = set(seen)

    def __call__(self, logits: Tensor) -> int:
        """The next token from logits (vocabulary,)."""
        penalty = self._sampling.repetition_penalty
        if penalty != 1 and self._seen:
            places = torch.tensor(sorted(self._seen))
            repeated = logits[places]
            logits = logits.index_copy(0, places, torch.where(repeated < 0, repeated * penalty, repeated / penalty))
        token = choose(logits, self._sampling, self._generator)
        self._seen.add(token)
        return token


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """A token from logits (vocabulary,)."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(sampling.scores(logits).softmax(-1), 1, generator=generator))
