"""HostStage: the host operations between two segments, token by token."""

from __future__ import annotations

from functools import reduce
from typing import Any, ClassVar

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

from kirin_lava.base.arrays import quiet
from kirin_lava.graph.ops import Mix, Score, StageOp
from kirin_lava.graph.port import FIXED, REAL
from kirin_lava.graph.values import Array, Codes, Constants, HostContext, Value
from kirin_lava.processes.mailbox import Mailbox
from kirin_lava.processes.pipeline import Freight, HostStagePlan, Pipeline, places
from kirin_lava.processes.shared import shared_zeros
from kirin_lava.spikes.neurons.emit import played

__all__ = ["HostStage", "PyHostStageModel", "StageModel", "freight_size"]


_LOW_BITS = 24  # a sum travels as two float32, each of them exact: what is above these bits, and what is below
_LOW_MASK = 2**_LOW_BITS - 1
_BASE = 256  # of a cached code in several synapses
_Held = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Array]  # spikes, outliers and message of a token


class HostStage(AbstractProcess):
    """Operations between two core operations of a block, one token per window: those of a host in float32. `IntegerStage` is
    the same with integers.

    At the first time step of a window it has the membranes of the core operation before it, which came at v_in over the window
    before, up to this step, and takes the message of the host stage before it (x_in), computes, and in the same step begins to
    play the codes for the next core operation: spikes (s_out) and outlier messages (a_out), a row for the cache (c_out). What
    later stages need leaves at x_out. v_in, s_out and a_out carry a message in every time step, the others one in the first
    step of each window.

    Stage 0 takes its tokens from the mailbox, the last stage puts results there.

    In a block that is not causal, the stage before the scores holds tokens until the sequence is complete; see
    `kirin_lava.processes.pipeline`. What is cached of them goes ahead: a row and a message whose positions are negative.

    Parameters
    ----------
    plan : Pipeline
        The block's plan.

    stage : HostStagePlan
        The stage's part of it.

    mailbox : Mailbox
        Of the block.

    rotary : tuple, optional
        cos and sin, each (positions, head_dim) float32, or int32 of a stage with integers.

    Attributes
    ----------
    received : numpy.ndarray
        (capacity, N) int64, the membranes that arrived, by position.
    """

    def __init__(
        self, *, plan: Pipeline, stage: HostStagePlan, mailbox: Mailbox, rotary: tuple[Array, Array] | None, **kwargs: Any
    ) -> None:
        sums = 1 if stage.receives is None else plan.membranes(stage.receives)
        codes = 1 if stage.plays is None else plan.widths[stage.plays.input]
        row = 1 if stage.row is None else 1 + plan.widths[stage.row]
        self.received = shared_zeros((plan.capacity, sums), np.int64)
        super().__init__(plan=plan, stage=stage, mailbox=mailbox, rotary=rotary, received=self.received, **kwargs)
        halves = 1 if stage.receives is None else plan.halves(stage.receives)
        self.x_in = InPort(shape=(freight_size(stage.arrives),))
        self.v_in = InPort(shape=(halves * sums,))
        self.s_out = OutPort(shape=(codes,))
        self.a_out = OutPort(shape=(codes,))
        self.c_out = OutPort(shape=(row,))
        self.x_out = OutPort(shape=(freight_size(stage.leaves),))


def by_position(held: Array, window: int | None, seen: int) -> Array:
    """(..., places) of a cache as (..., positions): what is older than a window is 0."""
    count = held.shape[-1]
    if window is None or seen <= count:
        return np.ascontiguousarray(held[..., :seen])
    result = np.zeros((*held.shape[:-1], seen), held.dtype)
    kept = np.arange(seen - count, seen)
    result[..., kept] = held[..., kept % count]
    return result


def freight_size(freight: tuple[Freight, ...]) -> int:
    """Numbers in a message between host stages: position + 1, then the values."""
    return 1 + sum(item.size for item in freight)


