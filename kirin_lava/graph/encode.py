"""Real values to codes: the step of a token, by the rank of its elements, and the codes themselves.

Every row (a token, a head of it, or a row of attention probabilities) gets its own step and is encoded on its own, with
operations whose bits are the same everywhere, see `kirin_lava.base.exact`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from kirin_lava.base.errors import FitError
from kirin_lava.base.exact import RankBound
from kirin_lava.graph.ops import Encode
from kirin_lava.spikes.codes.coding import Encoding

__all__ = ["Codes", "encode_at", "outlier_budget"]

_SMALLEST_STEP = 2.0**-120
_DIGITS, _DIGITS_CAUSAL = 3, 2
"""Binary digits, behind the first, of the largest magnitude that must be a spike: it is rounded up to them."""


@dataclass
class Codes:
    """Integer codes with their steps.

    Attributes:
        q: (B, L, W) codes in float32, or (B, H, L, J) for attention probabilities.
        step: (B, L, groups) float32.
        clipped: how many codes a static step had to clip.
    """

    q: Tensor
    step: Tensor
    clipped: int = 0


def outlier_budget(ratio: float, width: int) -> int:
    """How many elements of a row may be outliers: `max(1, floor(ratio * width))`, 0 for ratio 0."""
    return max(1, math.floor(ratio * width)) if ratio > 0 else 0


def encode_at(op: Encode, x: Tensor, start: int, check: bool) -> Codes:
    """As `host.encode`, at positions from `start` on; `check` False leaves it to the caller to look for NaN and infinity."""
    if op.causal:
        return _encode_causal(op, x, start, check)
    if op.static_step is not None:
        return _encode_static(op, x, op.static_step)
    grouped = x if op.groups == 1 else x.view(*x.shape[:-1], op.groups, -1)
    magnitude = grouped.abs()
    largest = magnitude.amax(-1, keepdim=True)
    if check:
        _check_finite(op, largest)
    limit = None
    if op.encoding.has_spikes:
        limit = _limit(op, _spike_magnitude(op.encoding, grouped, magnitude), largest)
    step = _step(op.encoding, limit, largest)
    q = (grouped / step).round_()
    return Codes(q, step) if op.groups == 1 else Codes(q.view(x.shape), step.squeeze(-1))


def _spike_magnitude(enc: Encoding, x: Tensor, magnitude: Tensor) -> Tensor:
    """|x|, and in proportion less of negative numbers where negative spikes reach further than positive ones."""
    shrink = _steps_of(enc).of_negative
    return magnitude if shrink is None else torch.maximum(x, x * shrink)


def _limit(op: Encode, magnitude: Tensor, largest: Tensor) -> Tensor:
    """The largest magnitude (..., 1) that must be a spike; `largest` is at least the largest magnitude of the row."""
    width = magnitude.shape[-1]
    if op.channels is not None:
        normal = torch.from_numpy(~op.channels).to(magnitude.device)
        return (magnitude * (normal if op.groups == 1 else normal.view(op.groups, width))).amax(-1, keepdim=True)
    budget = outlier_budget(op.ratio, width)
    if budget == 0:
        return magnitude.amax(-1, keepdim=True)
    return _steps_of(op.encoding).bound(magnitude, largest, budget)


def _encode_static(op: Encode, x: Tensor, static_step: float) -> Codes:
    step = torch.full((*x.shape[:-1], 1), static_step, dtype=torch.float32, device=x.device)
    q = (x / step).round_()
    _check_finite(op, q.abs())
    inside = q.clamp(op.encoding.code_min, op.encoding.code_max)
    return Codes(inside, step, int((inside != q).sum()))


def _encode_causal(op: Encode, x: Tensor, start: int, check: bool) -> Codes:
    """Rows of attention probabilities (B, H, L, J), zero beyond the token's own position; the budget grows with the row."""
    length = x.shape[2]
    largest = x.amax(-1, keepdim=True)
    if check:
        _check_finite(op, largest)
    limit = largest
    if op.ratio > 0:
        single = length == 1
        budget = outlier_budget(op.ratio, start + 1) if single else _budgets(op.ratio, start, start + length, x.device)
        limit = _steps_of(op.encoding).causal_bound(x, largest, budget)
    if op.groups == 1:  # one step for all heads, so that it can ride to the output
        limit, largest = limit.amax(1, keepdim=True), largest.amax(1, keepdim=True)
    step = _step(op.encoding, limit, largest)
    return Codes((x / step).round_(), step.squeeze(-1).transpose(1, 2))


def _budgets(ratio: float, start: int, stop: int, device: torch.device) -> Tensor:
    """Budgets (L, 1) of rows at the positions from start to stop."""
    return _budget_table(ratio, 1 << stop.bit_length(), device)[start:stop]


@lru_cache(maxsize=32)
def _budget_table(ratio: float, positions: int, device: torch.device) -> Tensor:
    return torch.tensor([[outlier_budget(ratio, p + 1)] for p in range(positions)], dtype=torch.float32, device=device)


class _Steps(NamedTuple):
    """What turns magnitudes into steps: factors of the largest, of the largest that must be a spike and, where negative spikes
    reach further than positive ones, of negative numbers; and how the second is found."""

    of_largest: Tensor
    of_limit: Tensor
    of_negative: Tensor | None
    bound: RankBound
    causal_bound: RankBound


@cache
def _steps_of(enc: Encoding) -> _Steps:
    code, spike = enc.code_max + 0.49, enc.spike_max + 0.499
    bounds = (RankBound(spike / code, digits) for digits in (_DIGITS, _DIGITS_CAUSAL))
    further = enc.has_spikes and -enc.spike_min > enc.spike_max
    negative = torch.tensor(-spike / (0.499 - enc.spike_min)) if further else None
    return _Steps(torch.tensor(1.0 / code), torch.tensor(1.0 / spike), negative, *bounds)


def _step(enc: Encoding, limit: Tensor | None, largest: Tensor) -> Tensor:
    """Smallest step that keeps `limit` a spike and `largest` inside the codes; multiplied, because a GPU divides by a
    constant in another way than a CPU."""
    factors = _steps_of(enc)
    step = largest * factors.of_largest
    if limit is not None:
        step = torch.maximum(step, limit * factors.of_limit)
    return step.clamp_min_(_SMALLEST_STEP)


def _check_finite(op: Encode, magnitude: Tensor) -> None:
    if not math.isfinite(float(magnitude.max())):
        raise FitError(f"{op.name}: an activation is NaN or infinite; the checkpoint or the input is broken")
