"""The part of a verification that runs inside a Lava job: every segment on native processes and on stock netx."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.export.netx.read import read_segment
from kirin_lava.export.netx.run import run_stock
from kirin_lava.graph.ops import Linear

__all__ = ["Answer", "run_segments"]

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


def run_segments(work: Sequence[tuple[str, Linear, Integers]]) -> list[Answer]:
    """Run (path of the `.net`, the segment, its input codes (windows, K)) one after the other. For `runtime.run_job`."""
    from kirin_lava.processes.build import build_segment

    answers = []
    for path, linear, codes in work:
        with build_segment(linear, codes) as network:
            native = network.run()
        layout = read_segment(Path(path), intact=False).layer.layout
        start = time.monotonic()
        stock = run_stock(Path(path), codes)
        seconds = time.monotonic() - start
        answers.append(
            Answer(
                native.result,
                int(native.spikes.sum()),
                int(native.outliers.sum()),
                stock,
                layout.fires is not None,
                1000 * native.seconds / native.steps,
                1000 * seconds / (layout.period * len(codes) + 1),
            )
        )
    return answers
