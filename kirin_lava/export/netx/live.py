"""Stock segments that stay alive: networks of unmodified lava-dl that are asked again and again.

A network loads in a moment but starts and stops slowly, so that a token at a time needs networks that live on. Time goes on
in a live network, and a fire segment is reset by Lava's clock, every `period` steps from its first: whatever is played must
begin at a multiple of that. A read segment is at rest after each of its windows and can begin anywhere.

For a job of `kirin_lava.processes.runtime`: `Session(StockRack, paths)`, then `session.call("run", name, codes)`.

**On the simulator** every segment is a network with a runtime of its own, so that only the one that is asked costs time.
**On Loihi 2** a board has one runtime: all segments lie on it together, and run together. Their inputs and outputs pass through
the adapters of lava-loihi, as Lava's own `lava.networks.gradedvecnetwork` uses them. That package is closed: what is written
here for it was never run, neither on a chip nor against the package. It is therefore not believed: on every backend a network
must reproduce the sample in its file before it is asked anything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import VerificationError
from kirin_lava.base.loihi2 import MESSAGE_BITS
from kirin_lava.export.netx.read import StoredSegment, read_segment
from kirin_lava.export.netx.run import load_network
from kirin_lava.processes.runtime import progress
from kirin_lava.processes.start import start_runtime
from kirin_lava.spikes.stock.layout import columns, fired_codes, read_sums
from kirin_lava.spikes.stock.ranges import check_codes

__all__ = ["StockNetworks", "StockRack"]

Integers = npt.NDArray[np.integer[Any]]
Int64 = npt.NDArray[np.int64]

_WINDOWS = 16  # of a tape: more are played one tape after the other


class StockRack:
    """The files of some segments in stock lava-dl, by name.

    Args:
        paths: `.net` files that `write_segment` wrote.
        backend: "cpu", or "loihi2", see above.
        together: whether all segments share one runtime; by default on Loihi 2 only.

    Raises:
        UsageError: a file is damaged.
        VerificationError: a network does not reproduce its file's sample.
    """

    def __init__(self, paths: Mapping[str, Path], backend: str = "cpu", together: bool | None = None) -> None:
        segments = {name: read_segment(path) for name, path in paths.items()}
        shared = backend == "loihi2" if together is None else together
        groups = [list(segments)] if shared else [[name] for name in segments]
        self._segments = segments
        self._homes: dict[str, StockNetworks] = {}
        for group in groups:
            networks = StockNetworks([segments[name] for name in group], backend)
            self._homes.update(dict.fromkeys(group, networks))
        for name, segment in segments.items():
            self._check(name, segment)

    def fires(self) -> dict[str, bool]:
        """Whether a segment answers with the codes that its neurons fired, else with sums."""
        return {name: segment.layer.layout.fires is not None for name, segment in self._segments.items()}

    def run(self, name: str, codes: Integers) -> Int64:
        """What a segment makes of codes (windows, K): sums, or codes where it fires, (windows, N).

        Raises:
            FitError: the segment is only `calibrated` and these codes leave its ranges.
            VerificationError: neurons that are not at rest, or fire, when they must not.
        """
        return self._homes[name].run(self._segments[name], codes)

    def _check(self, name: str, segment: StoredSegment) -> None:
        codes, expected = segment.sample
        got = self.run(name, codes)
        wrong = int((got != expected).sum())
        if wrong:
            raise VerificationError(
                f"{segment.path}: {wrong} of the {expected.size} integers of its own sample come out differently here: "
                "this backend does not compute what the file means, use another"
            )


@dataclass(frozen=True, eq=False)
class _Port:
    """Where a segment is fed and heard."""

    player: Any
    recorder: Any


class StockNetworks:
    """StoredSegments in one runtime: time goes on for all of them while one is asked; see the module."""

    def __init__(self, segments: Sequence[StoredSegment], backend: str) -> None:
        self._backend = backend
        self._ports = {id(segment): self._connect(segment) for segment in segments}
        players = [port.player for port in self._ports.values()]
        for before, after in pairwise(players):
            before.link_out.connect(after.link_in)
        self._main = players[0]
        self._beat = math.lcm(*(s.layer.layout.period for s in segments if s.layer.layout.fires is not None))
        self._steps = 0

    def run(self, segment: StoredSegment, codes: Integers) -> Int64:
        """See `StockRack.run`."""
        layer = segment.layer
        check_codes(segment.linear.name, layer.layout, layer.synapses, layer.ranges, codes)
        parts = []
        for start in range(0, len(codes), _WINDOWS):
            answer = self._play(segment, columns(layer.layout, codes[start : start + _WINDOWS]))
            if layer.layout.fires is None:
                parts.append(read_sums(layer.layout, layer.constant, answer))
            else:
                parts.append(fired_codes(layer.layout, answer))
            progress(min(start + _WINDOWS, len(codes)), len(codes))
        return np.concatenate(parts) if parts else np.zeros((0, layer.layout.outputs), np.int64)

    def _play(self, segment: StoredSegment, stimulus: npt.NDArray[np.int32]) -> Int64:
        """(lines, steps) payloads -> (neurons, steps) what the neurons send."""
        from lava.magma.core.run_conditions import RunSteps

        port, count = self._ports[id(segment)], stimulus.shape[1]
        # Column c is answered in step c + 1. In the last column of a window a neuron of a fire segment could only say 0, which
        # is silence: nobody waits for its answer, or the next window would have to wait for a whole period.
        heard = count if segment.layer.layout.fires is None else count - 1
        port.player.tape[:count] = stimulus.T
        port.recorder.tape[:count] = 0
        port.player.span[:] = self._steps, count
        port.recorder.span[:] = self._steps, heard
        steps = -(-heard // self._beat) * self._beat
        if self._main.runtime is None:
            start_runtime(self._main, self._config())
        self._main.run(condition=RunSteps(steps))
        self._steps += steps
        answer: Int64 = port.recorder.tape[:count].T.astype(np.int64)
        # messages have 24 bits on a chip, and a host reads them without their sign
        return (answer + 2 ** (MESSAGE_BITS - 1)) % 2**MESSAGE_BITS - 2 ** (MESSAGE_BITS - 1)

    def _connect(self, segment: StoredSegment) -> _Port:
        from kirin_lava.processes.tape import TapePlayer, TapeRecorder

        layout = segment.layer.layout
        network, longest = load_network(segment), _WINDOWS * layout.period + 1
        port = _Port(TapePlayer(lines=layout.lines, columns=longest), TapeRecorder(lines=layout.neurons, columns=longest))
        if self._backend == "cpu":
            port.player.s_out.connect(network.inp)
            network.out.connect(port.recorder.a_in)
            return port
        from lava.proc.embedded_io.spike import NxToPyAdapter, PyToNxAdapter

        bits = {} if layout.fires is not None else {"num_message_bits": MESSAGE_BITS}  # spikes have no payload
        into, out = (
            PyToNxAdapter(shape=network.inp.shape, num_message_bits=MESSAGE_BITS),
            NxToPyAdapter(shape=network.out.shape, **bits),
        )
        port.player.s_out.connect(into.inp)
        into.out.connect(network.inp)
        network.out.connect(out.inp)
        out.out.connect(port.recorder.a_in)
        return port

    def _config(self) -> Any:
        from lava.magma.core.run_configs import Loihi2HwCfg, Loihi2SimCfg

        # Without a tag Lava takes a model for neuro cores where there is one, which are the fixed-point ones.
        return Loihi2SimCfg(select_tag="fixed_pt") if self._backend == "cpu" else Loihi2HwCfg()
