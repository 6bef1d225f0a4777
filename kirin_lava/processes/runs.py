"""What networks return. Apart from the networks, because it is read in programs that do not import Lava."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kirin_lava.graph.values import Array

__all__ = ["BlockRun", "SegmentRun"]


@dataclass(frozen=True, eq=False)
class SegmentRun:
    """What a linear segment did on Lava.

    Attributes:
        result: (windows, N) int64 sums, or codes q where it fires.
        spikes, outliers: (windows,) how many were seen on its inputs.
        steps: time steps. seconds: wall time of them, start-up excluded.
    """

    result: npt.NDArray[np.int64]
    spikes: npt.NDArray[np.int64]
    outliers: npt.NDArray[np.int64]
    steps: int
    seconds: float


@dataclass(frozen=True, eq=False)
class BlockRun:
    """What a block did with some tokens on Lava.

    Attributes:
        result: (tokens, width) float32, or int32 of fixed-point values, the block's output.
        integers: by value name, (tokens, width) int64: input codes of every core operation as they were sent, membranes as
            they arrived, rows of the cache as they were kept. Scores and probabilities are (tokens, heads, positions so far),
            membranes of a `Mix` in parts (tokens, parts * width). Empty without probes.
        spikes, outliers: by core operation, counted on its input connections. Empty without probes.
        steps: time steps. seconds: wall time of them, start-up excluded.
    """

    result: Array
    integers: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    spikes: dict[str, int] = field(default_factory=dict)
    outliers: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
