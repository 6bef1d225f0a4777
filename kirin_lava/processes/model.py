"""A whole model on Lava: one live network per block, each in a job of its own; a decoder token by token or a prompt at once, an
encoder text by text."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.executor import Executor, logits_of
from kirin_lava.graph.values import Array
from kirin_lava.processes.runtime import Session

if TYPE_CHECKING:
    from kirin_lava.processes.block import BlockNetwork

__all__ = ["LavaModel"]


def open_block(block: Block, capacity: int, rotary: tuple[Array, Array] | None) -> BlockNetwork:
    """In a job: the network of a block. Lava is imported there alone, because it changes the program that imports it."""
    from kirin_lava.processes.block import build_block

    return build_block(block, capacity, rotary)


class LavaModel(ExitStack):
    """Runs a model on Lava's CPU simulator; keys and values stay in the networks. Use as a context manager or close it.

    Args:
        model: the converted model.
        capacity: most positions.
        timeout: wall-clock limit in seconds of building a block's network and of each pass through it.
        on_progress: called with (what, done, total).
    """

    def __init__(
        self,
        model: Model,
        capacity: int,
        timeout: float | None = None,
        on_progress: Callable[[str, int, int], None] | None = None,
    ):
        super().__init__()
        self._model, self._embed, self._head = model, Executor(model).embed, model.head
        self._position = 0
        self._report = on_progress or (lambda what, done, total: None)
        self._sessions: list[Session] = []
        rotary = None if model.rotary is None else (model.rotary[0][:capacity].copy(), model.rotary[1][:capacity].copy())
        blocks = [block for block in (*model.blocks, model.head) if block.ops]  # an encoder may have no head
        try:
            for index, block in enumerate(blocks):
                self._report("build networks", index, len(blocks))
                self._sessions.append(self.enter_context(Session(open_block, block, capacity, rotary, timeout=timeout)))
        except BaseException:
            self.close()
            raise

    def step(self, tokens: Tensor, every: bool = False) -> Tensor:
        """Take new tokens through all blocks.

        Args:
            tokens: (L,) ids that follow; of an encoder a whole text.
            every: logits of all of them, not of the last alone. An encoder has one result, see `Executor.forward`.

        Returns:
            (vocabulary,) float32, or (L, vocabulary) with `every`, and of an encoder (L or 1, outputs).
        """
        model = self._model
        if not model.causal:
            x, every = self._whole_text(tokens), True
        else:
            x = self._embed(tokens.unsqueeze(0), self._position)[0].numpy()
            self._position += len(tokens)
            x = self._run(self._sessions[: len(model.blocks)], x)
        if self._head.ops:
            x = x[:1] if model.of_first else x if every else x[-1:]
            x = self._run(self._sessions[-1:], x)
        logits = logits_of(self._head, torch.from_numpy(x))
        return logits if every else logits[-1]

    def states(self, tokens: Tensor) -> Tensor:
        """What the last layer of an encoder makes of a whole text, (L,) ids -> (L, width) float32."""
        return logits_of(self._model.blocks[-1], torch.from_numpy(self._whole_text(tokens)))

    def _whole_text(self, tokens: Tensor) -> Array:
        for session in self._sessions:
            session.call("restart")
        return self._run(self._sessions[: len(self._model.blocks)], self._embed(tokens.unsqueeze(0))[0].numpy())

    def _run(self, sessions: list[Session], x: Array) -> Array:
        for session in sessions:
            self._report("blocks", self._sessions.index(session), len(self._sessions))
            x = session.call("run", x).result
        return x
