"""Outlier budget: one share of outliers for the whole decoder, spent where it buys most.

Each site (the input of a segment, queries, probabilities) is quantised alone in the float twin, at several ratios, and its
divergence from the float original is measured on calibration text. Divergences of sites add up well while they are small, so
the budget goes, step by step, to the site whose next ratio takes off most divergence per outlier. Sites are kinds ("mlp.down"
of all blocks): few enough to measure, and a recipe that a user can read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.graph import host
from kirin_lava.graph.ops import Encode
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models import float_model as twin
from kirin_lava.models.checkpoint import Checkpoint
from kirin_lava.models.float_model import Arithmetic
from kirin_lava.models.layout import Attention, Dense, FloatBlock
from kirin_lava.quantize.calibrate import fires_into
from kirin_lava.quantize.convert import rotary_of
from kirin_lava.spikes.codes.coding import Encoding

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


class _OneSite(Arithmetic):
    """The float twin with one site quantised; counts its codes and outliers."""

    def __init__(self, site: str, ratio: float, recipe: Recipe, fed_by_spikes: set[str]):
        self._site, self._ratio, self._recipe, self._skip = site, ratio, recipe, fed_by_spikes
        self.elements = self.outliers = 0

    def _sent(self, x: Tensor, enc: Encoding, causal: bool = False) -> Tensor:
        encode = Encode("", "", "", enc, ratio=self._ratio, causal=causal, groups=x.shape[1] if causal else 1)
        codes = host.encode(encode, x, torch.arange(x.shape[-2]))
        step = codes.step.transpose(1, 2).unsqueeze(-1) if causal else codes.step
        self.outliers += int(((codes.q < enc.spike_min) | (codes.q > enc.spike_max)).sum())
        self.elements += x.shape[0] * x.shape[1] * (x.shape[2] * (x.shape[2] + 1) // 2) if causal else x.numel()
        return codes.q * step

    def dense(self, op: Dense, x: Tensor) -> Tensor:
        if op.name == self._site and op.name not in self._skip:
            x = self._sent(x, self._recipe.activations)
        return super().dense(op, x)

    def attention(self, op: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self._site == f"{op.name}.q":
            return super().attention(op, self._sent(q, self._recipe.activations), k, v)
        if self._site != f"{op.name}.p":
            return super().attention(op, q, k, v)
        repeat = op.heads // op.kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(-1, -2) * op.head_dim**-0.5).masked_fill(later, -torch.inf).softmax(-1)
        step = v.abs().amax(-1).clamp_min(1e-20) / 127  # the value's step is folded into the row, as in the network
        return self._sent(weights * step.unsqueeze(2), self._recipe.unsigned, causal=True) @ (v / step.unsqueeze(-1))


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
    fed = set(fires_into(blocks[0]).values())

    def logits(arithmetic: Arithmetic) -> Tensor:
        x = twin.embed(embedding, ids)
        for block in blocks:
            x = twin.run_block(block, x, rotary, arithmetic=arithmetic)
        return twin.run_block(head, x, rotary).log_softmax(-1)

    exact = logits(twin.FLOAT)
    curves = []
    sites = _sites(blocks[0], fed)
    for index, site in enumerate(sites):
        divergence, share, elements = [], [], 0.0
        for step, ratio in enumerate(RATIOS):
            if report is not None:
                report(f"measure {site}", index * len(RATIOS) + step, len(sites) * len(RATIOS))
            arithmetic = _OneSite(site, ratio, recipe, fed)
            found = logits(arithmetic)
            divergence.append(float((exact.exp() * (exact - found)).sum(-1).mean()))
            share.append(arithmetic.outliers / arithmetic.elements)
            elements = arithmetic.elements / ids.numel()
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


def _sites(block: FloatBlock, fed: set[str]) -> list[str]:
    sites = [op.name for op in block.denses() if op.name not in fed]
    return sites + [f"{op.name}.{part}" for op in block.ops if isinstance(op, Attention) for part in "qp"]
