"""Ranges of sites: where a method codes by what a calibration text has shown, the float layer is run and watched there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from kirin_lava.methods.method import Seen
from kirin_lava.methods.site import Coding, Site
from kirin_lava.models import float_model
from kirin_lava.models.float_model import Arithmetic
from kirin_lava.models.layout import Attention, Dense, FloatBlock
from kirin_lava.quantize.sites import Sites

__all__ = ["measure", "stand_in_codings"]

Rotary = tuple[Tensor, Tensor]
_SAMPLE = 2**18
"""Values of a site that are kept, about."""


def measure(sites: Sites, rows: list[Tensor], rotary: Rotary | None) -> None:
    """Fill in the codings of `sites.calibration`, from the inputs of the layer, each (1, L, width)."""
    wanted = {site.name for _, _, site in _measured(sites)}
    if not wanted:
        return
    watch = _Watch(sites, wanted, sum(x.shape[1] for x in rows))
    block = _up_to_the_last(sites.block)
    with torch.no_grad():
        for x in rows:
            float_model.run_block(block, x, rotary, arithmetic=watch)
    method, options = sites.recipe.method, sites.recipe.options
    for op, side, site in _measured(sites):
        others = {
            other: found for other in "qkv" if (found := sites.calibration.codings.get(f"{site.block}.{op.name}.{other}"))
        }
        seen = Seen(watch.peaks[site.name], torch.cat(watch.samples[site.name]))
        sites.calibration.codings[site.name] = method.measured(site, options, seen, others if side == "p" else {})


def stand_in_codings(sites: Sites) -> dict[str, Coding]:
    """Codings for a plan without a text: as a method says without having seen one."""
    return {site.name: sites.coding(op, side) for op, side, site in _measured(sites)}


def _measured(sites: Sites) -> Iterator[tuple[Dense | Attention, str, Site]]:
    """Operations and their sides whose method measures there."""
    for op in sites.block.ops:
        sides = ("input",) if isinstance(op, Dense) else ("q", "k", "v", "p") if isinstance(op, Attention) else ()
        for side in sides:
            assert isinstance(op, (Dense, Attention))
            site = sites.site(op, side)
            if op.name not in sites.sources and sites.recipe.method.measures(site, sites.recipe.options):
                yield op, side, site


def _up_to_the_last(block: FloatBlock) -> FloatBlock:
    """The block up to the last operation that is watched, whose result nobody wants: a head has many outputs."""
    last = max(i for i, op in enumerate(block.ops) if isinstance(op, (Dense, Attention)))
    op = block.ops[last]
    if block.name == "head" and isinstance(op, Dense):
        op = replace(op, weight=op.weight[:1], bias=None)
    return replace(block, ops=(*block.ops[:last], op), output=op.output)


class _Watch(Arithmetic):
    """The float model, which keeps the peak and a sample of every site as it goes."""

    watches_attention: ClassVar[bool] = True

    def __init__(self, sites: Sites, wanted: set[str], tokens: int):
        self._sites, self._wanted, self._tokens = sites, wanted, tokens
        self.peaks: dict[str, float] = dict.fromkeys(wanted, 0.0)
        self.samples: dict[str, list[Tensor]] = {name: [] for name in wanted}

    def sent(self, op: Dense | Attention, side: str, x: Tensor) -> Tensor:
        """See `Arithmetic`: x as it is."""
        name = self._sites.site(op, side).name
        if name in self._wanted:
            values, tokens = x.flatten(), x.shape[-2]
            self.peaks[name] = max(self.peaks[name], float(values.abs().max()))
            share = max(1, len(values) * self._tokens // (tokens * _SAMPLE))
            self.samples[name].append(values[::share].clone())
        return x
