"""The integer reference: a converted model computed with matrix products, spikes nowhere in sight.

It defines what every other backend must reproduce bit for bit. Sums of codes and weights are exact, see `ExactMatmul`; host
operations come from `kirin_lava.graph.ops`: their bits depend on nothing but the token. Keys and values stay as codes in a
cache, so a prompt in one batch, in pieces, or token by token gives the same integers. Where a block is not causal the cache
is a buffer of the sequence: all its keys and values are in it before the first token attends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kirin_lava.base.arrays import quiet
from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.integers import to_real
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.base.matmul import ExactMatmul
from kirin_lava.base.threads import at_most, spread, threads_for, usable
from kirin_lava.graph.attention import (
    Alone,
    all_score_sums,
    mix_sums,
    one_head,
    rows_at_once,
    score_sums,
    shares_of,
    some_tokens,
)
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.cache import Cache, Columns
from kirin_lava.graph.join import Joined, join_parts
from kirin_lava.graph.ops import Encode, Linear, Mix, Op, Score, StageOp, require_ops
from kirin_lava.graph.stages import Phase, Stage, phases_of
from kirin_lava.graph.values import Array, Codes, Constants, HostContext, Turns, Value, Values, codes_in, tensor_in
from kirin_lava.spikes.neurons.neuron import check_state

__all__ = ["BlockExecutor", "Cache", "Executor", "Observer", "SegmentBackend", "answer_of", "cached_name", "logits_of"]

_PIECE, _FEW_TOKENS = 128, 64  # tokens at a time, of all rows; so few are not divided
_LARGE_BLOCK = 7 * 2**20  # float32 numbers, just below the 32 MiB up to which glibc learns

Observer = Callable[[Block, Op, dict[str, Value]], None]
"""Called after every operation with all values of the block so far, cached rows of codes under `cached_name`.

