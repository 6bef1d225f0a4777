"""A whole decoder on Lava: one live network per block, each in a job of its own, token by token or a prompt at once."""

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
        self._embed, self._head = Executor(model).embed, model.head
        self._position = 0
        self._report = on_progress or (lambda what, done, total: None)
        self._sessions: list[Session] = []
        rotary = None if model.rotary is None else (model.rotary[0][:capacity].copy(), model.rotary[1][:capacity].copy())
        blocks = [*model.blocks, model.head]
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
            tokens: (L,) ids that follow.
            every: logits of all of them, not of the last alone.

        Returns:
            (vocabulary,) float32, or (L, vocabulary) with `every`.
        """
        x = self._embed(tokens.unsqueeze(0), self._position)[0].numpy()
        self._position += len(tokens)
        for index, session in enumerate(self._sessions):
            self._report("blocks", index, len(self._sessions))
            if session is self._sessions[-1] and not every:
                x = x[-1:]
            x = session.call("run", x).result
        logits = logits_of(self._head, torch.from_numpy(x))
        return logits if every else logits[-1]
