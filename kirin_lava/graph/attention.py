"""The two products of an attention, exactly, and an attention of one head of the keys alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.base.matmul import FLOAT32_EXACT
from kirin_lava.graph.cache import Cache, Columns, OneHead
from kirin_lava.graph.ops import Decode, Encode, Mix, Op, Score, Softmax, synapses_of
from kirin_lava.graph.ops.softmax import visible, within
from kirin_lava.graph.parts import check_parts
from kirin_lava.graph.stages import Stage
from kirin_lava.graph.values import Codes, Value, Values, codes_in
from kirin_lava.spikes.codes import INTEGER8, SpikeCode
from kirin_lava.spikes.neurons.neuron import check_state

__all__ = ["Alone", "Share", "all_score_sums", "mix_sums", "one_head", "rows_at_once", "score_sums", "shares_of", "some_tokens"]

_ATTENTION_ELEMENTS = 2**20  # of scores at a time
_ATTENTION_ROWS = 16  # but not fewer tokens


@dataclass(frozen=True)
class Alone:
    """An attention of `count` heads of keys, each with the query heads that share it, as one of them computes it."""

    ops: Stage
    count: int


@dataclass(frozen=True)
class Share:
    """Of an attention one head of the keys, or all of them: what computes it, and what that reads."""

    ops: Stage
    values: Values
    steps: dict[str, Tensor]
    cache: Columns


def rows_at_once(ops: Stage, batch: int, columns: int) -> int:
    """Tokens whose rows per position a core's cache holds."""
    first = ops[0]
    assert isinstance(first, Score)
    return max(_ATTENTION_ROWS, _ATTENTION_ELEMENTS // (batch * first.heads * columns))


def shares_of(ops: Stage, alone: Alone | None, values: Values, steps: dict[str, Tensor], cache: Cache) -> list[Share]:
    """Heads of the keys one by one, or all at once where they cannot be computed alone."""
    if alone is None:
        return [Share(ops, {name: values[name] for op in ops for name in op.reads() if name in values}, steps, cache)]
    query, count = codes_in(values, ops[0].input), alone.count
    parts = zip(query.q.chunk(count, -1), query.step.chunk(count, -1), strict=True)
    return [
        Share(
            alone.ops,
            {ops[0].input: Codes(q, step)},
            {name: old[:, head : head + 1] for name, old in steps.items()},
            OneHead(cache, head),
        )
        for head, (q, step) in enumerate(parts)
    ]


def one_head(ops: Stage) -> Alone | None:
    """The attention of one head of the keys; None where there is one, or where anything else is read or done."""
    first = ops[0]
    if not isinstance(first, Score) or first.kv_heads == 1:
        return None
    count, made = first.kv_heads, []
    for op in ops:
        small: Op
        if isinstance(op, (Score, Softmax, Mix)) and (op.heads, op.kv_heads) == (first.heads, count):
            small = replace(op, heads=op.heads // count, kv_heads=1)
        elif isinstance(op, Encode) and op.rule.by_row and op.groups == first.heads:
            small = replace(op, groups=op.groups // count)
        elif isinstance(op, Decode) and op.scale is None and op.bias is None:
            small = replace(op)
        else:
            return None
        made.append(small)
    outside = {name for op in ops for name in op.reads()} - {op.output for op in ops}
    cached = {op.cache for op in ops if isinstance(op, (Score, Mix))}
    return Alone(tuple(made), count) if outside == {first.input} | cached else None


def some_tokens(value: Value, tokens: slice) -> Value:
    """Some tokens of a value (B, L, width)."""
    return value[:, tokens] if isinstance(value, Tensor) else value.tokens(tokens)


def _apart(op: Score | Mix, kept: SpikeCode) -> bool:
    """Whether no membrane holds a whole sum: planes, or halves of cached codes, have sums of their own."""
    return op.neuron.every_step or len(synapses_of(kept)) > 1


def score_sums(op: Score, query: Codes, keys: Tensor, kept: SpikeCode = INTEGER8) -> Tensor:
    """As `all_score_sums`, 0 where j is later than the token, or older than its window."""
    sums, length, columns = all_score_sums(op, query, keys, kept), query.q.shape[1], keys.shape[3]
    if op.window is not None and columns > op.window:
        sums *= within(columns - length, length, columns, op.window, sums.device)
    elif length > 1:
        sums[..., columns - length :].mul_(visible(length, length, sums.device))
    return sums


def all_score_sums(op: Score, query: Codes, keys: Tensor, kept: SpikeCode = INTEGER8) -> Tensor:
    """(B, L, H * d) codes against (B, kv_heads, d, J) cached codes -> (B, H, L, J) sums.

    They are exact, in float64 where float32 could round.
    """
    batch, length, _ = query.q.shape
    width, columns = keys.shape[2:]
    q = query.q.view(batch, length, op.kv_heads, -1, width).permute(0, 2, 3, 1, 4)
    if width * op.code.largest * kept.largest >= FLOAT32_EXACT:
        q, keys = q.double(), keys.double()
    sums = (q.reshape(batch, op.kv_heads, -1, width) @ keys).view(batch, op.heads, length, columns)
    if not _apart(op, kept) and op.neuron.reach(op.code, width * kept.largest) > STATE_MAX:
        check_state(sums, op.name)
    return sums


def mix_sums(op: Mix, weights: Codes, cached: Tensor, kept: SpikeCode = INTEGER8) -> Tensor:
    """(B, H, L, J) codes against (B, kv_heads, d, J) cached codes -> (B, L, H * d) sums, exact as of `score_sums`."""
    batch, _, length, columns = weights.q.shape
    flat = weights.q.view(batch, op.kv_heads, -1, columns).transpose(2, 3)
    positions = op.held(columns)
    bound = positions * op.code.code_max * kept.largest
    # where the worst case could round, the codes at hand still may not: a row's sum bounds every partial sum
    if bound < FLOAT32_EXACT or float(weights.q.sum(-1).max()) * kept.largest < FLOAT32_EXACT:
        sums = cached @ flat
    else:
        sums = cached.double() @ flat.double()
    sums = sums.view(batch, op.kv_heads, cached.shape[2], -1, length).permute(0, 4, 1, 3, 2).reshape(batch, length, -1)
    if _apart(op, kept):
        positions = min(positions, op.part or columns)
        if op.neuron.reach(op.code, positions * max(synapses_of(kept))) > STATE_MAX:
            raise FitError(f"{op.name}: sums over {positions} positions are not proved to fit the 24-bit state: export again")
    elif op.part is not None and op.part < positions:
        if op.part * op.code.largest * kept.largest > STATE_MAX:
            check_parts(op, weights.q, cached.transpose(2, 3), kept.largest)
    elif bound > STATE_MAX:
        check_state(sums, op.name)
    return sums
