"""OpProcess: a single host operation as a Process of its own, for the naive network of `benchmarks.naive_network`."""

from __future__ import annotations

import traceback
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from kirin_lava.base.errors import BackendError
from kirin_lava.graph.ops import Decode, Encode, Softmax
from kirin_lava.graph.values import Codes, Float32, HostContext, Value
from kirin_lava.processes.mailbox import Mailbox
from kirin_lava.processes.shared import shared_zeros, write_text
from kirin_lava.spikes.codes import SpikeCode

__all__ = ["OpProcess", "PyOpModel", "Task", "Wire"]


@dataclass(frozen=True)
class Wire:
    """A value that comes in: its name, elements start..stop of a message of `size`, and windows since it was sent."""

    name: str
    gap: int
    size: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Task:
    """What one Process does with a token.

    Attributes:
        op: the host operation, None to let tokens in (no inputs) or results out.
        inputs: by port. The values of several senders add up; each writes to its own place.
        sums: name and size of the membranes that come in, or None.
        sends: size of its message; offset: where its result lies in it; leads: whether it writes the position.
        plays: code of the integers that it sends as spikes, and how many, or None.
        row_delay: windows that codes for a cache are held back, None where they are not cached.
    """

    op: Any
    period: int
    capacity: int
    inputs: dict[str, Wire] = field(default_factory=dict)
    sums: tuple[str, int] | None = None
    sends: int = 0
    offset: int = 0
    leads: bool = True
    plays: tuple[SpikeCode, int] | None = None
    row_delay: int | None = None


class OpProcess(AbstractProcess):
    """One host operation, one token per window, on a single token or head.

    Parameters
    ----------
    task : Task
        What it does.

    mailbox : Mailbox
        Of the block.

    trouble : numpy.ndarray
        Shared text buffer for the first error.

    rotary : tuple, optional
        cos and sin, each (positions, head_dim) float32.

    Attributes
    ----------
    received : numpy.ndarray
        (capacity, N) int32, the membranes that arrived, by position.
    """

    PORTS = ("x_in", "y_in", "k_in", "w_in")

    def __init__(
        self,
        *,
        task: Task,
        mailbox: Mailbox,
        trouble: npt.NDArray[np.uint8],
        rotary: tuple[Float32, Float32] | None,
        **kwargs: Any,
    ) -> None:
        self.task = task
        sums = 1 if task.sums is None else task.sums[1]
        played = 1 if task.plays is None else task.plays[1]
        self.received = shared_zeros((task.capacity, sums), np.int32)
        super().__init__(task=task, mailbox=mailbox, trouble=trouble, rotary=rotary, received=self.received, **kwargs)
        for port in self.PORTS:
            size = task.inputs[port].size if port in task.inputs else 0
            setattr(self, port, InPort(shape=(1 + size,)))
        self.m_in = InPort(shape=(sums,))
        self.x_out = OutPort(shape=(1 + task.sends,))
        self.s_out = OutPort(shape=(played,))
        self.a_out = OutPort(shape=(played,))
        self.c_out = OutPort(shape=(1 + played,))


