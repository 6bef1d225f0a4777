"""Outlier budget: one share of outliers for the whole decoder, spent where it buys most.

Each site (the input of a segment, queries, probabilities) is coded alone in the float model, at several ratios, and its
divergence from the float original is measured on calibration text. Divergences of sites add up well while they are small, so
the budget goes, step by step, to the site whose next ratio takes off most divergence per outlier. Sites are kinds ("mlp.down"
of all blocks): few enough to measure, and a recipe that a user can read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.methods.recipe import Recipe
from kirin_lava.methods.site import Coding
from kirin_lava.models import float_model
from kirin_lava.models.checkpoint import Checkpoint
from kirin_lava.models.float_model import Arithmetic
from kirin_lava.models.layout import Attention, Dense
from kirin_lava.quantize.convert import rotary_of
from kirin_lava.quantize.sites import Coded, Sites

__all__ = ["Curve", "search_budget", "spend"]

RATIOS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25)  # spikes stay the rule: no site gets more
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Curve:
    """One site: codes per token over all blocks (at the context of the measured rows), and per ratio its divergence in nats and
    the share of its codes that really are outliers."""

    site: str
    elements: float
    ratios: tuple[float, ...]
    divergence: tuple[float, ...]
    share: tuple[float, ...]


class _OneSite(Coded):
    """The float model with one site coded; counts its codes and messages."""

    def __init__(self, sites: Sites, kind: str, ratio: float, counts: list[int]):
        super().__init__(sites)
        self._kind, self._ratio, self._counts = kind, ratio, counts

    def coding(self, op: Dense | Attention, side: str) -> Coding | None:
        coding = self.sites.coding(op, side)
        if self.sites.site(op, side).kind != self._kind:
            return None
        return Coding(coding.code, replace(coding.rule, ratio=self._ratio), coding.name)  # type: ignore[call-arg]

    def sent(self, op: Dense | Attention, side: str, x: Tensor) -> Tensor:
        coding = self.coding(op, side)
        if coding is None or (side == "input" and op.name in self.sites.sources):
            return x
        codes = coding.codes(x)
        rows = x.shape[0] * x.shape[1] * (x.shape[2] * (x.shape[2] + 1) // 2)
        self._counts[0] += rows if side == "p" else x.numel()
        self._counts[1] += int(coding.code.is_message(codes.q).sum())
        return codes.values() if side == "p" else codes.q * codes.step


@torch.inference_mode()
def search_budget(checkpoint: Checkpoint, rows: list[Tensor], recipe: Recipe, report: Report | None = None) -> list[Curve]:
    """Measure every site of a model.

    Args:
        rows: calibration sequences (L,), all of one length.
    """
    ids = torch.stack(rows)
    family, config = checkpoint.family, checkpoint.config
    embedding = family.embedding(config, checkpoint.load)
    blocks = [family.block(config, i, checkpoint.load) for i in range(checkpoint.dimensions.layers)]
    head = family.head(config, checkpoint.load)
    rotary = rotary_of(checkpoint)
    coded = [Sites(block, recipe) for block in blocks]

    def logits(arithmetic: Callable[[Sites], Arithmetic]) -> Tensor:
        x = float_model.embed(embedding, ids)
        for block in coded:
            x = float_model.run_block(block.block, x, rotary, arithmetic=arithmetic(block))
        return float_model.run_block(head, x, rotary).log_softmax(-1)

    exact = logits(lambda sites: float_model.FLOAT)
    curves = []
    sites = _searched(coded[0])
    for index, site in enumerate(sites):
        divergence, share, elements = [], [], 0.0
        for step, ratio in enumerate(RATIOS):
            if report is not None:
                report(f"measure {site}", index * len(RATIOS) + step, len(sites) * len(RATIOS))
            counts = [0, 0]
            found = logits(lambda block, site=site, ratio=ratio, counts=counts: _OneSite(block, site, ratio, counts))  # type: ignore[misc]
            divergence.append(float((exact.exp() * (exact - found)).sum(-1).mean()))
            share.append(counts[1] / counts[0])
            elements = counts[0] / ids.numel()
        curves.append(Curve(site, elements, RATIOS, tuple(divergence), tuple(share)))
    return curves


def spend(curves: list[Curve], budget: float) -> dict[str, float]:
    """Ratio by site, such that at most `budget` of all codes are outliers.

    Raises:
        UsageError: a budget below what the smallest ratios take.
    """
    total = sum(curve.elements for curve in curves)
    level = dict.fromkeys((curve.site for curve in curves), 0)
    spent = sum(curve.elements * curve.share[0] for curve in curves)
    if spent > budget * total:
        raise UsageError(f"a budget of {budget:g} is below the {spent / total:.3f} that the smallest ratios take: raise it")
    while True:
        best: tuple[float, str, int, float] | None = None
        for curve in curves:
            now = level[curve.site]
            for following in range(now + 1, len(curve.ratios)):
                cost = curve.elements * (curve.share[following] - curve.share[now])
                gain = curve.divergence[now] - curve.divergence[following]
                if spent + cost <= budget * total and gain > 0 and (best is None or gain / max(cost, 1e-9) > best[0]):
                    best = gain / max(cost, 1e-9), curve.site, following, cost
        if best is None:
            return {curve.site: curve.ratios[level[curve.site]] for curve in curves}
        level[best[1]] = best[2]
        spent += best[3]


def _searched(sites: Sites) -> list[str]:
    """Kinds of sites whose rule takes a share of messages; `UsageError` where the method has none."""
    found = [(op, "input") for op in sites.block.denses() if op.name not in sites.sources]
    found += [(op, side) for op in sites.block.ops if isinstance(op, Attention) for side in "qp"]  # type: ignore[misc]
    codings = [(sites.site(op, side).kind, sites.coding(op, side)) for op, side in found]
    kinds = [kind for kind, coding in codings if hasattr(coding.rule, "ratio") and coding.code.has_spikes]
    if not kinds:
        raise UsageError(f"{sites.recipe.method.title} has no share of messages to spend: use a recipe of another method")
    return kinds
