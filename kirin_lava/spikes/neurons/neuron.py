"""What a neuron is: what becomes of the membrane that a window of weighted payloads has left behind.

Every neuron here sums payloads over a window into a membrane `v = sum_k w[n, k] q[k]` (see `kirin_lava.spikes.codes.code`).
What it does then is written three times, by independent means, and compared: `reference`, on tensors, for the integer executor;
`closed`, on NumPy integers, from the definition; `stepped`, one time step after the other, which is also what the native Lava
process runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.spikes.codes import Integers, SpikeCode
from kirin_lava.spikes.neurons.two_state import TwoState
from kirin_lava.spikes.stock.layer import StockLayer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Int64", "Neuron", "check_state"]

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Neuron(ABC):
    """One kind of neuron with its parameters. Kinds are in `kirin_lava.spikes.neurons.NEURONS`.

    Array fields are one number per neuron, (N,) int64; they and plain fields are all that a file holds of it.

    Attributes:
        name: in files. state_words: 24-bit words that a core keeps per neuron.
        states_touched: how many of them every step reads and writes: u and v.
        every_step: whether it sends a sum in every step, which the host weights with the kernel of the code and adds, instead
            of one at the window's end.
    """

    name: ClassVar[str]
    state_words: ClassVar[int]
    states_touched: ClassVar[int] = 2
    every_step: ClassVar[bool] = False

    @property
    def fires(self) -> SpikeCode | None:
        """Code of its spikes; None where its membrane is read out."""
        return None

    @property
    def shift(self) -> int:
        """f, where synapses hold `2^f * weight`."""
        return 0

    @abstractmethod
    def reference(self, sums: Tensor, name: str) -> Tensor:
        """What becomes of exact sums (..., N) `sum_k w q`, without shift: sums, or codes q in float32.

        Raises:
            FitError: a membrane beyond the 24-bit state; `name` is the segment.
        """

    @abstractmethod
    def closed(self, sums: Integers) -> Int64:
        """The same for sums (..., N), from the definition."""

    @abstractmethod
    def stepped(
        self,
        shape: tuple[int, ...],
        period: int,
        gains: tuple[int, ...],
        constant: Integers | int = 0,
        u: Int64 | None = None,
        v: Int64 | None = None,
    ) -> TwoState:
        """A layer (..., N) that lives step by step.

        Args:
            period: steps per window. gains: (period,) of the input's code.
            constant: (N,) taken off the membrane, `2^shift * zero * sum_k w[n, k]`.
            u, v: state to work on, or None for a new one.

        Raises:
            FitError: a period that is too short.
        """

    @abstractmethod
    def process(self, shape: tuple[int, ...], period: int, gains: tuple[int, ...], constant: Integers | int = 0) -> Any:
        """Its native Lava process; arguments as for `stepped`. Imports Lava."""

    @abstractmethod
    def stock(
        self, name: str, weight: npt.NDArray[np.int8], code: SpikeCode, codes: Integers | None, peak: Integers | None
    ) -> StockLayer:
        """Its form in unmodified netx.

        Args:
            name: of the segment. weight: (N, K). code: of the inputs.
            codes: (windows, K) codes on which ranges are measured. peak: (N,) largest |v| seen elsewhere.

        Raises:
            FitError: stock neurons cannot hold it; the message says why. A segment is then read out and the host fires.
        """

    def reads(self, code: SpikeCode) -> bool:
        """Whether it makes the right sums of a code."""
        return True

    def counts(self, code: SpikeCode, period: int) -> tuple[int, ...]:
        """(period,) what each of its messages counts for whoever reads its membranes, by step of a window."""
        return code.weights(period) if self.every_step else (*(0,) * (period - 1), 1)

    def reach(self, code: SpikeCode, weights: int) -> int:
        """What its sum can reach with inputs whose weights sum to `weights` in magnitude, without shift."""
        return weights * code.largest

    def lift(self) -> Int64 | int:
        """What is put on the membrane `2^shift * v` before it is looked at, (N,) or one for all."""
        return 0

    def top(self) -> Int64 | None:
        """Highest threshold, (N,); None where there is none."""
        return None

    def work(self, histogram: npt.NDArray[np.int64]) -> tuple[int, int]:
        """Comparisons with thresholds, and falls of thresholds, of neurons whose codes are distributed like this.

        Args:
            histogram: how often each code from `fires.code_min` to `fires.code_max` was fired.
        """
        return 0, 0

    def most_work(self) -> tuple[int, int]:
        """The same for one neuron in one window, as if it fired in the last step."""
        return 0, 0

    def problem(self, neurons: int) -> str | None:
        """What is wrong with parameters that may come from a file, None where nothing is."""
        return None


def check_state(v: Tensor, name: str) -> None:
    """Raise `FitError` where a membrane does not fit the 24-bit state."""
    largest = max(abs(float(end)) for end in v.aminmax()) if v.numel() else 0.0
    if largest > STATE_MAX:
        raise FitError(
            f"{name}: a membrane reaches {largest:.0f}, beyond the 24-bit state ({STATE_MAX}); "
            "split the fan-in, lower the shift of the segment or choose a recipe with narrower messages"
        )
