"""Kirin, arXiv 2602.08817: W4A(4&8), single spikes whose time is their value, integers for outliers, a silence threshold.

dense inputs             spikes inside the code's range, messages beyond; a step per token that leaves few of them
queries, probabilities   the same with messages of 8 bits; probabilities are never negative
keys and values          8-bit integers in a cache
head                     integers, as wide as messages
ReLU between two layers  neurons that fire: silent below 0, one spike above
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.loihi2 import STATE_MAX, WEIGHT_MAX, WEIGHT_MIN
from kirin_lava.methods.method import FiringDense, Method, Paper, Picture, check_site_names
from kirin_lava.methods.options import choice, ratio
from kirin_lava.methods.site import Coding, Site, kind_of
from kirin_lava.spikes.codes import (
    INTEGER8,
    MESSAGE_BITS,
    OFFSET,
    SIGNED,
    UNSIGNED8,
    UNSIGNED16,
    SpikeCode,
    integer,
    offset,
    signed,
)
from kirin_lava.spikes.neurons import Neuron, Silence
from kirin_lava.spikes.steps import RowBudget, TokenBudget

__all__ = ["KIRIN", "Kirin", "KirinOptions", "Outliers", "search_step"]

_MAX_SHIFT = 4
_WINDOWS = {"offset": (16,), "signed": (8, 16)}
_UNSIGNED = {8: UNSIGNED8, 16: UNSIGNED16}


@dataclass(frozen=True)
class Outliers:
    """Which activations travel as messages: the largest of each token.

    Attributes:
        ratio: share of the elements of a token, 0 to 0.5. bits: of a message, sign included: 8 (the paper's), 12 or 16.
        sites: another ratio for single sites: a segment's input ("attn.qkv", "mlp.down", ...), queries ("attn.q"), attention
            probabilities ("attn.p"), in all blocks or, with the block in front ("blocks.0.attn.q"), in one.
    """

    ratio: float = 0.1
    bits: int = 8
    sites: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ratio("outliers.ratio", self.ratio)
        choice("outliers.bits", self.bits, MESSAGE_BITS)
        for site, value in self.sites.items():
            ratio(f"outliers.sites.{site}", value)

    def of(self, site: str) -> float:
        """The ratio of one site, named with its block."""
        return self.sites.get(site, self.sites.get(kind_of(site), self.ratio))


@dataclass(frozen=True)
class KirinOptions:
    """How activations are coded.

    Attributes:
        encoding: "offset" (codes -8..7 as one spike in 16 steps, the paper's) or "signed" (a sign and the time).
        window: T; 16, or 8 of signed codes: codes below it in magnitude are spikes.
    """

    encoding: str = "offset"
    window: int = 16
    outliers: Outliers = Outliers()

    def __post_init__(self) -> None:
        choice("encoding", self.encoding, tuple(_WINDOWS))
        choice(f"window of {self.encoding} codes", self.window, _WINDOWS[self.encoding])


class Kirin(Method):
    """See the module."""

    name: ClassVar[str] = "kirin"
    title: ClassVar[str] = "Kirin"
    paper: ClassVar[Paper | None] = Paper("Kirin", "arXiv 2602.08817", energy_reduction=0.8466, step_reduction=0.9375)
    options: ClassVar[type[Any]] = KirinOptions
    trains: ClassVar[tuple[str, ...]] = ("none", "blocks", "distill")
    folder: ClassVar[Path | None] = Path(__file__).parent
    windows: ClassVar[Mapping[str, int]] = MappingProxyType(
        {"offset codes (the paper's)": OFFSET.window, "signed codes": SIGNED.window}
    )

    def activations(self, options: KirinOptions) -> SpikeCode:
        """Of dense inputs; of queries with messages of 8 bits, which lose nothing and whose products with keys fit 24 bits."""
        return self._signed(options, options.outliers.bits)

    def _signed(self, options: KirinOptions, bits: int) -> SpikeCode:
        return offset(bits) if options.encoding == "offset" else signed(options.window, bits)

    def _unsigned(self, options: KirinOptions) -> SpikeCode:
        """Of what is never negative: probabilities and the outputs of ReLU."""
        return _UNSIGNED[options.window]

    def coding(self, site: Site, options: KirinOptions) -> Coding:
        """See `Method`."""
        share = options.outliers.of(site.name)
        if site.in_head:
            return Coding(integer(options.outliers.bits), TokenBudget(), site.name)
        if site.side in ("k", "v"):
            return Coding(INTEGER8, TokenBudget(), site.name)
        if site.side == "p":
            return Coding(self._unsigned(options), RowBudget(share), site.name)
        bits = 8 if site.side == "q" else options.outliers.bits
        return Coding(self._signed(options, bits), TokenBudget(share), site.name)

    def fired(self, site: Site, options: KirinOptions) -> SpikeCode:
        """See `Method`."""
        return self._unsigned(options)

    def firing_code(self, site: Site, options: KirinOptions) -> SpikeCode:
        """Messages of 8 bits: with a fixed step all inputs may be messages, and the membrane must hold them."""
        return self._signed(options, 8)

    def input_step(self, site: Site, options: KirinOptions, sample: Tensor, peak: float) -> float:
        """The quantile that leaves as many messages as elsewhere, without clipping the peak."""
        code = self.firing_code(site, options)
        assert code.spike_codes is not None
        limit = float(torch.quantile(sample.abs().flatten()[: 2**24], 1 - options.outliers.of(site.name)))
        step = max(limit / (code.spike_codes[1] + 0.499), peak / (code.code_max + 0.49))
        return step if step > 0 else 1.0

    def output_steps(self, site: Site, options: KirinOptions, sample: Tensor) -> Tensor:
        """Of least squared error, see `search_step`."""
        return search_step(sample, self._unsigned(options))

    def neuron(self, dense: FiringDense, site: Site, options: KirinOptions) -> Neuron:
        """Ramp and offset of silence-threshold neurons, with the largest shift that synapses and membranes hold."""
        outputs = self._unsigned(options)
        reach = np.abs(dense.weight, dtype=np.int16).sum(1, dtype=np.int64) * dense.inputs.max_message
        lowest, highest = int(dense.weight.min()), int(dense.weight.max())
        for shift in range(_MAX_SHIFT, -1, -1):
            ramp = np.maximum(np.rint(2.0**shift * dense.steps / dense.unit), 1)
            offset = np.rint(2.0**shift * dense.bias / dense.unit)
            fits = lowest << shift >= WEIGHT_MIN and highest << shift <= WEIGHT_MAX
            most = reach * 2**shift + np.abs(offset) + ramp * outputs.window
            if fits and most.max() <= STATE_MAX:
                return Silence(outputs, ramp.astype(np.int64), offset.astype(np.int64), shift)
        worst = int(most.argmax())
        raise FitError(
            f"{dense.name}: the membrane of neuron {worst} can reach {most[worst]:.0f}, beyond the 24-bit state ({STATE_MAX}); "
            "split its fan-in or use a recipe with fewer bits"
        )

    def check(self, options: KirinOptions, sites: Sequence[str], layers: int) -> None:
        """Sites of the outliers; the head takes integers alone."""
        known = [site for site in sites if not site.startswith("head.")]
        check_site_names(list(options.outliers.sites), known, layers, "outliers.sites")

    def setting(self, options: KirinOptions) -> str:
        """See `Method`."""
        code = self.activations(options)
        return f"A({code.spike_bits}&{code.message_bits})"

    def picture(self) -> Picture | None:
        """A window of a neuron with a silence threshold."""
        from kirin_lava.methods.kirin import picture

        return cast(Picture, picture)

    def facts(self, options: KirinOptions) -> dict[str, str]:
        """See `Method`."""
        code, outliers = self.activations(options), options.outliers
        others = ", ".join(f"{site}: {100 * share:g} %" for site, share in outliers.sites.items())
        exceptions = f" ({others})" if others else ""
        return {
            "activations": f"{code.name} codes, one spike in a window of {code.window} steps",
            "outliers": f"{outliers.bits}-bit messages, at most {100 * outliers.ratio:.1f} % of a token{exceptions}",
            "cached keys and values": "8 bits",
        }


def search_step(sample: Tensor, code: SpikeCode) -> Tensor:
    """Fixed steps of least squared error for spikes alone.

    Args:
        sample: (tokens, N) values; negative ones count as 0 where the code has no negative spikes.

    Returns:
        (N,) steps; 1 for a neuron that is never active.

    Raises:
        UsageError: a code without spikes.
    """
    if code.spike_codes is None:
        raise UsageError(f"{code.name} codes are no spikes")
    low, high = code.spike_codes
    if low >= 0:
        sample = sample.clamp_min(0)
    largest = sample.abs().amax(0)
    best = torch.full_like(largest, torch.inf)
    step = torch.ones_like(largest)
    for fraction in torch.linspace(0.25, 1.0, 31).tolist():
        candidate = torch.where(largest > 0, largest * (fraction / high), 1.0)
        sent = (sample / candidate).round_().clamp_(low, high) * candidate
        error = (sent - sample).square().sum(0)
        step = torch.where(error < best, candidate, step)
        best = torch.minimum(error, best)
    return step


KIRIN = Kirin()
