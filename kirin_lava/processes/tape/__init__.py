"""TapePlayer and TapeRecorder: what goes into a network and what comes out of it, in memory shared with the program."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from kirin_lava.processes.shared import shared_zeros

__all__ = ["PyTapePlayerModel", "PyTapeRecorderModel", "TapePlayer", "TapeRecorder"]


class TapePlayer(AbstractProcess):
    """Sends the columns of a tape, one per time step, and zeros before and after it.

    Lava's own source takes its data once, number by number. This one is given another tape between two runs at the cost of
    copying it, so a network can stay alive and be asked again.

    Parameters
    ----------
    lines : int
        Numbers per column.

    columns : int
        Longest tape.

    Attributes
    ----------
    tape : numpy.ndarray
        (columns, lines) int32.

    span : numpy.ndarray
        (2,) int64, the time step, counted from 0, in which the first column is sent, and how many columns there are.
    """

    def __init__(self, *, lines: int, columns: int, **kwargs: Any) -> None:
        self.tape = shared_zeros((columns, lines), np.int32)
        self.span = shared_zeros((2,), np.int64)
        super().__init__(tape=self.tape, span=self.span, **kwargs)
        self.s_out = OutPort(shape=(lines,))
        # Nothing is sent here: Lava finds the Processes of a network by its connections, and networks that have none in
        # common become one where their players are linked.
        self.link_in = InPort(shape=(1,))
        self.link_out = OutPort(shape=(1,))


@implements(proc=TapePlayer, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyTapePlayerModel(PyLoihiProcessModel):
    """TapePlayer on the CPU."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    link_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    link_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._tape, self._span = proc_params["tape"], proc_params["span"]
        self._silent = np.zeros(self._tape.shape[1], np.int32)

    def run_spk(self) -> None:
        """Send the column of this time step."""
        first, count = self._span
        column = self.time_step - 1 - first
        self.s_out.send(self._tape[column] if 0 <= column < count else self._silent)


class TapeRecorder(AbstractProcess):
    """Keeps what arrives in each of the time steps of a span.

    Parameters
    ----------
    lines : int
        Numbers per message.

    columns : int
        Longest tape.

    Attributes
    ----------
    tape : numpy.ndarray
        (columns, lines) int32.

    span : numpy.ndarray
        (2,) int64, the time step, counted from 0, whose message becomes the first column, and how many columns there are.
    """

    def __init__(self, *, lines: int, columns: int, **kwargs: Any) -> None:
        self.tape = shared_zeros((columns, lines), np.int32)
        self.span = shared_zeros((2,), np.int64)
        super().__init__(tape=self.tape, span=self.span, **kwargs)
        self.a_in = InPort(shape=(lines,))


@implements(proc=TapeRecorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyTapeRecorderModel(PyLoihiProcessModel):
    """TapeRecorder on the CPU."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._tape, self._span = proc_params["tape"], proc_params["span"]

    def run_spk(self) -> None:
        """Keep the message of this time step."""
        message = self.a_in.recv()
        first, count = self._span
        column = self.time_step - 1 - first
        if 0 <= column < count:
            self._tape[column] = message
