"""The part of a verification that runs inside a Lava job: a segment on native processes and on stock netx."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.export.netx.read import read_segment
from kirin_lava.export.netx.run import run_stock
from kirin_lava.graph.ops import Linear

__all__ = ["Answer", "SegmentRunner", "run_segment"]

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Answer:
    """What Lava computed for one segment.

    Attributes:
        native: (windows, N) sums or fired codes. spikes, outliers: counted in the run.
        stock: (windows, N) sums, or codes where `stock_fires`.
        ms_native, ms_stock: per time step; stock includes the loading of the file.
    """

    native: npt.NDArray[np.int64]
    spikes: int
    outliers: int
    stock: npt.NDArray[np.int64]
    stock_fires: bool
    ms_native: float
    ms_stock: float


class SegmentRunner:
    """`run_segment` as an object, for a `kirin_lava.processes.runtime.Session` that imports Lava once for many segments."""

    def run(self, path: str, linear: Linear, codes: Integers) -> Answer:
        """See `run_segment`."""
        return run_segment(path, linear, codes)


def run_segment(path: str, linear: Linear, codes: Integers) -> Answer:
    """Run the segment of a `.net` on input codes (windows, K)."""
    from kirin_lava.processes.build import build_segment

    with build_segment(linear, codes) as network:
        native = network.run()
    layout = read_segment(Path(path), intact=False).layer.layout
    start = time.monotonic()
    stock = run_stock(Path(path), codes)
    seconds = time.monotonic() - start
    return Answer(
        native.result,
        int(native.spikes.sum()),
        int(native.outliers.sum()),
        stock,
        layout.fires is not None,
        1000 * native.seconds / native.steps,
        1000 * seconds / (layout.period * len(codes) + 1),
    )
