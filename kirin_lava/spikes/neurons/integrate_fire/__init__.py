"""The integrate-and-fire neuron with a held membrane: it counts how often a threshold fits into T times its sum.

While a window lasts the membrane sums its inputs. At its end m = 2^exponent * v + offset is held for T steps, and in each

    x += m;    where x >= theta: fire, x -= theta                        from x = v0 on, 0 <= v0 < theta

so that the number of spikes is `clip((T m + v0) // theta, 0, T)`: with v0 = theta // 2 a round-half-up division of m by
`theta / T`, which is the clip-floor activation (QCFS) that the neuron stands for. Source: FAS, arXiv 2502.04405.

Why it is exact, for every m: where m < 0, x never rises and v0 < theta, so nothing fires. Where m >= theta, x >= m >= theta in
every step: T spikes. In between x stays in 0 .. theta - 1 after every step, so that all of `T m + v0` but a rest below theta
has been taken off. Only this last case has to fit: `x < 2 theta`, see `problem`. In the other two x may saturate at the ends of
its 24 bits without a spike more or less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import COUNT_STATES
from kirin_lava.spikes.codes import Integers, SpikeCode
from kirin_lava.spikes.neurons.integrate_fire.held import Held
from kirin_lava.spikes.neurons.integrate_fire.stepped import SteppedIntegrateFire
from kirin_lava.spikes.neurons.neuron import Int64, Neuron, check_state
from kirin_lava.spikes.stock.layer import StockLayer

__all__ = ["IntegrateFire"]


@dataclass(frozen=True, eq=False)
class IntegrateFire(Held, Neuron):
    """See the module, and `Held` for its parameters. A count of 1 stands for what is folded into the weights that read it."""

    name: ClassVar[str] = "integrate and fire"
    state_words: ClassVar[int] = COUNT_STATES

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
        theta, initial, offset = (
            torch.from_numpy(array).to(sums.device, torch.float64) for array in (self.theta, self.initial, self.offset)
        )
        m = (sums.double() * 2.0**self.exponent).add_(offset)
        check_state(m, name)
        steps = self.code.window
        return m.mul_(steps).add_(initial).div_(theta).floor_().clamp_(0, steps).to(torch.float32)

    def closed(self, sums: Integers) -> Int64:
        """By counting the multiples of the threshold, from the first to the T-th, that are met."""
        steps = self.code.window
        total = steps * (sums.astype(np.int64) * 2**self.exponent + self.offset) + self.initial
        multiples = self.theta[:, None] * np.arange(1, steps + 1)
        return (total[..., None] >= multiples).sum(-1, dtype=np.int64)

    def stepped(
        self,
        shape: tuple[int, ...],
        period: int,
        gains: tuple[int, ...],
        constant: Integers | int = 0,
        u: Int64 | None = None,
        v: Int64 | None = None,
    ) -> SteppedIntegrateFire:
        """See `Neuron`."""
        return SteppedIntegrateFire(self, shape, period, gains, constant, u, v)

    def process(self, shape: tuple[int, ...], period: int, gains: tuple[int, ...], constant: Integers | int = 0) -> Any:
        """`SilenceNeuron` with this fire phase."""
        from kirin_lava.spikes.neurons.silence.process import SilenceNeuron

        return SilenceNeuron(shape=shape, period=period, constant=constant, gains=gains, fire=self)

    def stock(
        self, name: str, weight: npt.NDArray[np.int8], code: SpikeCode, codes: Integers | None, peak: Integers | None
    ) -> StockLayer:
        """There is none."""
        raise FitError(
            f"{name}: the neurons of stock netx cannot subtract a threshold: LIF and LIFReset set v to 0 when they fire, and a"
            " Delta neuron sends all it has; read v out"
        )

    def lift(self) -> Int64:
        """See `Neuron`."""
        return self.offset

    def top(self) -> Int64:
        """See `Neuron`: what x can reach where its value matters."""
        return 2 * self.theta

    def work(self, histogram: npt.NDArray[np.int64]) -> tuple[int, int]:
        """A comparison in every step; additions of m in every step, and of minus theta with every spike."""
        steps, neurons = self.code.window, int(histogram.sum())
        spikes = int((histogram * np.arange(self.code.code_min, self.code.code_max + 1)).sum())
        return steps * neurons, steps * neurons + spikes

    def most_work(self) -> tuple[int, int]:
        """As if it fired in every step."""
        return self.code.window, 2 * self.code.window
