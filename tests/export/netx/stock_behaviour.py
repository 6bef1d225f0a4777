"""Jobs that ask unmodified Lava and lava-dl what they do. Each runs in a Lava job and returns plain values."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class StockBehaviour:
    """For a `kirin_lava.processes.runtime.Session`, which imports Lava once for all questions."""

    def dense(self, weight: Array, payload: Array, weight_exp: int) -> Array:
        """What a `fixed_pt` Dense answers to columns of payload (K, steps), one step later."""
        from lava.proc.dense.process import Dense

        synapse = Dense(weights=weight, num_message_bits=24, weight_exp=weight_exp)
        return _run(synapse.s_in, synapse.a_out, payload)

    def load(self, path: Path) -> tuple[int, str]:
        """Layers that lava-dl builds from a file, and its table; or -1 and the name of the error that it raises."""
        from lava.lib.dl.netx.hdf5 import Network

        try:
            network = Network(str(path))
        except Exception as error:
            return -1, f"{type(error).__name__}: {error}"
        return len(network), str(network)

    def netx(self, path: Path, payload: Array, arguments: dict[str, int]) -> Array:
        """What a file's network sends when payload (lines, steps) comes in."""
        from lava.lib.dl.netx.hdf5 import Network

        network = Network(str(path), **arguments)
        return _run(network.inp, network.out, payload)

    def weights(self, matrices: list[Array]) -> list[Array | None]:
        """What a Dense multiplies by, for weights from a `.net`; None where lava-dl raises."""
        from lava.lib.dl.netx.utils import optimize_weight_bits
        from lava.utils.weightutils import clip_weights, determine_sign_mode, truncate_weights

        found: list[Array | None] = []
        for matrix in matrices:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    shifted, bits, exponent, _ = optimize_weight_bits(matrix)
                except OverflowError:
                    found.append(None)
                    continue
                mode = determine_sign_mode(shifted)
                clipped = clip_weights(shifted, mode, num_bits=8)
                found.append(truncate_weights(clipped, mode, bits) * 2.0**exponent)
        return found


def _run(inp: Any, out: Any, payload: Array) -> Array:
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source

    source, sink = Source(data=payload), Sink(shape=out.shape, buffer=payload.shape[1])
    source.s_out.connect(inp)
    out.connect(sink.a_in)
    try:
        sink.run(condition=RunSteps(payload.shape[1]), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        return sink.data.get().astype(np.int64)
    finally:
        sink.stop()


def load_foreign(paths: list[str]) -> list[str | None]:
    """Build a network of lava-dl from each file; the name of the error that it raises, or None."""
    from lava.lib.dl.netx.hdf5 import Network

    found: list[str | None] = []
    for path in paths:
        try:
            Network(path, input_shape=(8, 8, 1))
            found.append(None)
        except Exception as error:
            found.append(type(error).__name__)
    return found
