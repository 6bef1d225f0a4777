"""Probing a lowered block: run the integer reference on calibration inputs and keep what its segments saw and computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.graph.block import Block
from kirin_lava.graph.executor import BlockExecutor, Cache
from kirin_lava.graph.ops import Linear, Op
from kirin_lava.graph.values import Array, Codes, Value

__all__ = ["Probe", "probe_block"]

WINDOWS = 16
"""Windows that are kept per segment, evenly spread over the sample."""

_TOKENS = 64  # run at a time, for the memory of what a head computes
_OUTPUTS = 4096  # whose sums are looked at at once, for the memory of their float64 weights


@dataclass(frozen=True, eq=False)
class Probe:
    """What a linear segment computed on calibration text when it was exported.

    Attributes:
        codes: (windows, K) int16 input codes, int32 where they are wider.
        result: (windows, N) int32 sums, or output codes where the segment fires; int64 of sums that no membrane holds whole.
        peak: (N,) of the same type, largest |sum| of each neuron over the whole calibration sample.
    """

    codes: npt.NDArray[np.int16] | npt.NDArray[np.int32]
    result: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    peak: npt.NDArray[np.int32] | npt.NDArray[np.int64]

    def is_one(self) -> bool:
        """Whether types and shapes are those of a probe."""
        known = self.codes.dtype in (np.int16, np.int32) and self.result.dtype in (np.int32, np.int64)
        shapes = (self.codes.ndim, self.result.ndim, self.peak.ndim) == (2, 2, 1)
        return bool(known and shapes and self.peak.dtype == self.result.dtype and 0 < len(self.codes) == len(self.result))


def probe_block(
    block: Block, rows: Sequence[Tensor], rotary: tuple[Array, Array] | None, windows: int = WINDOWS
) -> dict[str, Probe]:
    """The probe of every linear segment.

    Args:
        rows: inputs of the block, each (1, L, width) float32.
        windows: how many windows to keep.
    """
    codes: dict[str, list[Tensor]] = {}
    sums: dict[str, list[Tensor]] = {}
    peaks: dict[str, Tensor] = {}
    share = -(-windows // len(rows))
    chosen = torch.empty(0, dtype=torch.int64)  # of the tokens that are run

    def watch(_: Block, op: Op, values: dict[str, Value]) -> None:
        if not isinstance(op, Linear):
            return
        source, result = values[op.input], values[op.output]
        assert isinstance(source, Codes)
        q = source.q.flatten(0, -2)
        membrane = _largest(q.double(), torch.from_numpy(op.weight))
        peaks[op.name] = torch.maximum(peaks[op.name], membrane) if op.name in peaks else membrane
        out = (result.q if isinstance(result, Codes) else result).flatten(0, -2)
        codes.setdefault(op.name, []).append(q[chosen])
        sums.setdefault(op.name, []).append(out[chosen])

    executor = BlockExecutor(rotary, observer=watch)
    for x in rows:
        length, cache = x.shape[1], Cache()
        wanted = torch.linspace(0, length - 1, min(share, length)).long()
        for positions in torch.arange(length).split(_TOKENS if block.causal else length):
            start, stop = int(positions[0]), int(positions[-1]) + 1
            chosen = wanted[(start <= wanted) & (wanted < stop)] - start
            executor.run(block, x[:, start:stop], positions, cache)
    probes = {}
    for op in block.linears():
        sent = np.int16 if op.code.largest <= np.iinfo(np.int16).max else np.int32
        made = np.int64 if op.neuron.every_step else np.int32
        probes[op.name] = Probe(
            torch.cat(codes[op.name])[:windows].numpy().astype(sent),
            torch.cat(sums[op.name])[:windows].numpy().astype(made),
            peaks[op.name].numpy().astype(made),
        )
    return probes


def _largest(codes: Tensor, weight: Tensor) -> Tensor:
    """(N,) largest magnitudes of `codes @ weight.T` over rows (L, K), in float64; some outputs at a time, for memory."""
    return torch.cat([(codes @ few.double().T).abs().amax(0) for few in weight.split(_OUTPUTS)])
