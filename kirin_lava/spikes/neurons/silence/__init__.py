"""The silence-threshold neuron: silent until every input of its window has arrived, then one spike whose time is its code.

While the window lasts the threshold is infinite. Then it falls by one ramp D per step, `k * D - D // 2` for k = T-1 down to 1,
and the step in which the membrane `m = 2^shift * v + offset` meets it is the output code. Source: Kirin, arXiv 2602.08817.

Unsigned and offset codes (T levels):     `q = clip((m + zero * D + D // 2) // D, 0, T - 1) - zero`
Signed codes (a ladder for each sign):    `q = sign(m) * min((|m| + D // 2) // D, T - 1)`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.loihi2 import FIRE_STATES
from kirin_lava.spikes.codes import Integers, SpikeCode
from kirin_lava.spikes.neurons.neuron import Int64, Neuron, check_state
from kirin_lava.spikes.neurons.silence.ladder import Ladder
from kirin_lava.spikes.neurons.silence.stepped import SteppedSilence
from kirin_lava.spikes.neurons.silence.stock import fire_layer
from kirin_lava.spikes.stock.layer import StockLayer

__all__ = ["Silence"]


@dataclass(frozen=True, eq=False)
class Silence(Ladder, Neuron):
    """See the module, and `Ladder` for its parameters. Its codes have a step of 1: what they stand for is folded into the
    weights that read them."""

    name: ClassVar[str] = "silence"
    state_words: ClassVar[int] = FIRE_STATES

    @property
    def fires(self) -> SpikeCode:
        """See `Neuron`."""
        return self.code

    @property
    def shift(self) -> int:
        """See `Neuron`."""
        return self.exponent

    def reference(self, sums: Tensor, name: str) -> Tensor:
        """By division, in float64, which holds all of it exactly; a quotient of integers this small cannot round up to the
        next."""
        ramp, offset = (torch.from_numpy(array).to(sums.device, torch.float64) for array in (self.ramp, self.offset))
        half = (ramp * 0.5).floor_()
        levels, zero = self.code.window - 1, self.code.zero
        m = (sums.double() * 2.0**self.exponent).add_(offset)
        check_state(m, name)
        if self.code.mirrored:
            q = m.abs().add_(half).div_(ramp).floor_().clamp_(max=levels).mul_(m.sign_())
        else:
            q = m.add_(ramp * zero + half).div_(ramp).floor_().clamp_(0, levels).sub_(zero)
        return q.to(torch.float32)

    def closed(self, sums: Integers) -> Int64:
        """By search in the falling thresholds: level T-1-j for the first threshold j = 0, 1, .. that is met, 0 for none."""
        m = sums.astype(np.int64) * 2**self.exponent + self.offset
        levels = np.arange(self.code.window - 1, -1, -1)  # the last, 0, stands for silence
        falling = levels * self.ramp[:, None] - self.ramp[:, None] // 2
        if self.code.mirrored:
            return np.sign(m) * _first_met(np.abs(m), falling, levels)
        return _first_met(m + self.code.zero * self.ramp, falling, levels) - self.code.zero

    def stepped(
        self,
        shape: tuple[int, ...],
        period: int,
        gains: tuple[int, ...],
        constant: Integers | int = 0,
        u: Int64 | None = None,
        v: Int64 | None = None,
    ) -> SteppedSilence:
        """See `Neuron`."""
        return SteppedSilence(self, shape, period, gains, constant, u, v)

    def process(self, shape: tuple[int, ...], period: int, gains: tuple[int, ...], constant: Integers | int = 0) -> Any:
        """`SilenceNeuron` with this fire phase."""
        from kirin_lava.spikes.neurons.silence.process import SilenceNeuron

        return SilenceNeuron(shape=shape, period=period, constant=constant, gains=gains, fire=self)

    def stock(
        self, name: str, weight: npt.NDArray[np.int8], code: SpikeCode, codes: Integers | None, peak: Integers | None
    ) -> StockLayer:
        """LIFReset neurons with control lines, see `kirin_lava.spikes.neurons.silence.stock`."""
        return fire_layer(self, name, weight, code, codes, peak)

    def work(self, histogram: npt.NDArray[np.int64]) -> tuple[int, int]:
        """Comparisons until the spike (levels T-1 down to the code, to 1 if silent; both signs of a mirrored ladder), and
        falls."""
        level = np.abs(np.arange(self.code.code_min, self.code.code_max + 1) + self.code.zero)
        met = self.code.window - np.maximum(level, 1)
        compared = int((histogram * met).sum())
        return compared * (2 if self.code.mirrored else 1), int((histogram * np.maximum(met - 1, 0)).sum())

    def most_work(self) -> tuple[int, int]:
        """As if none fired before the last step."""
        levels = self.code.window - 1
        return levels * (2 if self.code.mirrored else 1), levels - 1


def _first_met(m: Int64, falling: Int64, levels: Int64) -> Int64:
    met = m[..., None] >= falling
    met[..., -1] = True
    return levels[met.argmax(-1)]
