"""The membranes of a `Mix` whose positions are split: one sum for every `part` positions, which the host adds."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.ops import Mix
from kirin_lava.spikes.neurons.neuron import check_state

__all__ = ["check_parts", "sums_by_part"]


def sums_by_part(op: Mix, codes: Tensor, cached: Tensor) -> Tensor:
    """Exact sums (parts, B, L, H * d) in float64; their sum over the parts is the result of the operation.

    Args:
        codes: (B, H, L, J). cached: (B, kv_heads, J, d).
    """
    batch, heads, length, columns = codes.shape
    part = op.part or columns
    sums = []
    if op.window is not None and columns > op.window:
        return _by_place(op, codes, cached, op.window)
    for start in range(0, columns, part):
        few = slice(start, start + part)
        flat = codes[..., few].double().reshape(batch, op.kv_heads, -1, codes[..., few].shape[-1])
        product = (flat @ cached[:, :, few].double()).view(batch, heads, length, -1)
        sums.append(product.transpose(1, 2).flatten(2))
    return torch.stack(sums)


def _by_place(op: Mix, codes: Tensor, cached: Tensor, window: int) -> Tensor:
    """The same where position p takes the place of p - window; of these positions one has a code that is not 0."""
    place = torch.arange(codes.shape[-1], device=codes.device) % window
    part = op.part or window
    whole = replace(op, part=None, window=None)
    return torch.cat([sums_by_part(whole, codes * (place // part == i), cached) for i in range(-(-window // part))])


def check_parts(op: Mix, codes: Tensor, cached: Tensor, largest: int) -> None:
    """Raise `FitError` where a part leaves the 24-bit state; as `sums_by_part`, with the `largest` magnitude in the cache."""
    part = op.part or codes.shape[-1]
    if op.window is not None and codes.shape[-1] > op.window:
        check_state(sums_by_part(op, codes, cached), op.name)
        return
    padded = torch.nn.functional.pad(codes.abs(), (0, -codes.shape[-1] % part))
    if float(padded.unflatten(-1, (-1, part)).sum(-1).max()) * largest > STATE_MAX:
        check_state(sums_by_part(op, codes, cached), op.name)
