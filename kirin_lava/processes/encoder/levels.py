"""LevelSpikes: the neurons of multi-level spikes, between an encoder and its synapses."""

from __future__ import annotations

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

from kirin_lava.spikes.codes import Levels, SpikeCode
from kirin_lava.spikes.neurons.emit import LevelNeuron

__all__ = ["LevelSpikes", "PyLevelSpikesModel", "through_neurons"]


class LevelSpikes(AbstractProcess):
    """Integrates a current and sends it on as levels: clip(floor(v / threshold), 0, top) of them per time step, soft reset.

    Sends in the time step in which it receives. v returns to 0 with the last step of a window.

    Parameters
    ----------
    shape : tuple(int)
        Number of channels, (K,).

    code : Levels
        Whose spikes are sent; its channels have the thresholds.

    period : int
        Time steps per window.
    """

    def __init__(self, *, shape: tuple[int, ...], code: Levels, period: int, **kwargs: Any) -> None:
        code.thresholds(shape[-1])  # refuses channels of another width
        super().__init__(code=code, period=period, **kwargs)
        self.a_in = InPort(shape=shape)
        self.s_out = OutPort(shape=shape)
        self.v = Var(shape=shape, init=0)


@implements(proc=LevelSpikes, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyLevelSpikesModel(PyLoihiProcessModel):
    """LevelSpikes on the CPU: the NumPy neuron, its state in the Var v."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    v: np.ndarray = LavaPyType(np.ndarray, np.int64, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._code, self._period = proc_params["code"], proc_params["period"]
        self._neuron: LevelNeuron | None = None

    def run_spk(self) -> None:
        """One step of the neurons."""
        if self._neuron is None:
            self._neuron = LevelNeuron(self._code, self.v.shape, self._period, self.v)
        self.s_out.send(self._neuron.step(self.a_in.recv()).astype(np.int32))


def through_neurons(code: SpikeCode, source: Any, period: int) -> Any:
    """The out port of what spikes: the source's own, or that of the neurons behind it which make the spikes of a code."""
    if not isinstance(code, Levels):
        return source
    neurons = LevelSpikes(shape=source.shape, code=code, period=period)
    source.connect(neurons.a_in)
    return neurons.s_out