@implements(proc=OpProcess, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyOpModel(PyLoihiProcessModel):
    """OpProcess on the CPU."""

    x_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.float32)
    y_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.float32)
    k_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.float32)
    w_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.float32)
    m_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    x_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.float32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=2)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    c_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        torch.set_num_threads(1)
        self._task: Task = proc_params["task"]
        self._mailbox: Mailbox = proc_params["mailbox"]
        self._trouble, self._received = proc_params["trouble"], proc_params["received"]
        rotary = proc_params["rotary"]
        self._rotary = None if rotary is None else (torch.from_numpy(rotary[0]), torch.from_numpy(rotary[1]))
        self._steps: dict[str, torch.Tensor] = {}
        played = 0 if self._task.plays is None else self._task.plays[1]
        self._silent = np.zeros((played, self._task.period), np.int32)
        self._no_row = np.zeros(1 + played, np.int32)
        self._rows = deque([self._no_row] * (self._task.row_delay or 0))

    def run_spk(self) -> None:
        """Take the token of a window in its first step; play a column in every step."""
        task = self._task
        window, t = divmod(self.time_step - 1, task.period)
        membranes = self.m_in.recv() if task.sums is not None else None
        if t == 0:
            self._message = np.zeros(1 + task.sends, np.float32)
            self._spikes = self._outliers = self._silent
            row = self._no_row
            try:
                row = self._begin(window, membranes)
            except Exception:  # raised here it would leave the other processes waiting for ever
                write_text(self._trouble, traceback.format_exc(limit=-3))
            if task.sends:
                self.x_out.send(self._message)
            if task.row_delay is not None:
                self._rows.append(row)
                self.c_out.send(self._rows.popleft())
        if task.plays is not None:
            self.s_out.send(self._spikes[:, t])
            self.a_out.send(self._outliers[:, t])

    @torch.inference_mode()
    def _begin(self, window: int, membranes: npt.NDArray[np.int32] | None) -> npt.NDArray[np.int32]:
        task = self._task
        arrived = {port: getattr(self, port).recv() for port, wire in task.inputs.items() if window >= wire.gap}
        if task.inputs:
            complete = len(arrived) == len(task.inputs)
            header = next(iter(arrived.values()))[0] if complete else 0
            position = int(header) - 1
            if complete and any(message[0] != header for message in arrived.values()):
                raise BackendError(f"{task.op}: its inputs are of different tokens")
        else:
            entering = self._mailbox.position_at(window)
            position = -1 if entering is None else entering
        if position < 0:
            return self._no_row
        if task.op is None:
            self._pass(position, arrived)
            return self._no_row
        if position == 0:
            self._steps = {}
        context = HostContext(torch.tensor([position]), self._rotary, self._steps)
        values = self._values(position, arrived, membranes, context)
        return self._send(position, task.op.compute(values, context))

    def _pass(self, position: int, arrived: dict[str, Float32]) -> None:
        """Let a token in, or a result out."""
        if arrived:
            self._mailbox.results[position] = arrived["x_in"][1:]
        else:
            self._message[0] = position + 1
            self._message[1:] = self._mailbox.tokens[position]

    def _values(self, position: int, arrived: dict[str, Float32], membranes: Any, context: HostContext) -> dict[str, Value]:
        op, task = self._task.op, self._task
        values: dict[str, Value] = {}
        for port, message in arrived.items():
            wire = task.inputs[port]
            part = torch.from_numpy(message[1 + wire.start : 1 + wire.stop].copy()).view(1, 1, -1)
            if port == "x_in":
                values[wire.name] = part[None, ..., : position + 1] if isinstance(op, Encode) and op.rule.by_row else part
            elif isinstance(op, (Decode, Softmax)):
                values[wire.name] = Codes(torch.empty(0), part)
                if port in ("k_in", "w_in"):
                    context.remember(wire.name, part)
            else:
                values[wire.name] = part
        if membranes is not None and task.sums is not None:
            self._received[position] = membranes
            sums = torch.from_numpy(membranes).view(1, 1, -1)
            values[task.sums[0]] = sums[None, ..., : position + 1] if isinstance(op, Softmax) else sums
        return values

    def _send(self, position: int, value: Value) -> npt.NDArray[np.int32]:
        """Message, spikes and row of the token's value; returns the row."""
        task, row = self._task, self._no_row
        if isinstance(value, Codes):
            assert task.plays is not None
            code, played = task.plays
            codes = np.full(played, -code.zero, np.int32)
            q = value.q.flatten().numpy().astype(np.int32)
            codes[: len(q)] = q
            if task.row_delay is None:
                self._spikes, self._outliers = code.raster(codes, task.period)
            else:
                row = np.concatenate([np.array([position + 1], np.int32), codes])
            value = value.step
        flat = value.flatten().numpy()
        self._message[0] = position + 1 if task.leads else 0
        self._message[1 + task.offset : 1 + task.offset + len(flat)] = flat
        return row
