"""Which channels of a value get finer steps: the most salient ones on calibration text, chosen once and for all.

The float layer is run as it is; every site whose method selects channels there sums what the method says of them, over all
tokens, in float64 and in the order of the text.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from kirin_lava.methods.site import Site
from kirin_lava.models import float_model
from kirin_lava.models.float_model import Arithmetic
from kirin_lava.models.layout import Attention, Dense
from kirin_lava.quantize.sites import Sites
from kirin_lava.spikes.codes import Channels

__all__ = ["find_channels", "most_salient", "stand_in_channels"]

Rotary = tuple[Tensor, Tensor]


def _selected(sites: Sites) -> dict[str, tuple[Dense | Attention, str, int, float]]:
    """Sites where some channels are to get finer steps: name -> (operation, side, width, share of the channels)."""
    found: dict[str, tuple[Dense | Attention, str, int, float]] = {}
    for op in sites.block.ops:
        if isinstance(op, Dense) and op.name not in sites.sources:
            sides = {"input": op.weight.shape[1]}
        elif isinstance(op, Attention):
            sides = {"q": op.heads, "k": op.kv_heads, "v": op.kv_heads}
            sides = {side: heads * op.head_dim for side, heads in sides.items()}
        else:
            continue
        for side, width in sides.items():
            site = sites.site(op, side)
            share = sites.recipe.method.selects(site, sites.recipe.options)
            if share > 0:
                found[site.name] = op, side, width, share
    return found


def find_channels(sites: Sites, rows: list[Tensor], rotary: Rotary | None) -> None:
    """Fill in the channels of `sites.calibration`, from the inputs of the layer, each (1, L, width)."""
    wanted = _selected(sites)
    if not wanted:
        return
    watch = _Watch(sites, set(wanted))
    with torch.no_grad():
        for x in rows:
            float_model.run_block(sites.block, x, rotary, arithmetic=watch)
    for name, (_, _, _, share) in wanted.items():
        sites.calibration.channels[name] = most_salient(watch.sums[name], share)


def most_salient(saliency: Tensor, share: float) -> Channels:
    """`max(1, floor(share * width))` channels of the largest saliency (width,); of equal ones the first."""
    order = torch.sort(saliency, descending=True, stable=True).indices
    mask = torch.zeros(len(saliency), dtype=torch.bool)
    mask[order[: _count(share, len(saliency))]] = True
    return Channels.of(mask.numpy())


def stand_in_channels(sites: Sites) -> dict[str, Channels]:
    """Channels for a plan without a text: as many as there will be, the first of every value."""
    return {
        name: Channels(width, tuple(range(_count(share, width)))) for name, (_, _, width, share) in _selected(sites).items()
    }


def _count(share: float, width: int) -> int:
    return max(1, int(share * width))


class _Watch(Arithmetic):
    """The float model, which sums the saliency of channels as it goes."""

    watches_attention: ClassVar[bool] = True

    def __init__(self, sites: Sites, wanted: set[str]):
        self._sites, self._wanted = sites, wanted
        self.sums: dict[str, Tensor] = {}
        self._held: dict[str, Tensor] = {}

    def sent(self, op: Dense | Attention, side: str, x: Tensor) -> Tensor:
        """See `Arithmetic`: x as it is. Queries come before keys, values before probabilities."""
        if side == "input":
            assert isinstance(op, Dense)
            self._add(self._sites.site(op), x.flatten(0, -2), op.weight)
            return x
        assert isinstance(op, Attention)
        self._held[side] = x
        if side == "k":
            for row, queries in zip(x, self._held["q"], strict=True):
                self._add_heads(self._sites.site(op, "k"), row, queries)
        elif side == "p":
            for row, weights in zip(self._held["v"], x, strict=True):
                self._add_heads(self._sites.site(op, "v"), row, weights)
        return x

    def _add_heads(self, site: Site, rows: Tensor, partners: Tensor) -> None:
        """Cached rows (kv_heads, J, d), met by partners (H, L, d) or (H, L, J); a head of the cache meets several."""
        shared = len(partners) // len(rows)
        self._add(site, rows, partners.unflatten(0, (len(rows), shared)).flatten(1, 2))

    def _add(self, site: Site, x: Tensor, partner: Tensor) -> None:
        if site.name not in self._wanted:
            return
        found = self._sites.recipe.method.saliency(site, x, partner).sum(-2, dtype=torch.float64).flatten()
        self.sums[site.name] = self.sums.get(site.name, torch.zeros_like(found)) + found
