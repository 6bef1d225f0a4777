"""The integer reference: a converted model computed with matrix products, spikes nowhere in sight.

It defines what every other backend must reproduce bit for bit. Sums of codes and weights are exact, see `ExactMatmul`; host
operations come from `kirin_lava.graph.ops`: their bits depend on nothing but the token. Keys and values stay as codes in a
cache,
so a prompt in one batch, in pieces, or token by token gives the same integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.exact import FLOAT32_EXACT, ExactMatmul
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.cache import Cache
from kirin_lava.graph.ops import Decode, Encode, HostOp, Linear, Mix, Op, Score, require_ops
from kirin_lava.graph.ops.softmax import visible
from kirin_lava.graph.values import Codes, Constants, Float32, HostContext, Value, Values, codes_in
from kirin_lava.spikes.neurons.neuron import check_state

__all__ = ["BlockExecutor", "Cache", "Executor", "Observer", "SegmentBackend", "answer_of", "cached_name"]

_ATTENTION_ELEMENTS = 2**18  # of scores at a time: what a core's cache holds
_ATTENTION_ROWS = 16  # but not fewer tokens
_MAX_CACHED = 127  # largest magnitude of a cached code
_LARGE_BLOCK = 7 * 2**20  # float32 numbers, just below the 32 MiB up to which glibc learns

Observer = Callable[[Block, Op, dict[str, Value]], None]
"""Called after every operation with all values of the block so far, cached rows of codes under `cached_name`."""
SegmentBackend = Callable[[Linear, Codes], Value]
"""Computes a segment from codes (B, L, K): sums (B, L, N), or codes where it fires."""


def cached_name(cache: str) -> str:
    """Where an observer finds what a `Score` or `Mix` read: (B, kv_heads, J, head_dim) codes of all tokens so far."""
    return f"{cache}.cached"


class BlockExecutor:
    """Runs single blocks; `Executor` runs a model with it.

    Args:
        rotary: cos and sin, each (positions, head_dim) float32, or None.
        device: "cpu" or "cuda"; the integers are the same.
        observer: called after every operation.
        segment: computes the linear segments instead of matrix products, on another backend.
    """

    def __init__(
        self,
        rotary: tuple[Float32, Float32] | None,
        device: str = "cpu",
        observer: Observer | None = None,
        segment: SegmentBackend | None = None,
    ):
        _keep_freed_memory()
        self.device = torch.device(device)
        self.observer = observer
        self._segment = segment or self._linear
        self._matmuls: dict[Linear, ExactMatmul] = {}
        self._stages: dict[Block, list[tuple[Op, ...]]] = {}
        self._constants: Constants = {}
        self._rotary = None
        if rotary is not None:
            self._rotary = (torch.from_numpy(rotary[0]).to(self.device), torch.from_numpy(rotary[1]).to(self.device))

    @torch.inference_mode()
    def run(self, block: Block, x: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """One block on (B, L, width) -> (B, L, width), at absolute positions (L,) that follow what the cache holds."""
        context = self._context(positions, cache.steps.setdefault(block.name, {}))
        values: Values = {"x": x}
        if block not in self._stages:
            self._stages[block] = _stages(block)
        for stage in self._stages[block]:
            if len(stage) > 1 and self.observer is None:
                values[stage[-1].output] = self._attend(block, stage, values, context, cache)
                continue
            for op in stage:
                values[op.output] = self._compute(block, op, values, context, cache)
                if self.observer is not None:
                    if isinstance(op, (Score, Mix)):
                        values[cached_name(op.cache)] = cache.used(block.name, op.cache)
                    self.observer(block, op, values)
        result = values[block.output]
        assert isinstance(result, Tensor)
        if not math.isfinite(float(result.sum())):
            raise FitError(
                f"{block.name}: {_first_broken(block, values)} is NaN or infinite; the checkpoint or the input is broken"
            )
        return result

    def _context(self, positions: Tensor, steps: dict[str, Tensor]) -> HostContext:
        return HostContext(positions, self._rotary, steps, self._constants, check=False)

    def _compute(self, block: Block, op: Op, values: Values, context: HostContext, cache: Cache) -> Value:
        if isinstance(op, Linear):
            return self._segment(op, codes_in(values, op.input))
        if isinstance(op, Score):
            return _score(op, codes_in(values, op.input), cache.columns(block.name, op.cache, context.stop))
        if isinstance(op, Mix):
            return _mix(op, codes_in(values, op.input), cache.columns(block.name, op.cache, context.stop))
        assert isinstance(op, HostOp)
        value = op.compute(values, context)
        if isinstance(op, Encode) and op.cached:
            assert isinstance(value, Codes)
            context.remember(op.output, value.step)
            held = cache.append(block.name, op.output, value.q, op.groups)
            if held != context.stop:
                raise UsageError(
                    f"{block.name}: tokens up to position {context.stop} do not follow the "
                    f"{held - value.q.shape[1]} positions that the cache holds"
                )
        return value

    def _attend(self, block: Block, ops: tuple[Op, ...], values: Values, context: HostContext, cache: Cache) -> Value:
        """An attention on as many tokens at a time as fit a core's cache, without the columns that none of them sees."""
        score = ops[0]
        assert isinstance(score, Score)
        query = codes_in(values, score.input)
        batch, length = query.q.shape[:2]
        rows = max(_ATTENTION_ROWS, _ATTENTION_ELEMENTS // (batch * score.heads * context.stop))
        pieces: list[Value] = []
        for start in range(0, length, rows):
            tokens = slice(start, start + rows)
            part: Values = {score.input: Codes(query.q[:, tokens], query.step[:, tokens])}
            at = self._context(context.positions[tokens], context.steps)
            for op in ops:
                part[op.output] = self._compute(block, op, part, at, cache)
            pieces.append(part[ops[-1].output])
        return pieces[0] if len(pieces) == 1 else _joined(pieces)

    def _linear(self, op: Linear, x: Codes) -> Value:
        if op not in self._matmuls:
            self._matmuls[op] = ExactMatmul(op.weight, op.code.largest, self.device, signed=op.code.signed)
        matmul = self._matmuls[op]
        sums = matmul(x.q)
        if matmul.bound > STATE_MAX:
            check_state(sums, op.name)
        return answer_of(op, x, op.neuron.reference(sums, op.name))


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
        self._tokens = torch.from_numpy(model.embedding.tokens).to(self.device)
        positions = model.embedding.positions
        self._positions = None if positions is None else torch.from_numpy(positions).to(self.device)

    @torch.inference_mode()
    def forward(self, tokens: Tensor, cache: Cache | None = None, last_only: bool = False) -> Tensor:
        """Logits of new tokens.

        Args:
            tokens: (B, L) ids that follow what the cache holds.
            cache: grows by L positions; None computes without keeping anything.
            last_only: logits of the last token alone.

        Returns:
            (B, L or 1, vocabulary) float32.
        """
        cache = Cache() if cache is None else cache
        x = self.embed(tokens, cache.length)
        positions = torch.arange(cache.length, cache.length + tokens.shape[1])
        for block in self.model.blocks:
            x = self.blocks.run(block, x, positions, cache)
        cache.length += tokens.shape[1]
        if last_only:
            x, positions = x[:, -1:], positions[-1:]
        return self.blocks.run(self.model.head, x, positions, cache)

    def embed(self, tokens: Tensor, start: int = 0) -> Tensor:
        """(B, L) ids at positions start.. -> (B, L, width) float32."""
        stop = start + tokens.shape[1]
        if stop > self.model.max_positions:
            raise UsageError(f"{stop} positions are more than the {self.model.max_positions} of this model; shorten the text")
        if not tokens.numel():
            raise UsageError("no tokens: give at least one")
        for token in map(int, tokens.aminmax()):
            if not 0 <= token < len(self._tokens):
                raise UsageError(f"token id {token} is outside the vocabulary of {len(self._tokens)}")
        tokens = tokens.to(self.device)
        x = self._tokens[tokens].float()
        if self._positions is not None:
            offset = self.model.embedding.position_offset
            x = x + self._positions[start + offset : stop + offset].float()
        return x


def _stages(block: Block) -> list[tuple[Op, ...]]:
    """The operations one by one, but those of the attention together: from the score to what decodes its result."""
    stages: list[tuple[Op, ...]] = []
    attention: list[Op] = []
    for op in block.ops:
        if isinstance(op, Score) or attention:
            attention.append(op)
            if not isinstance(op, Mix):
                continue
            stages.append(tuple(attention))
            attention = []
        elif isinstance(op, Decode) and isinstance(mix := stages[-1][-1], Mix) and op.input == mix.output:
            stages[-1] += (op,)
        else:
            stages.append((op,))
    return stages


def _first_broken(block: Block, values: Values) -> str:
    """Name of the first value that is not finite."""
    for op in block.ops:
        value = values.get(op.output)
        shown = value.step if isinstance(value, Codes) else value
        if shown is not None and not bool(torch.isfinite(shown).all()):
            return op.output
    return "the sum of all results"


def _joined(pieces: list[Value]) -> Value:
    """Pieces of consecutive tokens in one."""
    return torch.cat([piece for piece in pieces if isinstance(piece, Tensor)], 1)


def answer_of(op: Linear, inputs: Codes, answer: Tensor) -> Value:
    """What a segment's neurons answered (..., N) as a value: sums, or codes with a step of 1, like that of `inputs` in
    shape."""
    return answer if op.fires is None else Codes(answer, torch.ones_like(inputs.step))


def _score(op: Score, query: Codes, keys: Tensor) -> Tensor:
    """(B, L, H * d) codes against (B, kv_heads, d, J) cached codes -> (B, H, L, J) sums, 0 where j is later than the token."""
    batch, length, _ = query.q.shape
    width, columns = keys.shape[2:]
    q = query.q.view(batch, length, op.kv_heads, -1, width).permute(0, 2, 3, 1, 4)
    sums = (q.reshape(batch, op.kv_heads, -1, width) @ keys).view(batch, op.heads, length, columns)
    if width * _MAX_CACHED**2 > STATE_MAX:
        check_state(sums, op.name)
    if length > 1:
        sums[..., columns - length :].mul_(visible(length, length, sums.device))
    return sums


def _mix(op: Mix, weights: Codes, cached: Tensor) -> Tensor:
    """(B, H, L, J) codes against (B, kv_heads, d, J) cached codes -> (B, L, H * d) sums."""
    batch, _, length, columns = weights.q.shape
    flat = weights.q.view(batch, op.kv_heads, -1, columns).transpose(2, 3)
    bound = columns * op.code.code_max * _MAX_CACHED
    # where the worst case could round, the codes at hand still may not: a row's sum bounds every partial sum
    if bound < FLOAT32_EXACT or float(weights.q.sum(-1).max()) * _MAX_CACHED < FLOAT32_EXACT:
        sums = cached @ flat
    else:
        sums = cached.double() @ flat.double()
    sums = sums.view(batch, op.kv_heads, cached.shape[2], -1, length).permute(0, 4, 1, 3, 2).reshape(batch, length, -1)
    if bound > STATE_MAX:
        check_state(sums, op.name)
    return sums


require_ops("the integer executor", (Linear, Score, Mix))
