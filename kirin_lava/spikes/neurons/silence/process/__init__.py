"""SilenceNeuron: the two-state neuron with a silence threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from kirin_lava.spikes.codes import Integers
from kirin_lava.spikes.neurons.neuron import Neuron
from kirin_lava.spikes.neurons.two_state import Overflow, TwoState

__all__ = ["PySilenceNeuronModel", "SilenceNeuron", "overflow_of"]


class SilenceNeuron(AbstractProcess):
    """Layer of two-state neurons that stay silent until every input of their window has arrived.

    Per time step: u += a_in, v += gain * u, no leak. Window w of a neuron lies in the time steps w * period + 1 .. (w+1) *
    period, counted from 0: one step after its sources', because synapses delay by one. With the window's last step u and v
    return to 0, and the membrane, v - constant,

    - is sent as one graded message in that step, where fire is None, or
    - meets the falling thresholds of the fire phase while the next window passes: code c is a spike in step
      (w+2) * period - c.

    u and v are 24-bit states. They do not wrap: the first overflow is kept in the Var overflow and the state saturates.

    Parameters
    ----------
    shape : tuple(int)
        Number of neurons, (N,).

    period : int
        Time steps per window.

    constant : numpy.ndarray, optional
        Integers of shape (N,) taken off every membrane: what the zero point of offset input codes adds to it. Default is 0.

    fire : Neuron, optional
        The fire phase. Default is None: the membrane is read out.

    gains : tuple(int), optional
        What u counts in each step of a window, see SpikeCode.gains. Default is 1: an input counts its steps to the window's
        end.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        period: int,
        constant: Integers | int = 0,
        fire: Neuron | None = None,
        gains: tuple[int, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        gains = gains or (1,) * period
        stepped = TwoState if fire is None else fire.stepped
        stepped(shape, period, gains, constant)  # refuses a period that is too short
        super().__init__(period=period, stepped=stepped, gains=gains, **kwargs)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.u = Var(shape=shape, init=0)
        self.v = Var(shape=shape, init=0)
        self.constant = Var(shape=shape, init=np.broadcast_to(np.asarray(constant, np.int64), shape))
        self.overflow = Var(shape=(3,), init=np.array([-1, 0, 0]))


@implements(proc=SilenceNeuron, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySilenceNeuronModel(PyLoihiProcessModel):
    """SilenceNeuron on the CPU: the NumPy neuron, its state in the Vars u and v.

    overflow holds neuron, step and value of the first overflow, neuron -1 for none.
    """

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    u: np.ndarray = LavaPyType(np.ndarray, np.int64, precision=24)
    v: np.ndarray = LavaPyType(np.ndarray, np.int64, precision=24)
    constant: np.ndarray = LavaPyType(np.ndarray, np.int64, precision=24)
    overflow: np.ndarray = LavaPyType(np.ndarray, np.int64)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._period, self._gains = proc_params["period"], proc_params["gains"]
        self._stepped: Callable[..., TwoState] = proc_params["stepped"]
        self._neuron: TwoState | None = None

    def run_spk(self) -> None:
        """One step of the neuron; the first time step lies before its first window."""
        current = self.a_in.recv()
        if self._neuron is None:
            self._neuron = self._stepped(self.u.shape, self._period, self._gains, self.constant, self.u, self.v)
            self.s_out.send(np.zeros(self.u.shape, np.int32))
            return
        self.s_out.send(self._neuron.step(current).astype(np.int32))
        over = self._neuron.overflow
        if over is not None and self.overflow[0] < 0:
            self.overflow[:] = over.neuron, over.step, over.value


def overflow_of(neuron: SilenceNeuron) -> Overflow | None:
    """The first overflow of a neuron, read between runs."""
    index, step, value = (int(x) for x in neuron.overflow.get())
    return None if index < 0 else Overflow(index, step, value)
