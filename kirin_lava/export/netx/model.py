"""A whole decoder by its `.net` files: every linear segment computed in unmodified lava-dl, the rest by the integer executor.

    linear segments    stock lava-dl networks that stay alive (`kirin_lava.export.netx.live`)
    fire phases        in the file's own neurons; by the reference form of the neuron where the file could not hold them (see
    `host_fires`)
    attention, host operations, cache    the executor, on the host: stock Lava has no synapses that are made at run time

On Lava's CPU simulator the tokens are those of every other backend. On Loihi 2 the same code places the same files on a board;
no part of that was ever run, see `kirin_lava.export.netx.live`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from kirin_lava.base.files import inside
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.netx.live import StockRack
from kirin_lava.graph.executor import Cache, Executor, answer_of
from kirin_lava.graph.ops import Linear
from kirin_lava.graph.values import Codes, Value
from kirin_lava.processes.runtime import Session, require_backend

__all__ = ["StockModel"]

_PER_JOB = 16
"""Networks in one job: each takes about 50 descriptors, and many systems grant 1024."""


class StockModel(ExitStack):
    """Runs a bundle's `.net` files; keys and values stay on the host. Use as a context manager or close it.

    Args:
        bundle: with all layers.
        backend: "cpu" or "loihi2".
        timeout: wall-clock limit in seconds of loading the networks of a job and of each segment's answer.
        on_progress: called with (what, done, total).

    Attributes:
        host_fires: segments whose fire phase the host computes from sums, because stock neurons could not hold it.

    Raises:
        BackendError: the backend is missing, before anything is loaded; or a time-out.
        VerificationError: a network that does not reproduce the sample in its file.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: str = "cpu",
        timeout: float | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ):
        super().__init__()
        require_backend(backend)
        report = on_progress or (lambda what, done, total: None)
        model = bundle.model()
        paths = {
            _key(block["name"], op["name"]): inside(bundle.path, op["net"])
            for block in bundle.manifest["blocks"]
            for op in block["ops"]
            if "net" in op
        }
        self._names = {op: _key(block.name, op.name) for block in (*model.blocks, model.head) for op in block.linears()}
        self._cache = Cache()
        self._executor = Executor(model, segment=self.segment)
        self._homes: dict[str, Session] = {}
        self._fires: dict[str, bool] = {}
        names = list(paths)
        share = len(names) if backend == "loihi2" else _PER_JOB  # a board has one runtime
        try:
            for start in range(0, len(names), share):
                report("load networks", start, len(names))
                self._open({name: paths[name] for name in names[start : start + share]}, backend, timeout)
        except BaseException:
            self.close()
            raise
        self.host_fires = tuple(n for op, n in self._names.items() if op.fires is not None and not self._fires[n])

    def step(self, tokens: Tensor, every: bool = False) -> Tensor:
        """Take new tokens through all blocks.

        Args:
            tokens: (L,) ids that follow.
            every: logits of all of them, not of the last alone.

        Returns:
            (vocabulary,) float32, or (L, vocabulary) with `every`.
        """
        logits = self._executor.forward(tokens.unsqueeze(0), self._cache, last_only=not every)[0]
        return logits if every else logits[-1]

    def segment(self, op: Linear, codes: Codes) -> Value:
        """What a segment's file makes of codes (1, L, K)."""
        name = self._names[op]
        windows = codes.q.flatten(0, -2).to(torch.int32).numpy()
        answer = torch.from_numpy(self._homes[name].call("run", name, windows)).to(torch.float32)
        answer = answer.view(*codes.q.shape[:-1], -1)
        return answer_of(op, codes, answer if self._fires[name] else op.neuron.reference(answer, op.name))

    def _open(self, paths: dict[str, Path], backend: str, timeout: float | None) -> None:
        session = self.enter_context(Session(StockRack, paths, backend, timeout=timeout))
        self._homes |= dict.fromkeys(paths, session)
        self._fires |= session.call("fires")


def _key(block: str, segment: str) -> str:
    return f"{block}.{segment}"
