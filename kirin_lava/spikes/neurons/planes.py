"""Neurons that read bit planes: one sends the sum of every plane on its own, the other doubles its membrane before each.

plane by plane    send a, what arrives in a step; the host adds kernel[t] * a over the window, in 64 bits
doubling          v = 2 v + a; send v at the window's end                where the whole sum fits the 24-bit state
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import FitError
from kirin_lava.spikes.codes import Integers, SpikeCode
from kirin_lava.spikes.neurons.neuron import Int64, Neuron
from kirin_lava.spikes.neurons.two_state import TwoState
from kirin_lava.spikes.stock.layer import StockLayer, read_layer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DOUBLING", "PLANE_BY_PLANE", "Doubling", "PlaneByPlane"]


def _kernel(gains: Sequence[int]) -> tuple[int, ...]:
    """What a payload counts in each step, from what a running sum counts."""
    return tuple(accumulate(reversed(gains)))[::-1]


class _PlaneLayer(TwoState):
    """Sends what arrives. u is that of the last step."""

    def step(self, current: Integers) -> Int64:
        """See `TwoState`: (..., N), the sum of the step."""
        self.u[...] = current
        self._guard(self.u)
        self._step += 1
        return self.u.copy()

    def collect(self, trace: list[Int64]) -> Int64:
        """See `TwoState`: what the host makes of the sums."""
        weights = _kernel(self._gains)
        windows = [trace[start : start + self._period] for start in range(0, len(trace), self._period)]
        return np.stack([sum(w * a for w, a in zip(weights, each, strict=True)) for each in windows], axis=-2)


class _DoublingLayer(TwoState):
    """v alone."""

    def step(self, current: Integers) -> Int64:
        """See `TwoState`."""
        self.v *= 2
        self.v += current
        self._guard(self.v)
        out = np.zeros_like(self.v)
        self._step += 1
        if self._step % self._period == 0:
            out[...] = self.v
            self.v[...] = 0
        return out


@dataclass(frozen=True)
class _Reader(Neuron):
    state_words: ClassVar[int] = 1
    states_touched: ClassVar[int] = 1
    _layer: ClassVar[type[TwoState]]

    def reference(self, sums: Tensor, name: str) -> Tensor:
        """The sums."""
        return sums

    def closed(self, sums: Integers) -> Int64:
        """The sums."""
        return sums.astype(np.int64)

    def stepped(
        self,
        shape: tuple[int, ...],
        period: int,
        gains: tuple[int, ...],
        constant: Integers | int = 0,
        u: Int64 | None = None,
        v: Int64 | None = None,
    ) -> TwoState:
        """See `Neuron`."""
        if np.any(constant):
            raise FitError(f"neurons that read {self.name} take codes without a zero point")
        return self._layer(shape, period, gains, constant, u, v)

    def process(self, shape: tuple[int, ...], period: int, gains: tuple[int, ...], constant: Integers | int = 0) -> Any:
        """`SilenceNeuron`, which lives as `stepped` does."""
        from kirin_lava.spikes.neurons.silence.process import SilenceNeuron

        return SilenceNeuron(shape=shape, period=period, constant=constant, fire=self, gains=gains)

    def stock(
        self, name: str, weight: npt.NDArray[np.int8], code: SpikeCode, codes: Integers | None, peak: Integers | None
    ) -> StockLayer:
        """Sigma neurons, see `kirin_lava.spikes.stock.layer`."""
        return read_layer(name, weight, code, codes)

    def reads(self, code: SpikeCode) -> bool:
        """See `Neuron`."""
        return code.by_plane


@dataclass(frozen=True)
class PlaneByPlane(_Reader):
    """Sends the sum of every step."""

    name: ClassVar[str] = "plane by plane"
    every_step: ClassVar[bool] = True
    _layer: ClassVar[type[TwoState]] = _PlaneLayer

    def reach(self, code: SpikeCode, weights: int) -> int:
        """See `Neuron`: of one step."""
        return weights * max(map(abs, code.step_span))


@dataclass(frozen=True)
class Doubling(_Reader):
    """Doubles its membrane in every step."""

    name: ClassVar[str] = "doubling"
    _layer: ClassVar[type[TwoState]] = _DoublingLayer


PLANE_BY_PLANE, DOUBLING = PlaneByPlane(), Doubling()