class StageModel(PyLoihiProcessModel):
    """A stage on the CPU: calls the functions of kirin_lava.graph.ops on single tokens, so that their bits are the executor's.

    A subclass says what numbers travel from stage to stage, and may compute in another way.
    """

    v_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=2)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    c_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    _number: ClassVar[type[np.generic]]

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._plan: Pipeline = proc_params["plan"]
        self._stage: HostStagePlan = proc_params["stage"]
        self._mailbox: Mailbox = proc_params["mailbox"]
        self._received: npt.NDArray[np.int64] = proc_params["received"]
        self._halves, self._counts = 1, (0,) * self._plan.period
        if self._stage.receives is not None:
            self._halves = self._plan.halves(self._stage.receives)
            self._counts = self._stage.receives.neuron.counts(self._stage.receives.code, self._plan.period)
        self._membranes = np.zeros(self._halves * self._received.shape[1], np.int64)
        torch.set_num_threads(1)
        rotary = proc_params["rotary"]
        self._rotary = None if rotary is None else (torch.from_numpy(rotary[0]), torch.from_numpy(rotary[1]))
        self._steps: dict[str, torch.Tensor] = {}
        self._constants: Constants = {}
        self._held: list[_Held] = []
        self._silence()

    def run_spk(self) -> None:
        """Begin a window in its first step; send one column in every step."""
        window, t = divmod(self.time_step - 1, self._plan.period)
        if self._stage.receives is not None and (counts := self._counts[t - 1]):  # that of the step before
            self._membranes += counts * self.v_in.recv().astype(np.int64)
        elif self._stage.receives is not None:
            self.v_in.recv()
        if t == 0:
            self._silence()
            membranes, self._membranes = self._membranes, np.zeros_like(self._membranes)
            try:
                self._begin(window, membranes)
            except Exception as error:  # raised here it would leave the other processes waiting for ever
                self._mailbox.report(self._stage, error)
            if self._stage.row is not None:
                self.c_out.send(self._row)
            if self._stage.plays is not None:
                self.x_out.send(self._message)
        if self._stage.plays is not None:
            self.s_out.send(self._spikes[:, t])
            self.a_out.send(self._outliers[:, t])

    def _silence(self) -> None:
        codes = 1 if self._stage.plays is None else self._plan.widths[self._stage.plays.input]
        row = 1 if self._stage.row is None else 1 + self._plan.widths[self._stage.row]
        self._spikes = self._outliers = np.zeros((codes, self._plan.period), np.int32)
        self._row = np.zeros(row, np.int32)
        self._message = np.zeros(freight_size(self._stage.leaves), self._number)

    @torch.inference_mode()
    def _begin(self, window: int, membranes: npt.NDArray[np.int64]) -> None:
        """Take the token of this window, if there is one, through the stage."""
        stage = self._stage
        values: dict[str, Value] = {}
        ahead = False
        if stage.index == 0:
            position = self._mailbox.position_at(window)
            if position is not None:
                values["x"] = torch.from_numpy(self._mailbox.tokens[position].copy()).view(1, 1, -1)
        else:
            position, ahead = self._unpack(self.x_in.recv(), values) if window >= stage.gap else (None, False)
        if position is None:
            self._let_go()
            return
        whole = self._whole_sequence()
        if position == 0 and (ahead or not whole):
            self._steps, self._held = {}, []
        causal = self._plan.block.causal
        context = HostContext(torch.tensor([position]), self._rotary, self._steps, self._constants, causal=causal)
        if ahead or not whole:
            for name in values:  # what an earlier stage has made
                self._remember(context, name, values)
        if ahead:
            self._send_row(-position - 1, values)
            return
        if stage.receives is not None:
            self._received[position] = reduce(lambda high, low: _BASE * high + low, np.split(membranes, self._halves))
            values[stage.receives.output] = self._sums(self._received[position], position)
        for op in stage.ops:
            with quiet():
                values[op.output] = self._compute(op, values, context)
            self._remember(context, op.output, values)
        for name in stage.fired:
            values[name] = Codes(torch.empty(0), torch.ones(1, 1, 1))
        self._play(position, values)

    def _compute(self, op: StageOp, values: dict[str, Value], context: HostContext) -> Value:
        """One operation."""
        return op.compute(values, context)

    def _whole_sequence(self) -> bool:
        """Whether it takes scores of a whole sequence: keys and values of all its tokens came before."""
        return isinstance(self._stage.receives, Score) and not self._plan.block.causal

    def _let_go(self) -> None:
        """Once no further token comes: send the next of those that were held."""
        if self._held:
            self._spikes, self._outliers, self._message = self._held.pop(0)
            self._row[0] = self._mailbox.length

    def _remember(self, context: HostContext, name: str, values: dict[str, Value]) -> None:
        """Keep the steps of a token's cached codes for the tokens that follow."""
        value = values[name]
        if isinstance(value, Codes) and self._plan.block.ports[name].cached:
            context.remember(name, value.step)

    def _sums(self, membranes: npt.NDArray[np.int64], position: int) -> torch.Tensor:
        """Membranes in the shape of the executor: (1, 1, N), scores (1, H, 1, positions that the token
        sees); those of parts are added."""
        op = self._stage.receives
        if isinstance(op, Score):
            seen = position + 1 if self._plan.block.causal else self._mailbox.length
            scores = membranes.reshape(1, op.heads, 1, -1)
            return torch.from_numpy(by_position(scores, op.window, seen))
        if isinstance(op, Mix):
            by_part = membranes.reshape(-1, self._plan.widths[op.output])
            return torch.from_numpy(by_part.sum(0)).view(1, 1, -1)
        return torch.from_numpy(membranes).view(1, 1, -1)

    def _play(self, position: int, values: dict[str, Value]) -> None:
        """Turn the token's values into what is sent in this window."""
        stage = self._stage
        if stage.plays is None:
            result = values[self._plan.block.output]
            assert isinstance(result, torch.Tensor)
            self._mailbox.results[position] = result.flatten().numpy()
            return
        code = stage.plays.code
        codes = self._integers(values, stage.plays.input, code.zero)
        self._spikes, self._outliers = played(code, codes, self._plan.period)
        self._message = self._pack(position, values)
        if stage.holds:
            self._held.append((self._spikes, self._outliers, self._message))
            ahead = self._message.copy()
            ahead[0] = -ahead[0]
            self._silence()
            self._message = ahead
            self._send_row(-position - 1, values)
        elif self._whole_sequence():
            self._row[0] = self._mailbox.length
        else:
            self._send_row(position + 1, values)

    def _send_row(self, place: int, values: dict[str, Value]) -> None:
        """A row for the cache, where the stage has one."""
        if self._stage.row is not None:
            self._row[0] = place
            self._row[1:] = self._integers(values, self._stage.row, 0)

    def _integers(self, values: dict[str, Value], name: str, zero: int) -> npt.NDArray[np.int32]:
        """Codes of one token (width,); rows of probabilities are filled up to the capacity with silent codes."""
        codes = values[name]
        assert isinstance(codes, Codes)
        q = codes.q.numpy().astype(np.int32)
        if q.ndim == 4:
            window, columns = self._plan.block.ports[name].window, q.shape[3]
            filled = np.full((q.shape[1], places(window, self._plan.capacity)), -zero, np.int32)
            held = np.arange(max(0, columns - filled.shape[1]), columns)
            filled[:, held % filled.shape[1]] = q[0, :, 0, held].T
            return filled.reshape(-1)
        return q.reshape(-1)

    def _pack(self, position: int, values: dict[str, Value]) -> Array:
        """The values that later stages need, in one message of the numbers that the ports carry."""
        parts: list[Array] = [np.array([position + 1])]
        for item in self._stage.leaves:
            value = values[item.name]
            if isinstance(value, Codes):
                parts += [value.q.flatten().numpy()] if item.kind == "codes" else []
                parts.append(self._steps_out(item.name, value.step).flatten().numpy())
                parts += [] if value.zero is None else [value.zero.flatten().numpy()]
            elif item.kind == "sums":
                sums = value.flatten().to(torch.int64).numpy()
                parts += [sums >> _LOW_BITS, sums & _LOW_MASK]
            else:
                parts.append(value.flatten().numpy())
        return np.concatenate(parts).astype(self._number)

    def _steps_out(self, name: str, step: torch.Tensor) -> torch.Tensor:
        """Steps of codes as they travel."""
        return step

    def _steps_in(self, name: str, step: torch.Tensor) -> torch.Tensor:
        """The reverse."""
        return step

    def _unpack(self, message: Array, values: dict[str, Value]) -> tuple[int | None, bool]:
        """Values of a message into `values`; returns the token's position, None where there is no token, and whether the
        message only goes ahead of the token."""
        if message[0] == 0:
            return None, False
        start = 1
        for item in self._stage.arrives:
            part = torch.from_numpy(message[start : start + item.size])
            start += item.size
            if item.kind in (REAL, FIXED):
                values[item.name] = part.view(1, 1, -1)
            elif item.kind == "sums":
                high, low = part.to(torch.int64).chunk(2)
                values[item.name] = ((high << _LOW_BITS) + low).view(1, 1, -1)
            else:
                port = self._plan.block.ports[item.name]
                width = self._plan.widths[item.name] if item.kind == "codes" else 0
                q, step, zero = (few.view(1, 1, -1) for few in part.split([width, port.groups, port.zero_points]))
                step, kept = self._steps_in(item.name, step), zero.float() if port.zero_points else None
                values[item.name] = Codes(q.float(), step, zero=kept)
        return abs(int(message[0])) - 1, bool(message[0] < 0)


@implements(proc=HostStage, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyHostStageModel(StageModel):
    """HostStage on the CPU."""

    x_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.float32)
    x_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.float32)
    _number: ClassVar[type[np.generic]] = np.float32
