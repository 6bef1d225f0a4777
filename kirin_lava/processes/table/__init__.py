"""TableNeuron: a function of one integer from a table, and a network that asks it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from kirin_lava.spikes.tables import Table, formula_named

__all__ = ["PyTableNeuronModel", "TableNeuron"]


class TableNeuron(AbstractProcess):
    """Answers every graded message q with another one, in the time step in which it comes.

        y = value[i] + round(slope[i] * rest / 2^shift),    i = (q - start) >> shift,    rest = (q - start) mod 2^shift

    of the range that holds q, 0 where none does; rounded half up. All neurons of a Process share one table, as those of a core
    would. An argument that was brought to one octave by a shift has up to 24 bits without a sign, one bit more than a message
    from elsewhere.

    Parameters
    ----------
    shape : tuple(int)
        Number of neurons, (N,).

    table : Table
        Its entries.

    Attributes
    ----------
    value, slope : Var
        (entries,) the table.
    """

    def __init__(self, *, shape: tuple[int, ...], table: Table, **kwargs: Any) -> None:
        formula = formula_named(table.name)
        ranges = np.array([(part.start, part.shift, part.count) for part in formula.ranges], np.int64)
        super().__init__(ranges=ranges, **kwargs)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.value = Var(shape=table.value.shape, init=table.value)
        self.slope = Var(shape=table.slope.shape, init=table.slope)


@implements(proc=TableNeuron, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyTableNeuronModel(PyLoihiProcessModel):
    """TableNeuron on the CPU. It shares no arithmetic with the executor: a neuron goes through the ranges one by one and takes
    the last whose start is not above its argument."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=32)
    value: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    slope: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._ranges: npt.NDArray[np.int64] = proc_params["ranges"]

    def run_spk(self) -> None:
        """Answer the messages of this time step."""
        q = self.a_in.recv().astype(np.int64)
        start, shift, first, held = (np.zeros_like(q) for _ in range(4))
        before = 0
        for begin, width, count in self._ranges.tolist():
            mine = q >= begin
            start[mine], shift[mine], first[mine], held[mine] = begin, width, before, count
            before += count
        cell, rest = np.divmod(q - start, np.left_shift(1, shift))
        inside = (held > 0) & (cell < held)
        entry = np.where(inside, first + cell, 0)
        product = self.slope[entry].astype(np.int64) * rest
        step = np.left_shift(1, shift)
        answer = self.value[entry] + np.floor_divide(2 * product + step, 2 * step)
        self.s_out.send(np.where(inside, answer, 0).astype(np.int32))
