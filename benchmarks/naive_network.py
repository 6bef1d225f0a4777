"""A decoder block as a naive Lava network: a Process per operation, and in the attention one per operation and head.

What is naive about it, and stays what it is in `kirin_lava.processes.block`:

    naive      every host operation, every head's encoder, score, softmax, mix and decoder is a Process of its own; query, key
               and value, gate and up projection are segments of their own; real values travel between all of them
    the same   the window clock, `Dense`, `SilenceNeuron` and `SpikeMatmul` (here with one head each), the arithmetic of
               `kirin_lava.graph.ops`, and so every integer

Blocks whose neurons fire into the next segment are left out: Llama's do not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.naive_block import OpProcess, Task, Wire
from kirin_lava.base.errors import BackendError, UnsupportedError
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Decode, Encode, Gate, Linear, Mix, Score, Slice, Softmax
from kirin_lava.graph.values import Float32
from kirin_lava.processes.build import Network, connect_linear
from kirin_lava.processes.mailbox import Mailbox
from kirin_lava.processes.matmul import SpikeMatmul
from kirin_lava.processes.pipeline import plan_block
from kirin_lava.processes.runs import BlockRun
from kirin_lava.processes.shared import read_text, shared_zeros
from kirin_lava.spikes.neurons import READ_OUT
from kirin_lava.spikes.neurons.silence.process import SilenceNeuron

__all__ = ["NaiveBlock"]

_TEXT = 4000


@dataclass(frozen=True)
class _Made:
    """Processes that make a value, the window in which they do, and the size of the message."""

    processes: list[OpProcess]
    stage: int
    size: int


class NaiveBlock(Network):
    """A live block, one Process per operation and head.

    Args:
        block: a decoder layer in which nothing fires.
        capacity: most positions.
        rotary: cos and sin, each (positions, head_dim) float32, of the model.
    """

    def __init__(self, block: Block, capacity: int, rotary: tuple[Float32, Float32] | None = None) -> None:
        if any(op.fires is not None for op in block.linears()):
            raise UnsupportedError(f"{block.name}: the naive network is for blocks in which nothing fires")
        plan, width = plan_block(block, capacity), block.width
        self._block, self.period, self._capacity, self._widths = block, plan.period, capacity, plan.widths
        self._rotary = rotary
        self._mailbox = Mailbox(capacity, width, plan.widths[block.output])
        self._trouble = shared_zeros((_TEXT,), np.uint8)
        self._position = self._window = self._stage = 0
        self._values: dict[str, _Made] = {"x": _Made([self._process(None, sends=width)], 0, width)}
        self._codes: dict[str, _Made] = {}
        self._sums: dict[str, list[tuple[slice, SilenceNeuron]]] = {}
        self._heard: dict[str, list[OpProcess]] = {}
        self._neurons_by_name: list[tuple[str, SilenceNeuron]] = []
        for op in block.ops:
            if isinstance(op, (Linear, Score, Mix)):
                self._core(op)
                self._stage += 1
            else:
                self._host(op)
        self._process(None, x_in=block.output)
        self.latency = self._stage
        super().__init__(self._neurons_by_name)

    def run(self, x: Float32) -> BlockRun:
        """Take tokens (L, width) through the block, one per window. Keys and values stay for the next call."""
        first, start, tokens = self._window, self._position, len(x)
        self._mailbox.put(x, first, start)
        windows = tokens + self.latency
        seconds = self.run_steps(windows * self.period, self.period)
        self._window += windows
        self._position += tokens
        problem = read_text(self._trouble)
        if problem:
            raise BackendError(problem)
        rows = slice(start, start + tokens)
        integers = {
            name: np.concatenate([p.received[rows].astype(np.int64) for p in heard], axis=1)
            for name, heard in self._heard.items()
        }
        return BlockRun(self._mailbox.results[rows].copy(), integers, steps=windows * self.period, seconds=seconds)

    def restart(self) -> None:
        """Forget the tokens so far."""
        self._position = 0

    def _process(self, op: Any, neuron: SilenceNeuron | None = None, **options: Any) -> OpProcess:
        """A Process; options of `Task`, and for each input port what comes in: a name, or a name, what makes it and a slice."""
        wires, senders = {}, {}
        for port in OpProcess.PORTS:
            if port in options:
                given = options.pop(port)
                name, made, part = given if isinstance(given, tuple) else (given, self._values[given], slice(None))
                start, stop, _ = part.indices(made.size)
                wires[port] = Wire(name, self._stage - made.stage, made.size, start, stop)
                senders[port] = made.processes
        task = Task(op, self.period, self._capacity, wires, **options)
        process = OpProcess(task=task, mailbox=self._mailbox, trouble=self._trouble, rotary=self._rotary)
        for port, processes in senders.items():
            for sender in processes:
                sender.x_out.connect(getattr(process, port))
        if neuron is not None:
            neuron.s_out.connect(process.m_in)
            self._heard.setdefault(op.input, []).append(process)
        return process

    def _host(self, op: Any) -> None:
        size = self._widths[op.output]
        if isinstance(op, Slice):
            made = self._values[f"{op.input}[{op.start}:{op.stop}]"]
            self._values[op.output] = made
        elif isinstance(op, Encode):
            self._encode(op)
        elif isinstance(op, Decode):
            self._decode(op)
        elif isinstance(op, Softmax):
            self._softmax(op)
        else:
            inputs = {"x_in": op.input} | ({"y_in": op.other} if hasattr(op, "other") else {})
            self._values[op.output] = _Made([self._process(op, sends=size, **inputs)], self._stage, size)

    def _encode(self, op: Encode) -> None:
        """A Process per group."""
        share = self._widths[op.input] // op.groups
        readers = [i for i, core in enumerate(self._block.core_ops()) if getattr(core, "cache", None) == op.output]
        delay = readers[0] - self._stage if op.cached else None
        made = self._values[op.input]
        processes = []
        for group in range(op.groups):
            if op.rule.by_row:  # a Process per head has made it
                source = (op.input, replace(made, processes=[made.processes[group]]), slice(None))
            else:
                source = (op.input, made, slice(group * share, (group + 1) * share))
            one = replace(op, groups=1)
            processes.append(self._process(one, x_in=source, sends=1, plays=(op.code, share), row_delay=delay))
        self._codes[op.output] = _Made(processes, self._stage, 1)

    def _decode(self, op: Decode) -> None:
        """A Process per segment or head; those that are not sliced apart write into one message."""
        parts, steps = self._sums[op.input], self._codes[op.codes]
        slices = [o for o in self._block.ops if isinstance(o, Slice) and o.input == op.output]
        size = self._widths[op.output]
        processes = []
        for i, (rows, neuron) in enumerate(parts):
            count = rows.stop - rows.start
            one = replace(
                op,
                scale=None if op.scale is None else op.scale[rows].copy(),
                bias=None if op.bias is None else op.bias[rows].copy(),
            )
            step = steps if len(steps.processes) == 1 else replace(steps, processes=[steps.processes[i]])
            options = {"sends": count} if slices else {"sends": size, "offset": rows.start, "leads": i == 0}
            process = self._process(one, neuron, y_in=(op.codes, step, slice(None)), sums=(op.input, count), **options)
            processes.append(process)
            if slices:
                self._values[f"{op.output}[{rows.start}:{rows.stop}]"] = _Made([process], self._stage, count)
        self._values[op.output] = _Made(processes, self._stage, size)

    def _softmax(self, op: Softmax) -> None:
        one = replace(op, heads=1, kv_heads=1)
        processes = []
        for head, (_, neuron) in enumerate(self._sums[op.input]):
            shared = head * op.kv_heads // op.heads
            inputs = {
                port: (name, replace(made, processes=[made.processes[i]]), slice(None))
                for port, name, i in (("y_in", op.query, head), ("k_in", op.key, shared), ("w_in", op.value, shared))
                for made in [self._codes[name]]
            }
            options = {"sums": (op.input, self._capacity), "sends": self._capacity}
            processes.append(self._process(one, neuron, **inputs, **options))
        self._values[op.output] = _Made(processes, self._stage, self._capacity)

    def _core(self, op: Linear | Score | Mix) -> None:
        if isinstance(op, Linear):
            (source,) = self._codes[op.input].processes
            for rows in self._splits(op):
                part = replace(op, weight=np.ascontiguousarray(op.weight[rows]))
                self._add(op, rows, connect_linear(part, self.period, source.s_out, source.a_out))
            return
        dim = self._widths[op.cache] // op.kv_heads
        each = self._capacity if isinstance(op, Score) else dim
        for head in range(op.heads):
            matmul = SpikeMatmul(
                kind="score" if isinstance(op, Score) else "mix",
                heads=1,
                kv_heads=1,
                head_dim=dim,
                capacity=self._capacity,
                period=self.period,
                zero=op.code.zero,
            )
            source = self._codes[op.input].processes[head]
            source.s_out.connect(matmul.s_in)
            source.a_out.connect(matmul.a_in)
            self._codes[op.cache].processes[head * op.kv_heads // op.heads].c_out.connect(matmul.c_in)
            neuron = READ_OUT.process(matmul.a_out.shape, self.period, op.code.gains(self.period))
            matmul.a_out.connect(neuron.a_in)
            self._add(op, slice(head * each, (head + 1) * each), neuron)

    def _add(self, op: Linear | Score | Mix, rows: slice, neuron: SilenceNeuron) -> None:
        self._sums.setdefault(op.output, []).append((rows, neuron))
        self._neurons_by_name.append((op.name, neuron))

    def _splits(self, op: Linear) -> list[slice]:
        """The parts of a merged projection: query, key and value, or gate and up."""
        decoded = next(o.output for o in self._block.ops if isinstance(o, Decode) and o.input == op.output)
        rows = len(op.weight)
        borders = {0, rows}
        for o in self._block.ops:
            if isinstance(o, Slice) and o.input == decoded:
                borders |= {o.start, o.stop}
            elif isinstance(o, Gate) and o.input == decoded:
                borders.add(rows // 2)
        return [slice(a, b) for a, b in pairwise(sorted(borders))]
