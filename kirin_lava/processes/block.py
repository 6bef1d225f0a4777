"""The network of a block: host stages, synapses, neurons and attention by one window clock."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.graph.block import Block
from kirin_lava.graph.ops import CoreOp, Linear, Mix, Score, require_ops
from kirin_lava.graph.values import Array
from kirin_lava.processes.build import Network, connect_linear
from kirin_lava.processes.encoder.levels import through_neurons
from kirin_lava.processes.host import HostStage, by_position
from kirin_lava.processes.integer_stage import IntegerStage
from kirin_lava.processes.mailbox import Mailbox
from kirin_lava.processes.matmul import SpikeMatmul
from kirin_lava.processes.pipeline import Pipeline, plan_block
from kirin_lava.processes.runs import BlockRun
from kirin_lava.processes.sink import SpikeSink
from kirin_lava.spikes.neurons.silence.process import SilenceNeuron

__all__ = ["BlockNetwork", "build_block"]


class BlockNetwork(Network):
    """A live decoder block: see `build_block`."""

    def __init__(self, plan: Pipeline, rotary: tuple[Array, Array] | None, probe: bool) -> None:
        self.plan = plan
        integers = plan.block.fraction is not None
        self._mailbox = Mailbox(plan.capacity, plan.block.width, plan.widths[plan.block.output], integers)
        self._position = self._window = 0
        kind = IntegerStage if integers else HostStage
        self._stages = {
            stage.index: kind(plan=plan, stage=stage, mailbox=self._mailbox, rotary=rotary) for stage in plan.stages
        }
        self._matmuls: dict[str, SpikeMatmul] = {}
        self._probes: dict[str, SpikeSink] = {}
        neurons: list[tuple[str, SilenceNeuron]] = []
        for index, core in enumerate(plan.cores):
            neurons.append((core.name, self._connect(index, core, neurons[-1][1] if plan.is_fired(index) else None, probe)))
        for before, after in pairwise(plan.stages):
            self._stages[before.index].x_out.connect(self._stages[after.index].x_in)
        super().__init__(neurons)

    def _connect(self, index: int, core: CoreOp, fired: SilenceNeuron | None, probe: bool) -> SilenceNeuron:
        """Core operation `index` behind its source: a host stage, or the neurons that fire its codes."""
        spikes = through_neurons(core.code, self._stages[index].s_out, self.plan.period) if fired is None else fired.s_out
        outliers = self._stages[index].a_out if fired is None else None
        if isinstance(core, Linear):
            neuron = connect_linear(core, self.plan.period, spikes, outliers)
        else:
            matmul = self._matmuls[core.name] = self._matmul(core)
            spikes.connect(matmul.s_in)
            self._stages[index].a_out.connect(matmul.a_in)
            self._stages[index].c_out.connect(matmul.c_in)
            period = self.plan.period
            neuron = core.neuron.process(matmul.a_out.shape, period, core.code.gains(period))
            matmul.a_out.connect(neuron.a_in)
        if index + 1 in self._stages:
            neuron.s_out.connect(self._stages[index + 1].v_in)
        if probe:
            waited = self.plan.wait(len(self.plan.cores), self.plan.capacity)
            windows = self.plan.capacity + self.plan.latency + waited + 1
            sink = self._probes[core.name] = SpikeSink(
                shape=spikes.shape, code=core.code, period=self.plan.period, windows=windows
            )
            spikes.connect(sink.s_in)
            if outliers is not None:
                outliers.connect(sink.a_in)
        return neuron

    def _matmul(self, core: Score | Mix) -> SpikeMatmul:
        return SpikeMatmul(
            kind="score" if isinstance(core, Score) else "mix",
            heads=core.heads,
            kv_heads=core.kv_heads,
            head_dim=self.plan.widths[core.cache] // core.kv_heads,
            capacity=self.plan.capacity,
            period=self.plan.period,
            zero=core.code.zero,
            part=core.part if isinstance(core, Mix) else None,
            halves=self.plan.halves(core),
            window=core.window,
            causal=self.plan.block.causal,
        )

    @property
    def position(self) -> int:
        """Tokens so far, the position of the next one."""
        return self._position

    def run(self, x: Array) -> BlockRun:
        """Take tokens through the block, one per window, and wait for the last result. Keys and values stay for the next call.
        A block that is not causal takes a whole sequence in one call.

        Args:
            x: (tokens, width) float32, or integers of a block that takes fixed-point values, the tokens that follow.

        Raises:
            UsageError: more tokens than the capacity.
            FitError: a state overflowed 24 bits, or an activation is not finite.
        """
        tokens, plan = len(x), self.plan
        if not plan.block.causal:
            self.restart()
        if self._position + tokens > plan.capacity:
            raise UsageError(
                f"{plan.block.name}: {self._position + tokens} positions do not fit a network built for {plan.capacity}"
            )
        if tokens == 0:
            return BlockRun(np.zeros((0, plan.widths[plan.block.output]), self._mailbox.results.dtype))
        first, start = self._window, self._position
        self._mailbox.put(x, first, start)
        # The last stage takes the last token in the first step of its window; the network rests at a window's border.
        windows = tokens + plan.latency + plan.wait(len(plan.cores), tokens)
        steps = windows * plan.period
        seconds = self.run_steps(steps, plan.period)
        self._window += windows
        self._position += tokens
        self.check_states()
        self._mailbox.check()
        rows = slice(start, start + tokens)
        return BlockRun(self._mailbox.results[rows].copy(), *self._read_probes(first, rows), steps, seconds)

    def restart(self) -> None:
        """Forget the tokens so far: the next one has position 0."""
        self._position = 0

    def _read_probes(self, first: int, rows: slice) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, int], dict[str, int]]:
        integers: dict[str, npt.NDArray[np.int64]] = {}
        spikes: dict[str, int] = {}
        outliers: dict[str, int] = {}
        tokens = rows.stop - rows.start
        for index, core in enumerate(self.plan.cores):
            if core.name not in self._probes:
                continue
            sink = self._probes[core.name]
            windows = (first + index + self.plan.wait(index, tokens) + np.arange(tokens)) % len(sink.codes)
            codes = sink.codes[windows].astype(np.int64) - core.code.zero
            integers[core.input] = self._by_head(codes, core, rows) if isinstance(core, Mix) else codes
            counts = sink.counts[windows].sum(0)
            spikes[core.name], outliers[core.name] = int(counts[0]), int(counts[1])
            if core.name in self._matmuls and isinstance(core, (Score, Mix)):
                integers[core.cache] = self._matmuls[core.name].rows[rows].astype(np.int64)
            if index + 1 in self._stages:
                sums = self._stages[index + 1].received[rows].astype(np.int64)
                integers[core.output] = self._by_head(sums, core, rows) if isinstance(core, Score) else sums
        return integers, spikes, outliers

    @staticmethod
    def _by_head(wide: npt.NDArray[np.int64], core: Score | Mix, rows: slice) -> npt.NDArray[np.int64]:
        """(tokens, heads * places) -> (tokens, heads, positions)."""
        places = wide.reshape(len(wide), core.heads, -1)
        if core.window is None:
            return places[..., : rows.stop]
        result = np.zeros((*places.shape[:2], rows.stop), np.int64)
        for i, position in enumerate(range(rows.start, rows.stop)):
            result[i, :, : position + 1] = by_position(places[i], core.window, position + 1)
        return result


def build_block(block: Block, capacity: int, rotary: tuple[Array, Array] | None = None, probe: bool = False) -> BlockNetwork:
    """The network of a block.

    Args:
        block: a decoder layer or the head.
        capacity: most positions it will see.
        rotary: cos and sin, each (positions, head_dim) float32, of the model.
        probe: keep every integer of every port and count spikes.

    Raises:
        FitError: weights that no synapse holds.
        UnsupportedError: a block that is no pipeline.
    """
    if capacity < 1:
        raise UsageError("a block network needs room for one position at least")
    if rotary is not None and len(rotary[0]) < capacity:
        raise FitError(f"{block.name}: {capacity} positions are more than the {len(rotary[0])} of the rotary tables")
    return BlockNetwork(plan_block(block, capacity), rotary, probe)


require_ops("the block network on Lava", (Linear, Score, Mix))
