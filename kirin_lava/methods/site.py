"""Sites: the places of a decoder where a real value becomes a code, and how it is coded there."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.steps import Codes, StepRule

__all__ = ["Coding", "Site", "kind_of"]


def kind_of(site: str) -> str:
    """The site's name in all blocks: "attn.q" for "blocks.0.attn.q"."""
    return re.sub(r"^blocks\.\d+\.", "", site)


@dataclass(frozen=True)
class Site:
    """One place where a value is coded.

    Attributes:
        block: "blocks.0" or "head". op: the dense layer or the attention, "attn.qkv".
        side: "input" of a dense layer; "q", "k", "v" or "p" (probabilities) of an attention.
    """

    block: str
    op: str
    side: str = "input"

    @property
    def name(self) -> str:
        """As recipes name it in one block: "blocks.0.attn.qkv", "blocks.0.attn.p"."""
        return f"{self.block}.{self.op}" if self.side == "input" else f"{self.block}.{self.op}.{self.side}"

    @property
    def kind(self) -> str:
        """The same in all blocks: "attn.qkv", "attn.p"."""
        return kind_of(self.name)

    @property
    def in_head(self) -> bool:
        """Whether it belongs to the language-model head."""
        return self.block == "head"


@dataclass(frozen=True)
class Coding:
    """How a value is coded at a site: the code, and the rule by which its step is found."""

    code: SpikeCode
    rule: StepRule
    name: str = field(default="", compare=False)

    @torch.no_grad()
    def codes(self, x: Tensor, causal: bool = True) -> Codes:
        """Codes of (..., W) with a step for every row, or of (B, H, L, J) rows of probabilities; causal ones are 0
        beyond the token's own position."""
        groups = x.shape[1] if self.rule.by_row else 1
        return self.rule.encode(self.code, x.detach(), groups, 0 if causal else None, self.name, True)

    def sent(self, x: Tensor, causal: bool = True) -> Tensor:
        """What the codes of x stand for, in its shape."""
        found = self.codes(x, causal)
        return self.rule.values(self.code, found)
