"""What the tests here let a Lava job do; Lava itself is imported there alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import numpy as np

from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import Linear
from kirin_lava.graph.values import Float32
from kirin_lava.processes.runs import BlockRun, SegmentRun
from kirin_lava.processes.runtime import progress
from kirin_lava.spikes.codes import Integers


def run_segments(work: Sequence[tuple[Linear, Integers, int | None]]) -> list[SegmentRun]:
    """Segments, each with its codes and period, one network after the other."""
    from kirin_lava.processes import build_segment

    results = []
    for linear, codes, period in work:
        with build_segment(linear, codes, period) as network:
            results.append(network.run())
    return results


def run_block(
    block: Block, x: Float32, capacity: int, rotary: tuple[Float32, Float32] | None, parts: Sequence[int], again: int = 0
) -> list[BlockRun]:
    """Tokens in parts through one live network; then the first `again` of them once more, as a new sequence."""
    from kirin_lava.processes import build_block

    with build_block(block, capacity, rotary, probe=True) as network:
        results = []
        for count in parts:
            results.append(network.run(x[network.position : network.position + count]))
        if again:
            network.restart()
            results.append(network.run(x[:again]))
        return results


def run_blocks(work: Sequence[tuple[Block, Float32, Sequence[int]]], rotary: tuple[Float32, Float32]) -> list[list[BlockRun]]:
    """Blocks, each with its tokens in parts, one network after the other."""
    return [run_block(block, x, len(x), rotary, parts) for block, x, parts in work]


def count_in_one_job(linear: Linear, codes: Integers, times: int) -> tuple[int, int]:
    """Descriptors of the job after its second and after its last Lava run."""
    from kirin_lava.processes import build_segment

    counts = []
    for _ in range(times):
        with build_segment(linear, codes) as network:
            network.run()
        counts.append(len(os.listdir("/proc/self/fd")))
    return counts[1], counts[-1]


class Endless:
    """A Lava network without an end, for a `Session`."""

    def __init__(self) -> None:
        from kirin_lava.processes import SpikeEncoder, SpikeSink
        from kirin_lava.spikes.codes import SIGNED

        source = SpikeEncoder(codes=np.ones((2, 3), np.int64), code=SIGNED)
        self.sink = SpikeSink(shape=(3,), code=SIGNED, period=8, windows=2)
        source.s_out.connect(self.sink.s_in)
        source.a_out.connect(self.sink.a_in)

    def start(self) -> int:
        """The first time step; returns the job's process id."""
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.core.run_configs import Loihi2SimCfg

        self.sink.run(condition=RunSteps(1), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        return os.getpid()

    def wait_for_ever(self) -> None:
        """No step at all."""
        time.sleep(10**6)

    def run(self) -> None:
        """All the others."""
        from lava.magma.core.run_conditions import RunSteps

        for step in range(10**9):
            self.sink.run(condition=RunSteps(1))
            progress(step + 1, 10**9)


def run_for_ever() -> None:
    """A Lava network without an end; reports its process id and then its time steps."""
    network = Endless()
    progress(network.start(), 0)
    network.run()


def multiply(
    kind: str, zero: int, period: int, capacity: int, payload: Integers, rows: Integers, part: int | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
    """A SpikeMatmul with 4 heads over 2, width 3, between scripted ends.

    Args:
        payload: (windows, K, period) what comes in as spikes. rows: (windows, 1 + 6) what comes at c_in.

    Returns:
        (windows, N) membranes behind it, (capacity, 6) its cache, the first position that was rejected or -1.
    """
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.source import RingBuffer

    from kirin_lava.processes import MembraneSink, SilenceNeuron, SpikeMatmul

    windows = len(payload)
    matmul = SpikeMatmul(kind=kind, heads=4, kv_heads=2, head_dim=3, capacity=capacity, period=period, zero=zero, part=part)
    neuron = SilenceNeuron(shape=matmul.a_out.shape, period=period)
    probe = MembraneSink(shape=matmul.a_out.shape, weights=(*(0,) * (period - 1), 1), windows=windows)
    source = RingBuffer(data=np.moveaxis(payload, 0, 1).reshape(payload.shape[1], -1))
    cached = RingBuffer(data=rows.T)  # one column per time step: SpikeMatmul takes one per window, so it lags behind
    source.s_out.connect(matmul.s_in)
    cached.s_out.connect(matmul.c_in)
    matmul.a_out.connect(neuron.a_in)
    neuron.s_out.connect(probe.a_in)
    try:
        # as many steps as the channel of c_in holds are enough for these few windows
        neuron.run(condition=RunSteps(windows * period + 1), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        return probe.membranes.copy(), matmul.rows.copy(), int(matmul.rejected.get()[0])
    finally:
        neuron.stop()


def multiply_by_synapses(weight: Integers) -> tuple[np.ndarray, np.ndarray]:
    """A spike, then a message of 1000, on one input after the other; (K, N) what arrives of each."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer

    from kirin_lava.processes.synapse import outlier_synapse, spike_synapse

    arrived = []
    for synapse, payload in ((spike_synapse(weight), 1), (outlier_synapse(weight), 1000)):
        inputs = weight.shape[1]
        source = RingBuffer(data=payload * np.eye(inputs, inputs + 1, dtype=np.int64))
        sink = Sink(shape=(len(weight),), buffer=inputs + 1)
        source.s_out.connect(synapse.s_in)
        synapse.a_out.connect(sink.a_in)
        try:
            sink.run(condition=RunSteps(inputs + 1), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
            arrived.append(sink.data.get()[:, 1:].T.astype(np.int64))  # a synapse sends one step later
        finally:
            sink.stop()
    return arrived[0], arrived[1]


def open_block(block: Block, capacity: int, rotary: tuple[Float32, Float32] | None) -> object:
    """A live block network with probes, for a `Session`."""
    from kirin_lava.processes import build_block

    return build_block(block, capacity, rotary, probe=True)


def descriptors_of(linear: Linear, codes: Integers) -> tuple[int, int, int, int]:
    """Of a running segment: Processes, channels, descriptors of the job before it, and most in any process of the job."""
    from kirin_lava.processes import build_segment

    before = len(os.listdir("/proc/self/fd")) - 1
    with build_segment(linear, codes) as network:
        network.run_steps(1, 1)
        executable = network._main.runtime._executable
        most = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.getpgid(int(pid)) == os.getpgid(0):
                    most = max(most, len(os.listdir(f"/proc/{pid}/fd")))
            except OSError:  # ended meanwhile, or somebody else's
                continue
        return len(executable.proc_builders), len(executable.channel_builders), before, most


def size_of_block(block: Block, rotary: tuple[Float32, Float32]) -> tuple[int, int]:
    """Processes and channels of a block with probes; nothing is started."""
    from lava.magma.core.run_configs import Loihi2SimCfg

    from kirin_lava.processes import build_block

    network = build_block(block, 4, rotary, probe=True)
    executable = network._main.compile(Loihi2SimCfg(select_tag="fixed_pt"))
    return len(executable.proc_builders), len(executable.channel_builders)


def stuck(linear: Linear, codes: Integers) -> None:
    """A Lava network one of whose processes stands still; nothing tells the others."""
    from kirin_lava.processes import build_segment

    network = build_segment(linear, codes)
    network.run_steps(1, 1)
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        os.kill(max(map(int, file.read().split())), signal.SIGSTOP)
    network.run_steps(10, 1)
