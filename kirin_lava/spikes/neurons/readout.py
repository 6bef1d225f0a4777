"""The neuron whose membrane is read out as an integer at the end of every window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from kirin_lava.base.loihi2 import READ_STATES
from kirin_lava.spikes.codes import Integers, SpikeCode
from kirin_lava.spikes.neurons.neuron import Int64, Neuron
from kirin_lava.spikes.neurons.two_state import TwoState
from kirin_lava.spikes.stock.layer import StockLayer, read_layer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["READ_OUT", "ReadOut"]


@dataclass(frozen=True)
class ReadOut(Neuron):
    """v itself. The silence threshold is never lifted: the host asks at the window's end."""

    name: ClassVar[str] = "read out"
    state_words: ClassVar[int] = READ_STATES

    def reference(self, sums: Tensor, name: str) -> Tensor:
        """The sums; the executor has checked their range."""
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
        return TwoState(shape, period, gains, constant, u, v)

    def process(self, shape: tuple[int, ...], period: int, gains: tuple[int, ...], constant: Integers | int = 0) -> Any:
        """`SilenceNeuron` without a fire phase."""
        from kirin_lava.spikes.neurons.silence.process import SilenceNeuron

        return SilenceNeuron(shape=shape, period=period, constant=constant, gains=gains)

    def stock(
        self, name: str, weight: npt.NDArray[np.int8], code: SpikeCode, codes: Integers | None, peak: Integers | None
    ) -> StockLayer:
        """Sigma neurons, see `kirin_lava.spikes.stock.layer`."""
        return read_layer(name, weight, code, codes)


READ_OUT = ReadOut()
