"""The part of the block benchmark that runs inside Lava jobs."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.graph.block import Block
from kirin_lava.graph.values import Float32

__all__ = ["BlockBench", "Built", "Round"]

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, eq=False)
class Built:
    """A network after its first pass.

    Attributes:
        result: (tokens, width) float32. integers: membranes by value name, where the network keeps them.
        processes: operating-system processes of Lava, its own service included. descriptors: of the program that runs them.
        period: time steps per window. latency: windows from a token's entry to its result.
    """

    result: Float32
    integers: dict[str, npt.NDArray[np.int64]]
    processes: int
    descriptors: int
    period: int
    latency: int


@dataclass(frozen=True)
class Round:
    """One measurement.

    Attributes:
        steps, seconds, cpu_seconds: of all tokens one behind the other; wall time, and what all processes computed.
        alone: seconds of the first tokens one at a time.
        same: whether both gave the bits of the first pass.
    """

    steps: int
    seconds: float
    cpu_seconds: float
    alone: float
    same: bool


class BlockBench:
    """A live network with its tokens, for a `kirin_lava.processes.runtime.Session`.

    Args:
        kind: "ours" or "naive".
        x: (tokens, width) float32.
    """

    def __init__(self, kind: str, block: Block, x: Float32, rotary: tuple[Float32, Float32] | None) -> None:
        before = len(os.listdir("/proc/self/fd"))
        self._x = x
        self._network: Any
        if kind == "ours":
            from kirin_lava.processes.block import build_block

            self._network = build_block(block, len(x), rotary)
            period, latency = self._network.plan.period, self._network.plan.latency
        else:
            from benchmarks.naive_network import NaiveBlock

            self._network = NaiveBlock(block, len(x), rotary)
            period, latency = self._network.period, self._network.latency
        first = self._network.run(x)
        processes, descriptors = len(multiprocessing.active_children()), len(os.listdir("/proc/self/fd")) - before
        self._built = Built(first.result, first.integers, processes, descriptors, period, latency)

    def built(self) -> Built:
        """What the first pass, which touches all memory for the first time, gave."""
        return self._built

    def round(self, singles: int) -> Round:
        """All tokens pipelined, and the first `singles` of them again one at a time."""
        network, first = self._network, self._built.result
        network.restart()
        before = _cpu_seconds()
        run = network.run(self._x)
        used = _cpu_seconds() - before
        network.restart()
        runs = [network.run(self._x[i : i + 1]) for i in range(singles)]
        same = np.array_equal(run.result, first) and np.array_equal(np.concatenate([r.result for r in runs]), first[:singles])
        return Round(run.steps, run.seconds, used, sum(r.seconds for r in runs), same)


def _cpu_seconds() -> float:
    """Computing time of all of Lava's processes so far."""
    ticks = 0
    for child in multiprocessing.active_children():
        with open(f"/proc/{child.pid}/stat", "rb") as file:
            user, system = file.read().rpartition(b")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return ticks / _TICKS
