"""Asymmetric codes: the step of a token spans the whole row from its lowest to its highest value, and a zero point moves it.

    unit    u = (max(x, 0) - min(x, 0)) / (16 * 2^a - 1) over all channels of a row: all codes count in it
    code    c = clip(round(x / u) + z, 0, 16 * 2^a - 1),  z = round(-min(x, 0) / u)     of a fine channel
            c = clip(round(x / s) + z, 0, 15),  z = min(round(-min(x, 0) / s), 15)      of another, s = 2^a u
                                                                                        sent and kept as 2^a * c

so that x is about `(q - zero) * u`. The codes of fine channels reach from one end of the row to the other; ordinary ones, whose
step is a power of two of theirs, end less than a step below it. The row is that of a token, or of a head where there are
several groups. 0 is always within the span, so that zero points are codes. Rounding is half to even, every operation correctly
rounded.
Source: SpikeLLM, arXiv 2407.04752, which rounds both kinds of channels over the range of the whole row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.integers import divided, to_real
from kirin_lava.spikes.codes import Levels, Refined, SpikeCode
from kirin_lava.spikes.rule import SMALLEST_STEP, Codes, StepRule, check_finite
from kirin_lava.spikes.whole import as_codes

__all__ = ["LEVELS", "MinMax"]

LEVELS = 15
"""Codes of an ordinary channel reach from 0 to it."""
_MOST = 3


@dataclass(frozen=True)
class MinMax(StepRule):
    """See the module.

    Attributes:
        refinement: a, of the fine channels of the code.
        centred: whether the zero points are taken off the codes (`q = c - z`, for codes that are kept and not sent) or leave
            beside them, to be taken off the sums.
    """

    refinement: int = 0
    centred: bool = False

    @property
    def zero_points(self) -> int:
        """See `StepRule`: of the ordinary and of the fine channels."""
        return 0 if self.centred else 2

    def encode(self, code: SpikeCode, x: Tensor, groups: int, start: int | None, name: str, check: bool) -> Codes:
        """See `StepRule`. x may be heads (B, H, L, W / H) of a value, each row with a step of its own."""
        by_head = x.dim() == 4
        if groups != 1 and not self.centred:
            raise UsageError(f"{name}: zero points of {groups} groups have no place in one sum: use one group")
        grouped = x if groups == 1 else x.view(*x.shape[:-1], groups, -1)
        low, high = grouped.amin(-1, keepdim=True).clamp_max_(0.0), grouped.amax(-1, keepdim=True).clamp_min_(0.0)
        if check:
            check_finite(name, torch.maximum(-low, high))
        halvings = 2.0**self.refinement
        top, share = (LEVELS + 1) * halvings - 1, _SHARES[self.refinement]
        unit = (high * share - low * share).clamp_min_(SMALLEST_STEP)
        step = unit * halvings
        fine = self._fine(code, x, groups, by_head)
        coarse_zero, fine_zero = (low / step).round_().abs_().clamp_(max=LEVELS), (low / unit).round_().abs_().clamp_(max=top)
        coarse = ((grouped / step).round_() + coarse_zero).clamp_(0, LEVELS)
        finer = ((grouped / unit).round_() + fine_zero).clamp_(0, top)
        if self.centred:
            q = torch.where(fine, finer - fine_zero, (coarse - coarse_zero) * halvings)
            return Codes(q, unit) if groups == 1 else Codes(q.view(x.shape), unit.squeeze(-1))
        q = torch.where(fine, finer, coarse * halvings)
        return Codes(q, unit, zero=torch.cat([coarse_zero * halvings, fine_zero], -1))

    def integers(self, code: SpikeCode, x: Tensor, fraction: int, groups: int, start: int | None, name: str) -> Codes:
        """See `StepRule`; the unit is rounded up, so that the ends of a row stay within the codes."""
        if groups != 1 and not self.centred:
            raise UsageError(f"{name}: zero points of {groups} groups have no place in one sum: use one group")
        grouped = x if groups == 1 else x.view(*x.shape[:-1], groups, -1)
        bits, top = self.step_bits(code, fraction), (LEVELS + 1) * 2**self.refinement - 1
        low, high = grouped.amin(-1, keepdim=True).clamp_max(0), grouped.amax(-1, keepdim=True).clamp_min(0)
        unit = torch.div((high - low << bits) + (top - 1), top, rounding_mode="floor").clamp_min(1)
        step, scaled = unit << self.refinement, grouped << bits
        coarse_zero, fine_zero = divided(-low << bits, step).clamp_max(LEVELS), divided(-low << bits, unit).clamp_max(top)
        coarse = (divided(scaled, step) + coarse_zero).clamp(0, LEVELS)
        finer = (divided(scaled, unit) + fine_zero).clamp(0, top)
        real, fine = to_real(unit, fraction + bits).float(), self._fine(code, x, groups, by_head=False)
        if self.centred:
            q = torch.where(fine, finer - fine_zero, coarse - coarse_zero << self.refinement)
            return as_codes(q.view(x.shape), real if groups == 1 else real.squeeze(-1))
        q = torch.where(fine, finer, coarse << self.refinement)
        return as_codes(q, real, zero=torch.cat([coarse_zero << self.refinement, fine_zero], -1))

    def step_bits(self, code: SpikeCode, fraction: int) -> int:
        """See `StepRule`: the unit of the widest row, of 24 bits, has 24."""
        return ((LEVELS + 1) * 2**self.refinement - 1).bit_length() - 1

    def no_integers(self, code: SpikeCode) -> str | None:
        """It does."""
        return None

    def values(self, code: SpikeCode, found: Codes) -> Tensor:
        """See `StepRule`."""
        if found.zero is None:
            return found.q * found.step
        coarse, fine = found.zero.split(1, -1)
        return (found.q - torch.where(code.fine_like(found.q), fine, coarse)) * found.step

    def share(self, code: SpikeCode, width: int, groups: int) -> float:
        """No messages among spikes; all that is kept."""
        return 0.0 if code.has_spikes else 1.0

    def unfit(self, code: SpikeCode) -> str | None:
        """See `StepRule`: codes of another refinement, or that are kept where they should be sent."""
        kind = Refined if self.centred else Levels
        if isinstance(code, kind) and code.refinement == self.refinement:
            return None
        return f"asymmetric steps of refinement {self.refinement} do not give {code.name} codes"

    def problem(self, width: int) -> str | None:
        """A refinement that is none."""
        return None if 0 <= self.refinement <= _MOST else f"refinement {self.refinement} is not within 0 to {_MOST}"

    @staticmethod
    def _fine(code: SpikeCode, x: Tensor, groups: int, by_head: bool) -> Tensor:
        """Which channels are fine, in a shape that broadcasts over the grouped value."""
        heads = x.shape[1] if by_head else groups
        width = x.shape[-1] * (heads if by_head else 1)
        mask = torch.from_numpy(code.fine(width)).to(x.device)
        if by_head:
            return mask.view(heads, 1, -1)
        return mask if groups == 1 else mask.view(groups, -1)


_SHARES = tuple(torch.tensor(1.0 / ((LEVELS + 1) * 2**a - 1)) for a in range(_MOST + 1))
"""Of the span of a row that is a unit, by refinement."""
