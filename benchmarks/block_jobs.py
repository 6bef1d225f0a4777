"""The part of the block benchmark that runs inside Lava jobs."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.graph import Block, Float32

__all__ = ["Measured", "measure"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What a network did.

    Attributes:
        result: (tokens, width) float32. integers: membranes by value name, where the network keeps them.
        processes: operating-system processes of Lava, its own service included. descriptors: of the program that runs them.
        period: time steps per window. latency: windows from a token's entry to its result.
        pipelined, single: of every round, (time steps, seconds) for all tokens one behind the other, and one at a time.
        same: whether every round, of both kinds, gave the same bits.
    """

    result: Float32
    integers: dict[str, npt.NDArray[np.int64]]
    processes: int
    descriptors: int
    period: int
    latency: int
    pipelined: list[tuple[int, float]]
    single: list[tuple[int, float]]
    same: bool


def measure(kind: str, block: Block, x: Float32, rotary: tuple[Float32, Float32] | None, singles: int, rounds: int) -> Measured:
    """Build a network, run tokens x (L, width) through it, and the first `singles` of them again one at a time.

    Args:
        kind: "ours" or "naive".
        rounds: how often each; the first pass, which touches memory for the first time, is not counted.
    """
    before = len(os.listdir("/proc/self/fd"))
    network, period, latency = _build(kind, block, x, rotary)
    with network:
        first = network.run(x)
        processes, descriptors = len(multiprocessing.active_children()), len(os.listdir("/proc/self/fd")) - before
        pipelined, single, same = [], [], True
        for _ in range(rounds):
            network.restart()
            run = network.run(x)
            pipelined.append((run.steps, run.seconds))
            same &= np.array_equal(run.result, first.result)
            network.restart()
            runs = [network.run(x[i : i + 1]) for i in range(singles)]
            single.append((sum(run.steps for run in runs), sum(run.seconds for run in runs)))
            same &= np.array_equal(np.concatenate([run.result for run in runs]), first.result[:singles])
        return Measured(first.result, first.integers, processes, descriptors, period, latency, pipelined, single, same)


def _build(kind: str, block: Block, x: Float32, rotary: tuple[Float32, Float32] | None) -> tuple[Any, int, int]:
    tokens, width = x.shape
    if kind == "ours":
        from kirin_lava.processes.block import build_block

        network = build_block(block, width, tokens, rotary)
        return network, network.plan.period, network.plan.latency
    from benchmarks.naive_block import NaiveBlock

    naive = NaiveBlock(block, width, tokens, rotary)
    return naive, naive.period, naive.latency
