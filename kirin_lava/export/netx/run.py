"""Runs a written `.net` in unmodified lava-dl, in Lava's simulator.

Lava forces its ways on the program that imports it, so these functions are for a job of `kirin_lava.processes.runtime`:
`run_job(run_stock, path, codes)`, or `Session(StockNetx)` and `session.call("run", path, codes)` for many files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import BackendError
from kirin_lava.export.netx.read import StoredSegment, read_segment
from kirin_lava.processes.runtime import progress
from kirin_lava.processes.start import start_runtime
from kirin_lava.spikes.stock.layout import columns, fired_codes, read_sums
from kirin_lava.spikes.stock.ranges import check_codes

__all__ = ["StockNetx", "load_network", "run_stock"]

Integers = npt.NDArray[np.integer[Any]]
Int64 = npt.NDArray[np.int64]


class StockNetx:
    """`run_stock` as an object, for a `kirin_lava.processes.runtime.Session` that imports Lava once for many files."""

    def run(self, path: Path, codes: Integers) -> Int64:
        """See `run_stock`."""
        return run_stock(path, codes)


def run_stock(path: Path, codes: Integers) -> Int64:
    """Load a segment with `lava.lib.dl.netx.hdf5.Network` and run it.

    The integers are computed from the weights as they are in the file, even where it was edited after it was written.

    Args:
        path: a `.net` that `write_segment` wrote.
        codes: (windows, K) codes q of the code that the segment takes.

    Returns:
        (windows, N) sums v of a read segment, codes q of a fire segment.

    Raises:
        UsageError: the file is damaged, or the codes are not for it.
        FitError: the segment is only `calibrated` and these codes leave its ranges.
        VerificationError: neurons that are not at rest, or fire, when they must not.
    """
    segment = read_segment(path, intact=False)
    layer = segment.layer
    stimulus = columns(layer.layout, codes)
    check_codes(segment.linear.name, layer.layout, layer.synapses, layer.ranges, codes)
    answer = _simulate(segment, stimulus)
    if layer.layout.fires is None:
        return read_sums(layer.layout, layer.constant, answer)
    return fired_codes(layer.layout, answer)


def load_network(segment: StoredSegment) -> Any:
    """A segment's file in unmodified lava-dl, `lava.lib.dl.netx.hdf5.Network`.

    Raises:
        BackendError: lava-dl made something else of it.
    """
    from lava.lib.dl.netx.hdf5 import Network

    layout = segment.layer.layout
    network = Network(str(segment.path), **layout.network)
    network.net_config.f.close()  # lava-dl would keep the file open, and locked, for good
    if network.inp.shape != (layout.lines,) or network.out.shape != (layout.neurons,):
        raise BackendError(
            f"{segment.path}: lava-dl made a network of {network.inp.shape} inputs and {network.out.shape} outputs"
        )
    return network


def _simulate(segment: StoredSegment, stimulus: npt.NDArray[np.int32]) -> Int64:
    """(lines, steps) payloads -> (neurons, steps) what the neurons send."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source

    network, period, steps = load_network(segment), segment.layer.layout.period, stimulus.shape[1]
    source, sink = Source(data=stimulus), Sink(shape=network.out.shape, buffer=steps)
    source.s_out.connect(network.inp)
    network.out.connect(sink.a_in)
    try:
        start_runtime(sink, Loihi2SimCfg(select_tag="fixed_pt"))
        for done in range(0, steps, period):
            now = min(period, steps - done)
            sink.run(condition=RunSteps(now))
            progress(done + now, steps)
        return np.rint(sink.data.get()).astype(np.int64)
    finally:
        sink.stop()
