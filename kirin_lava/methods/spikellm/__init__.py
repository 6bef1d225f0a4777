"""SpikeLLM, arXiv 2407.04752: multi-level spikes, more of them in the channels that matter most, in exact integers.

dense inputs             asymmetric codes of 4 bits, one graded spike; in fine channels of 4 + a bits, up to 2^a spikes
queries, probabilities   messages of 8 bits
keys and values          asymmetric codes of 4 bits, 5 in fine channels, in a cache; or integers of 8 bits
head                     integers of 8 bits

The fine channels of a value are chosen on calibration text, by the mean magnitude of `X o (X W^T W)`, and stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.methods.method import Method, Paper
from kirin_lava.methods.options import choice, ratio
from kirin_lava.methods.site import Coding, Site
from kirin_lava.spikes.codes import INTEGER8, LEVELS, REFINED, UNSIGNED_INTEGER8, Levels
from kirin_lava.spikes.codes.levels import ORDINARY_BITS
from kirin_lava.spikes.steps import MinMax, RowBudget, TokenBudget

__all__ = ["SPIKELLM", "SpikeLLM", "SpikeLLMOptions"]

_BY_STEPS = {code.window: code for code in LEVELS}


@dataclass(frozen=True)
class SpikeLLMOptions:
    """How activations are coded.

    Attributes:
        steps: T, most spikes of a fine channel: 2 (one bit more than the others) or 4 (two); 1 for no fine channels at all,
            which is the quantised network that the paper starts from.
        salient: share of the channels that are fine, more than 0 to 0.5; 0 where steps is 1.
        cached: bits of keys and values: 4, with one more in fine channels (the paper's), or 8 in all of them.
    """

    steps: int = 2
    salient: float = 0.1
    cached: int = 4

    def __post_init__(self) -> None:
        choice("steps", self.steps, tuple(_BY_STEPS))
        ratio("salient", self.salient)
        choice("cached", self.cached, (ORDINARY_BITS, 8))
        if (self.steps == 1) != (self.salient == 0):
            raise UsageError(
                f"recipe: steps {self.steps} with a salient share of {self.salient:g}: fine channels take 2 or 4 steps, without"
                " any there is 1 step and a share of 0"
            )


class SpikeLLM(Method):
    """See the module."""

    name: ClassVar[str] = "spikellm"
    title: ClassVar[str] = "SpikeLLM"
    paper: ClassVar[Paper | None] = Paper("SpikeLLM", "arXiv 2407.04752")
    options: ClassVar[type[Any]] = SpikeLLMOptions
    trains: ClassVar[tuple[str, ...]] = ("none", "blocks", "distill")
    folder: ClassVar[Path | None] = Path(__file__).parent
    windows: ClassVar[Mapping[str, int]] = MappingProxyType({"one step": 1, "one bit more": 2, "two bits more": 4})

    def activations(self, options: SpikeLLMOptions) -> Levels:
        """Of dense inputs."""
        return _BY_STEPS[options.steps]

    def coding(self, site: Site, options: SpikeLLMOptions) -> Coding:
        """See `Method`."""
        if site.in_head or site.side == "q" or (site.side in ("k", "v") and options.cached == 8):
            return Coding(INTEGER8, TokenBudget(), site.name)
        if site.side == "p":
            return Coding(UNSIGNED_INTEGER8, RowBudget(), site.name)
        if site.side in ("k", "v"):
            kept = REFINED[1 if options.salient else 0]
            return Coding(kept, MinMax(kept.refinement, centred=True), site.name)
        code = self.activations(options)
        return Coding(code, MinMax(code.refinement), site.name)

    def selects(self, site: Site, options: SpikeLLMOptions) -> float:
        """See `Method`: of dense inputs, and of keys and values with few bits."""
        alike = ("q", "p") if options.cached == ORDINARY_BITS else ("q", "k", "v", "p")
        return 0.0 if site.in_head or site.side in alike else options.salient

    def saliency(self, site: Site, x: Tensor, partner: Tensor) -> Tensor:
        """`|X o (X W^T W)|`; of keys with the queries for W, of values with the probabilities: `|V o (P^T P V)|`."""
        if site.side == "v":
            return (x * (partner.mT @ (partner @ x))).abs()
        return (x * (x @ partner.mT @ partner)).abs()

    def setting(self, options: SpikeLLMOptions) -> str:
        """See `Method`."""
        return f"A{ORDINARY_BITS}+{self.activations(options).refinement}" if options.salient else f"A{ORDINARY_BITS}"

    def facts(self, options: SpikeLLMOptions) -> dict[str, str]:
        """See `Method`."""
        code = self.activations(options)
        facts = {"activations": f"{code.name} codes: asymmetric, {ORDINARY_BITS} bits, one graded spike"}
        if options.salient:
            bits, steps = ORDINARY_BITS + code.refinement, options.steps
            facts["fine channels"] = f"{100 * options.salient:g} %, {bits} bits, up to {steps} graded spikes in {steps} steps"
        finer = f", {ORDINARY_BITS + 1} in fine channels" if options.salient and options.cached == ORDINARY_BITS else ""
        kept = f"{options.cached} bits{finer}"
        return facts | {"cached keys and values": kept, "queries, probabilities": "messages of 8 bits"}


SPIKELLM = SpikeLLM()