It sees all tokens of a run at once. One that has an attribute `in_pieces`, and it is true, is called for some tokens after the
others, with their values alone: then a text of any length is run as fast, and in as little memory, as without it.
"""
_Call = Callable[[Values, HostContext, Columns], Value]
SegmentBackend = Callable[[Linear, Codes], Value]
"""Computes a segment from codes (B, L, K): sums (B, L, N), or codes where it fires."""


def cached_name(cache: str) -> str:
    """Where an observer finds what a `Score` or `Mix` read: (B, kv_heads, J, head_dim) codes of all tokens so far."""
    return f"{cache}.cached"


@dataclass
class _Piece:
    """Some consecutive tokens on their way through a block."""

    values: Values
    context: HostContext


class BlockExecutor:
    """Runs single blocks; `Executor` runs a model with it.

    Many tokens are taken in pieces that a core's cache holds, on all threads that the caller has; an operator has one thread.

    Args:
        rotary: cos and sin, each (positions, head_dim) float32, or None.
        device: "cpu" or "cuda"; the integers are the same.
        observer: called after every operation, in the order of the block.
        segment: computes the linear segments instead of matrix products, on another backend.
    """

    def __init__(
        self,
        rotary: tuple[Array, Array] | None,
        device: str = "cpu",
        observer: Observer | None = None,
        segment: SegmentBackend | None = None,
    ):
        _keep_freed_memory()
        self.device = torch.device(device)
        self.observer = observer
        self._in_pieces = segment is None and (observer is None or bool(getattr(observer, "in_pieces", False)))
        self._segment = segment or self._linear
        self._matmuls: dict[Linear, ExactMatmul] = {}
        self._phases: dict[Block, tuple[Phase, ...]] = {}
        self._calls: dict[Op, _Call] = {}
        self._alone: dict[Stage, Alone] = {}
        self._constants: Constants = {}
        self._turns: Turns = {}
        self._rotary = None
        if rotary is not None:
            self._rotary = (torch.from_numpy(rotary[0]).to(self.device), torch.from_numpy(rotary[1]).to(self.device))

    @torch.inference_mode()
    def run(self, block: Block, x: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """One block on (B, L, width) -> (B, L, width), at absolute positions (L,) that follow what the cache holds; one
        that is not causal takes its sequence whole, from position 0 on."""
        start = int(positions[0])
        if start and not block.causal:
            raise UsageError(f"{block.name} is not causal: it takes a sequence at once, not from position {start} on")
        if block not in self._phases:
            self._prepare(block)
        steps = cache.steps.setdefault(block.name, {})
        rows = self._rows(*x.shape[:2])
        pieces = [
            _Piece({"x": some}, self._context(block, at, steps))
            for some, at in zip(x.split(rows, 1), positions.split(rows), strict=True)
        ]
        for phase in self._phases[block]:
            with quiet():
                self._go_through(block, phase, pieces, cache)
        if len(pieces) == 1:
            return _result(block, pieces[0].values)
        whole = x.new_empty(*x.shape[:2], block.ports[block.output].width)
        for piece, place in zip(pieces, whole.split(rows, 1), strict=True):
            place.copy_(_result(block, piece.values))
            piece.values = {}  # logits of many tokens are large
        return whole

    def _prepare(self, block: Block) -> None:
        own = self._segment == self._linear
        plain = join_parts(block) if own and self.observer is None else block
        self._phases[block] = phases_of(plain)
        self._calls |= {op: self._call(block, op) for op in plain.ops}
        for phase in self._phases[block]:
            for stage in phase.stages:
                if self.observer is None and (alone := one_head(stage)) is not None:
                    self._alone[stage] = alone
                    self._calls |= {op: self._call(block, op) for op in alone.ops}
        if own:
            for op in plain.linears():
                wide = op.neuron.every_step
                self._matmuls[op] = ExactMatmul(op.weight, op.code.largest, self.device, op.code.signed, wide)

    def _rows(self, batch: int, length: int) -> int:
        """Tokens of a row that are taken at a time."""
        if not self._in_pieces or self.device.type != "cpu" or batch * length <= _FEW_TOKENS:
            return length
        threads = usable() if self.observer is None else 1
        pieces = -(-batch * length // (_PIECE * threads)) * threads
        return -(-length // pieces)

    def _context(self, block: Block, positions: Tensor, steps: dict[str, Tensor]) -> HostContext:
        return HostContext(positions, self._rotary, steps, self._constants, self._turns, check=False, causal=block.causal)

    def _call(self, block: Block, op: Op) -> _Call:
        """What computes an operation."""
        if isinstance(op, Linear):
            return lambda values, context, cache: self._segment(op, codes_in(values, op.input))
        if isinstance(op, (Score, Mix)):
            of_score = score_sums if block.causal else all_score_sums
            product: Callable[[Any, Codes, Tensor, Any], Value] = of_score if isinstance(op, Score) else mix_sums
            kept = block.ports[op.cache].code
            return lambda values, context, cache: product(
                op, codes_in(values, op.input), cache.columns(block.name, op.cache, context.last), kept
            )
        assert isinstance(op, StageOp)
        compute = op.compute
        return lambda values, context, cache: compute(values, context)

    def _go_through(self, block: Block, phase: Phase, pieces: list[_Piece], cache: Cache) -> None:
        """One phase, at whose end the codes are kept that are cached."""

        def go(piece: _Piece) -> None:
            for stage in phase.stages:
                if len(stage) > 1 and self._in_pieces:
                    self._attend(block, stage, piece, cache)
                else:
                    self._compute(block, stage, piece.values, piece.context, cache)
            if len(pieces) > 1:
                piece.values = {name: value for name, value in piece.values.items() if name in phase.kept}

        if len(pieces) > 1 and self.observer is None:
            spread(go, pieces)
        else:
            for piece in pieces:
                go(piece)
        for op in phase.cached:
            for piece in pieces:
                _keep(block, op, piece, cache)

    def _compute(self, block: Block, ops: Stage, values: Values, context: HostContext, cache: Columns) -> None:
        """Operations one after another."""
        for op in ops:
            values[op.output] = self._calls[op](values, context, cache)
            if self.observer is not None:
                if isinstance(op, (Score, Mix)):
                    values[cached_name(op.cache)] = cache.columns(block.name, op.cache, context.last).transpose(2, 3)
                self.observer(block, op, values)

    def _attend(self, block: Block, ops: Stage, piece: _Piece, cache: Cache) -> None:
        """An attention on as many tokens at a time as fit a core's cache, without the columns that none of them sees; and where
        these are not all, on one head of the keys after the other."""
        values, context = piece.values, piece.context
        batch, length = codes_in(values, ops[0].input).q.shape[:2]
        columns = context.stop if block.causal else cache.length_of(block.name)
        if rows_at_once(ops, batch, columns) >= length:
            self._compute(block, ops, values, context, cache)
            return
        shares = []
        for share in shares_of(ops, self._alone.get(ops), values, context.steps, cache):
            rows = rows_at_once(share.ops, batch, columns)
            parts = []
            for start in range(0, length, rows):
                tokens = slice(start, start + rows)
                part = {name: some_tokens(value, tokens) for name, value in share.values.items()}
                at = self._context(block, context.positions[tokens], share.steps)
                self._compute(block, share.ops, part, at, share.cache)
                parts.append(part)
                for op in ops:
                    if block.ports[op.output].by_position:
                        del part[op.output]
            shares.append(parts)
        for op in ops:
            if not block.ports[op.output].by_position:
                values[op.output] = torch.cat([torch.cat([tensor_in(part, op.output) for part in s], 1) for s in shares], -1)

    def _linear(self, op: Linear, x: Codes) -> Value:
        matmul = self._matmuls[op]
        sums = matmul(x.q)
        if op.neuron.reach(op.code, matmul.widest) > STATE_MAX and not isinstance(op, Joined):
            for held in _by_step(op, x.q, matmul) if op.neuron.every_step else (sums,):
                check_state(held, op.name)
        return answer_of(op, x, op.neuron.reference(sums, op.name))


def _by_step(op: Linear, q: Tensor, matmul: ExactMatmul) -> Iterator[Tensor]:
    """Sums (..., N) of the payloads of every step of codes (..., K)."""
    payloads = torch.from_numpy(op.code.payloads(q.cpu().to(torch.int64).numpy())).to(q)
    return (matmul(payload) for payload in payloads.unbind(-1))


@cache
def _keep_freed_memory() -> None:
    """Free one large block: from then on glibc keeps what smaller ones leave, instead of giving it back page by page."""
    torch.empty(_LARGE_BLOCK)


class Executor:
    """Runs a converted model; arguments as for `BlockExecutor`."""

    def __init__(
        self, model: Model, device: str = "cpu", observer: Observer | None = None, segment: SegmentBackend | None = None
    ):
        self.model = model
        self.device = torch.device(device)
        self.blocks = BlockExecutor(model.rotary, device, observer, segment)
        self._largest = max((op.weight.size for block in model.blocks for op in block.linears()), default=0)
        self._tokens = torch.from_numpy(model.embedding.tokens).to(self.device)
        positions = model.embedding.positions
        self._positions = None if positions is None else torch.from_numpy(positions).to(self.device)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, cache: Cache | None = None, last_only: bool = False) -> Tensor:
        """Logits of new tokens, or what else the head makes.

        Args:
            tokens: (B, L) ids that follow what the cache holds; whole texts of one length where the model is not causal, for
                padding is left out.
            cache: grows by L positions; None computes without keeping anything.
            last_only: logits of the last token alone.

        Returns:
            (B, L or 1, vocabulary) float32; of classes (B, 1, classes), of an encoder without a head (B, L, width).
        """
        cache = Cache() if cache is None else cache
        start = cache.length
        with at_most(self._threads(tokens)):
            x = self._through_blocks(tokens, cache)
            positions = torch.arange(start, cache.length)
            if last_only:
                x, positions = x[:, -1:], positions[-1:]
            elif self.model.of_first:
                x, positions = x[:, :1], positions[:1]
            return logits_of(self.model.head, self.blocks.run(self.model.head, x, positions, cache))

    @torch.inference_mode()
    def states(self, tokens: Tensor) -> Tensor:
        """What the last layer makes of whole texts of one length, (B, L) ids -> (B, L, width) float32."""
        with at_most(self._threads(tokens)):
            x = self._through_blocks(tokens, Cache())
        return logits_of(self.model.blocks[-1], x)

    def _threads(self, tokens: Tensor) -> int:
        return threads_for(tokens.numel() * self._largest) if tokens.numel() <= _FEW_TOKENS else 1

    def _through_blocks(self, tokens: Tensor, cache: Cache) -> Tensor:
        if cache.length and not self.model.causal:
            raise UsageError("an encoder takes a text at once: there is nothing to go on from")
        x = self.embed(tokens, cache.length)
        positions = torch.arange(cache.length, cache.length + tokens.shape[1])
        for block in self.model.blocks:
            x = self.blocks.run(block, x, positions, cache)
        cache.length += tokens.shape[1]
        return x

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """(B, L) ids at positions start.. -> (B, L, width) float32, or int64 where the embedding is of integers."""
        stop = start + tokens.shape[1]
        if stop > self.model.max_positions:
            raise UsageError(f"{stop} positions are more than the {self.model.max_positions} of this model; shorten the text")
        if not tokens.numel():
            raise UsageError("no tokens: give at least one")
        for token in map(int, tokens.aminmax()):
            if not 0 <= token < len(self._tokens):
                raise UsageError(f"token id {token} is outside the vocabulary of {len(self._tokens)}")
        tokens = tokens.to(self.device)
        kind = torch.float32 if self.model.embedding.fraction is None else torch.int64
        x = self._tokens[tokens].to(kind)
        if self._positions is not None:
            offset = self.model.embedding.position_offset
            x = x + self._positions[start + offset : stop + offset].to(kind)
        return x


def logits_of(head: Block, x: Tensor) -> Tensor:
    """A head's, or another block's, result as float32: integers below 2^23 times a power of two are read out without error."""
    fraction = head.ports[head.output].fraction
    return x if fraction is None else to_real(x, fraction).float()


def _keep(block: Block, op: Encode, piece: _Piece, cache: Cache) -> None:
    """Put codes of new tokens into the cache."""
    codes, stop = codes_in(piece.values, op.output), piece.context.stop
    piece.context.remember(op.output, codes.step)
    held = cache.append(block.name, op.output, codes.q, op.groups)
    if held != stop:
        raise UsageError(
            f"{block.name}: tokens up to position {stop} do not follow the "
            f"{held - codes.q.shape[1]} positions that the cache holds"
        )


def _result(block: Block, values: Values) -> Tensor:
    result = values[block.output]
    assert isinstance(result, Tensor)
    if not math.isfinite(float(result.sum())):
        raise FitError(
            f"{block.name}: {_first_broken(block, values)} is NaN or infinite; the checkpoint or the input is broken"
        )
    return result


def _first_broken(block: Block, values: Values) -> str:
    """Name of the first value that is not finite."""
    for op in block.ops:
        value = values.get(op.output)
        shown = value.step if isinstance(value, Codes) else value
        if shown is not None and not bool(torch.isfinite(shown).all()):
            return op.output
    return "the sum of all results"


def answer_of(op: Linear, inputs: Codes, answer: Tensor) -> Value:
    """What a segment's neurons answered (..., N) as a value: sums, or codes with a step of 1, like that of `inputs` in
    shape."""
    return answer if op.fires is None else Codes(answer, torch.ones_like(inputs.step))


require_ops("the integer executor", (Linear, Score, Mix))
