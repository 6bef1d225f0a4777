"""SpikeEncoder: plays windows of activation codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from kirin_lava.spikes.codes import Integers, SpikeCode
from kirin_lava.spikes.neurons.emit import played

__all__ = ["PySpikeEncoderModel", "SpikeEncoder"]


class SpikeEncoder(AbstractProcess):
    """Plays windows of codes, one after another, then stays silent.

    Window w lies in the time steps w * period .. (w+1) * period - 1, counted from 0. In it, every
    code sends its payloads: spikes, or the currents of neurons that make them, and graded messages in the last step.

    Parameters
    ----------
    codes : numpy.ndarray
        Codes q of shape (windows, K), within the range of the code.

    code : SpikeCode
        How codes become spikes and messages.

    period : int, optional
        Time steps per window, at least those of the code, which are the default.
    """

    def __init__(self, *, codes: Integers, code: SpikeCode, period: int | None = None, **kwargs: Any) -> None:
        codes = np.asarray(codes, np.int32)
        steps = code.window if period is None else period
        code.raster(codes, steps)  # refuses what cannot be sent before anything runs
        super().__init__(code=code, period=steps, **kwargs)
        self.s_out = OutPort(shape=(codes.shape[1],))
        self.a_out = OutPort(shape=(codes.shape[1],))
        self.codes = Var(shape=codes.shape, init=codes)


@implements(proc=SpikeEncoder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeEncoderModel(PyLoihiProcessModel):
    """SpikeEncoder on the CPU: the raster of a window is made at its start."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=2)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    codes: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._code, self._period = proc_params["code"], proc_params["period"]
        self._spikes = self._outliers = np.zeros((0, 0), np.int32)

    def run_spk(self) -> None:
        """Send column t of the window's raster."""
        window, t = divmod(self.time_step - 1, self._period)
        if window >= len(self.codes):
            silent = np.zeros(self.codes.shape[1], np.int32)
            self.s_out.send(silent)
            self.a_out.send(silent)
            return
        if t == 0:
            self._spikes, self._outliers = played(self._code, self.codes[window], self._period)
        self.s_out.send(self._spikes[:, t])
        self.a_out.send(self._outliers[:, t])
