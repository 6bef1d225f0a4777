"""Networks from the graph: one linear segment, or a whole decoder block."""

from __future__ import annotations

import time
from typing import Any, TypeVar

import numpy as np
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg

from kirin_lava.graph.ops import Linear
from kirin_lava.processes.encoder import SpikeEncoder
from kirin_lava.processes.encoder.levels import through_neurons
from kirin_lava.processes.runs import SegmentRun
from kirin_lava.processes.runtime import progress
from kirin_lava.processes.sink import MembraneSink, SpikeSink
from kirin_lava.processes.start import start_runtime
from kirin_lava.processes.synapse import outlier_synapse, spike_synapse
from kirin_lava.spikes.codes import Integers
from kirin_lava.spikes.neurons.silence.process import SilenceNeuron, overflow_of
from kirin_lava.spikes.neurons.simulate import period_of

__all__ = ["Network", "SegmentNetwork", "build_segment", "connect_linear"]


N = TypeVar("N", bound="Network")


class Network:
    """Connected Processes on Lava's CPU simulator. Use as a context manager.

    Args:
        neurons: names of the segments and their neurons, in order.
    """

    def __init__(self, neurons: list[tuple[str, SilenceNeuron]]) -> None:
        self._neurons = neurons
        self._main: AbstractProcess = neurons[0][1]

    def run_steps(self, steps: int, batch: int) -> float:
        """Run in batches of time steps, reporting progress; returns the seconds it took, compilation left out."""
        if self._main.runtime is None:
            start_runtime(self._main, Loihi2SimCfg(select_tag="fixed_pt"))
        start = time.monotonic()
        for done in range(0, steps, batch):
            self._main.run(condition=RunSteps(min(batch, steps - done)))
            progress(min(done + batch, steps), steps)
        return time.monotonic() - start

    def check_states(self) -> None:
        """Raise `FitError` where a neuron's state has overflowed in any run so far."""
        for name, neuron in self._neurons:
            overflow = overflow_of(neuron)
            if overflow is not None:
                raise overflow.error(name)

    def close(self) -> None:
        """Stop Lava's processes."""
        self._main.stop()

    def __enter__(self: N) -> N:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect_linear(op: Linear, period: int, spikes: Any, outliers: Any) -> SilenceNeuron:
    """Synapses and neurons of a linear segment behind the out ports of its source; `outliers` None where there can be none."""
    shift = op.neuron.shift
    constant = op.code.zero * 2**shift * op.weight.astype(np.int64).sum(1)
    neuron: SilenceNeuron = op.neuron.process((len(op.weight),), period, op.code.gains(period), constant)
    if op.code.has_spikes:
        synapse = spike_synapse(op.weight, shift)
        spikes.connect(synapse.s_in)
        synapse.a_out.connect(neuron.a_in)
    if outliers is not None:
        synapse = outlier_synapse(op.weight, shift)
        outliers.connect(synapse.s_in)
        synapse.a_out.connect(neuron.a_in)
    return neuron


class SegmentNetwork(Network):
    """Encoder, synapses, neurons and probes of one linear segment: see `build_segment`."""

    def __init__(self, op: Linear, codes: Integers, period: int | None = None) -> None:
        self.op, self.windows = op, len(codes)
        self.period = period_of(op.code, op.neuron) if period is None else period
        source = SpikeEncoder(codes=codes, code=op.code, period=self.period)
        self.inputs = SpikeSink(shape=(codes.shape[1],), code=op.code, period=self.period, windows=self.windows + 2)
        spikes = through_neurons(op.code, source.s_out, self.period)
        neuron = connect_linear(op, self.period, spikes, source.a_out)
        spikes.connect(self.inputs.s_in)
        source.a_out.connect(self.inputs.a_in)
        self.output: MembraneSink | SpikeSink
        if op.fires is None:
            weights = op.neuron.counts(op.code, self.period)
            self.output = MembraneSink(shape=neuron.s_out.shape, weights=weights, windows=self.windows)
            neuron.s_out.connect(self.output.a_in)
        else:
            self.output = SpikeSink(shape=neuron.s_out.shape, code=op.fires, period=self.period, windows=self.windows + 1)
            neuron.s_out.connect(self.output.s_in)
        super().__init__([(op.name, neuron)])

    def run(self) -> SegmentRun:
        """Play all windows and return what came out.

        Raises:
            FitError: a state overflowed 24 bits.
        """
        if self.op.fires is None:
            steps = self.windows * self.period + 1  # the last membrane leaves in the first step after its source's window
            seconds = self.run_steps(steps, self.period)
            self.check_states()
            result = self.output.membranes.astype(np.int64)
        else:
            steps = (self.windows + 1) * self.period  # codes fire one window later
            seconds = self.run_steps(steps, self.period)
            self.check_states()
            result = self.output.codes[1:].astype(np.int64) - self.op.fires.zero
        counts = self.inputs.counts[: self.windows]
        return SegmentRun(result, counts[:, 0].copy(), counts[:, 1].copy(), steps, seconds)


def build_segment(linear: Linear, codes: Integers, period: int | None = None) -> SegmentNetwork:
    """A linear segment on Lava.

    Args:
        linear: the segment.
        codes: (windows, K) input codes q.
        period: time steps per window; the shortest that holds all codes by default.

    Raises:
        FitError: weights that no synapse holds, or a period that is too short.
        UsageError: codes outside the code.
    """
    return SegmentNetwork(linear, codes, period)
