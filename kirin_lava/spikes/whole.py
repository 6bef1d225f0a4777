"""Steps and codes in integers alone: what step rules find of a token's integers where there is no host with floats.

    q = round(x * 2^k / s)      an exact quotient, rounded half up

x counts in units of 2^-fraction, below 2^23; the step s in units of 2^-(fraction + k), below 2^24. k is the most for which that
holds whatever comes (`spare_bits`). A step need not be near that of the float rule: it is the step, and codes follow from it.
Codes leave as `Codes`, their steps as float32 numbers, which hold such integers without error.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kirin_lava.base.errors import FitError
from kirin_lava.base.integers import bit_length, divided, to_real
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.rule import Codes

__all__ = [
    "CODE_SLACK",
    "REACH_UNITS",
    "SPIKE_SLACK",
    "STEP_LIMIT",
    "as_codes",
    "fixed_step",
    "row_steps",
    "spare_bits",
    "token_steps",
    "whole_codes",
]

STEP_LIMIT = 1 << 24
REACH_UNITS = 1000
"""Reaches of codes count in thousandths of a step."""
CODE_SLACK, SPIKE_SLACK = 490, 499
"""How far beyond the last code a value may lie, and beyond the last spike."""
_MARGIN = 1.6  # 2^24 / 2^23, less what rounding a bound up adds at most


def _reach(code: int, slack: int) -> int:
    """How far a code reaches, in thousandths: not quite to the middle between it and the next one."""
    return abs(code) * REACH_UNITS + slack


def spare_bits(code: SpikeCode) -> int:
    """k: binary digits of a step behind those of a value."""
    reach = code.code_max + CODE_SLACK / REACH_UNITS
    if code.spike_codes is not None:
        reach = min(reach, code.spike_codes[1] + SPIKE_SLACK / REACH_UNITS)
    return max(0, math.floor(math.log2(_MARGIN * reach)))


def whole_codes(x: Tensor, step: Tensor, bits: int, fraction: int, name: str) -> tuple[Tensor, Tensor]:
    """Codes (..., W) of integers and the steps (..., 1) as real numbers.

    Raises:
        FitError: a step beyond 24 bits.
    """
    if step.numel() and int(step.max()) >= STEP_LIMIT:
        raise beyond_step(int(step.max()), name)
    return divided(x << bits, step), to_real(step, fraction + bits).float()


def beyond_step(step: int, name: str) -> FitError:
    """The error of a step beyond 24 bits; `name` is the operation."""
    return FitError(
        f"{name}: a step of {step} does not fit 24 bits ({STEP_LIMIT}); use a recipe with wider messages, or `host: float`"
    )


def token_steps(code: SpikeCode, x: Tensor, allowed: int, digits: int, reach: int | None) -> Tensor:
    """Steps (..., 1) of rows (..., W), as `TokenBudget` has them: the smallest that leaves at most `allowed` messages and clips
    nothing, the largest magnitude that must be a spike being rounded up to `digits` binary digits behind the first."""
    bits, magnitude = spare_bits(code), x.abs()
    largest = magnitude.amax(-1, keepdim=True)
    step = _for_largest(code, largest, bits)
    if code.spike_codes is not None:
        low, high = code.spike_codes
        above, below = _reach(high, SPIKE_SLACK), _reach(low, SPIKE_SLACK)
        sided, unit = magnitude, above
        if -low > high:  # negative spikes reach further: a negative magnitude counts less
            sided, unit = magnitude * torch.where(x < 0, above, below), above * below
        bound = _ranked(sided, allowed)
        if allowed:
            bound = _rounded_up(bound, digits)
        step = torch.maximum(step, _quotient_up((bound << bits) * REACH_UNITS, unit))
    if reach is not None:
        width = x.shape[-1]
        sums = divided(x << bits, step).abs().sum(-1, keepdim=True)
        grown = _quotient_up(step * (2 * sums + width), 2 * reach - width)
        step = torch.where(sums > reach, grown, step)
    return step


def row_steps(code: SpikeCode, x: Tensor, allowed: Tensor, digits: int) -> Tensor:
    """Steps (B, H, L, 1) of rows (B, H, L, J) of numbers that are not negative, as `RowBudget` has them.

    Args:
        allowed: (L, 1) messages of each row.
    """
    bits = spare_bits(code)
    largest = x.amax(-1, keepdim=True)
    step = _for_largest(code, largest, bits)
    if code.spike_codes is None:
        return step
    most, columns = int(allowed.max()), x.shape[-1]
    ranked = torch.topk(x, min(most + 1, columns), -1).values
    rank = allowed.to(torch.int64).expand(*x.shape[:-1], 1)
    bound = ranked.gather(-1, rank.clamp_max(ranked.shape[-1] - 1))
    bound = torch.where(rank < columns, bound, 0)
    bound = torch.where(rank > 0, torch.minimum(_rounded_up(bound, digits), largest), bound)
    return torch.maximum(step, _quotient_up((bound << bits) * REACH_UNITS, _reach(code.spike_codes[1], SPIKE_SLACK)))


def fixed_step(step: float, fraction: int) -> tuple[int, int]:
    """A real step as an integer s of 24 bits in units of 2^-(fraction + k); returns s and k."""
    part, exponent = math.frexp(step)
    bits = 24 - exponent - fraction
    s = round(math.ldexp(part, 24))
    return (s, bits) if s < STEP_LIMIT else (s >> 1, bits - 1)


def as_codes(q: Tensor, step: Tensor, clipped: int = 0, zero: Tensor | None = None) -> Codes:
    """Codes as everybody takes them."""
    return Codes(q.float(), step, clipped, None if zero is None else zero.float())


def _for_largest(code: SpikeCode, largest: Tensor, bits: int) -> Tensor:
    return _quotient_up((largest << bits) * REACH_UNITS, _reach(code.code_max, CODE_SLACK)).clamp_min(1)


def _quotient_up(x: Tensor, y: int) -> Tensor:
    """`ceil(x / y)`, of x that is not negative."""
    return torch.div(x + (y - 1), y, rounding_mode="floor")


def _ranked(x: Tensor, rank: int) -> Tensor:
    """(..., 1) the largest number behind the first `rank` ones; 0 where there is none."""
    if rank == 0:
        return x.amax(-1, keepdim=True)
    if rank >= x.shape[-1]:
        return torch.zeros_like(x[..., :1])
    return torch.topk(x, rank + 1, -1).values[..., -1:]


def _rounded_up(x: Tensor, digits: int) -> Tensor:
    """The next number that has so many binary digits behind its first, not below x."""
    down = (bit_length(x) - 1 - digits).clamp_min(0)
    return ((x + (torch.ones_like(x) << down) - 1) >> down) << down
