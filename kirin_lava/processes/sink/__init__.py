"""Sinks that decode, keep and count what travels over a connection, independent of who sent it."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from kirin_lava.processes.shared import shared_zeros
from kirin_lava.spikes.codes import SpikeCode

__all__ = ["MembraneSink", "PyMembraneSinkModel", "PySpikeSinkModel", "SpikeSink"]


class SpikeSink(AbstractProcess):
    """Sums a connection's spikes and messages to the codes they stand for, window by window.

    Listens where a source sends: window w lies in the time steps w * period .. (w+1) * period - 1. A payload p in step t of the
    window counts kernel[t] * p, with the kernel of the code. The last windows are kept: number w in row w % windows.

    Parameters
    ----------
    shape : tuple(int)
        Number of channels, (K,).

    code : SpikeCode
        What is sent over the connection.

    period : int
        Time steps per window.

    windows : int
        How many windows are kept.

    Attributes
    ----------
    codes : numpy.ndarray
        (windows, K) int32 values c = q + zero.

    counts : numpy.ndarray
        (windows, 2) int64, the spikes and the messages of each window.
    """

    def __init__(self, *, shape: tuple[int, ...], code: SpikeCode, period: int, windows: int, **kwargs: Any) -> None:
        self.codes = shared_zeros((windows, *shape), np.int32)
        self.counts = shared_zeros((windows, 2), np.int64)
        super().__init__(weights=code.weights(period), codes=self.codes, counts=self.counts, **kwargs)
        self.s_in = InPort(shape=shape)
        self.a_in = InPort(shape=shape)


@implements(proc=SpikeSink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeSinkModel(PyLoihiProcessModel):
    """SpikeSink on the CPU."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=2)
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._weights = proc_params["weights"]
        self._codes, self._counts = proc_params["codes"], proc_params["counts"]

    def run_spk(self) -> None:
        """Add one step to its window."""
        window, t = divmod(self.time_step - 1, len(self._weights))
        row = window % len(self._codes)
        if t == 0:
            self._codes[row] = 0
            self._counts[row] = 0
        spikes, messages = self.s_in.recv(), self.a_in.recv()
        self._codes[row] += self._weights[t] * (spikes + messages)
        self._counts[row] += np.count_nonzero(spikes), np.count_nonzero(messages)


class MembraneSink(AbstractProcess):
    """Keeps the membranes that a SilenceNeuron sends.

    The message of step t of window w arrives in time step w * period + 1 + t and counts weights[t]; their sum is kept in row
    w % windows. A neuron that sends its membrane at the window's end has the weights 0, .., 0, 1.

    Parameters
    ----------
    shape : tuple(int)
        Number of neurons, (N,).

    weights : tuple(int)
        What a message counts in each time step of a window.

    windows : int
        How many windows are kept.

    Attributes
    ----------
    membranes : numpy.ndarray
        (windows, N) int64.

    strays : numpy.ndarray
        (1,) int64, how many non-zero messages came in steps that count nothing.
    """

    def __init__(self, *, shape: tuple[int, ...], weights: tuple[int, ...], windows: int, **kwargs: Any) -> None:
        self.membranes = shared_zeros((windows, *shape), np.int64)
        self.strays = shared_zeros((1,), np.int64)
        super().__init__(weights=weights, membranes=self.membranes, strays=self.strays, **kwargs)
        self.a_in = InPort(shape=shape)


@implements(proc=MembraneSink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyMembraneSinkModel(PyLoihiProcessModel):
    """MembraneSink on the CPU."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._weights = proc_params["weights"]
        self._membranes, self._strays = proc_params["membranes"], proc_params["strays"]

    def run_spk(self) -> None:
        """Add the message of a step to its window."""
        message = self.a_in.recv()
        if self.time_step == 1:  # before the first window
            self._strays += np.count_nonzero(message)
            return
        window, t = divmod(self.time_step - 2, len(self._weights))
        kept = self._membranes[window % len(self._membranes)]
        if t == 0:
            kept[...] = 0
        if self._weights[t]:
            kept += self._weights[t] * message.astype(np.int64)
        else:
            self._strays += np.count_nonzero(message)
