"""The integer reference: a converted model computed with matrix products, spikes nowhere in sight.

It defines what every other backend must reproduce bit for bit. The integers are held in float32, where a product of codes and
weights is exact as long as no partial sum can reach 2^24; `ExactMatmul` proves that from the weights or splits the sum until it
is so. Host operations come from `kirin_lava.host`. Keys and values stay as codes in a cache, so a prompt in one batch, in
pieces, or token by token gives the same integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kirin_lava import host
from kirin_lava.errors import FitError, UsageError
from kirin_lava.graph import Block, Encode, Fire, Float32, Linear, Mix, Model, Op, Score
from kirin_lava.hardware.loihi2 import STATE_MAX
from kirin_lava.host import Codes, HostContext, Value

__all__ = ["BlockExecutor", "Cache", "Executor", "Observer", "cached_name", "fire"]

FLOAT32_EXACT = 2**24

Observer = Callable[[Block, Op, dict[str, Value]], None]
"""Called after every operation with all values of the block so far, cached rows of codes under `cached_name`."""


def cached_name(cache: str) -> str:
    """Where an observer finds what a `Score` or `Mix` read: (B, kv_heads, J, head_dim) codes of all tokens so far."""
    return f"{cache}.cached"


def fire(membrane: Tensor, op: Fire, name: str = "") -> Tensor:
    """Output codes of silence-threshold neurons by division, see `graph.Fire`.

    Args:
        membrane: (..., N) exact sums `sum_k w q`, without shift and offset.
        op: the fire phase.
        name: of the segment, for errors.

    Returns:
        (..., N) codes q in float32.

    Raises:
        FitError: a membrane beyond the 24-bit state.
    """
    device = membrane.device
    ramp, offset = torch.from_numpy(op.ramp).to(device), torch.from_numpy(op.offset).to(device)
    levels = op.encoding.window - 1
    m = membrane.to(torch.int64) * 2**op.shift + offset
    check_state(m, name)
    if op.encoding.spike_min == -op.encoding.spike_max:
        q = m.sign() * torch.div(m.abs() + ramp // 2, ramp, rounding_mode="floor").clamp(max=levels)
    else:
        zero = op.encoding.zero
        q = torch.div(m + zero * ramp + ramp // 2, ramp, rounding_mode="floor").clamp(0, levels) - zero
    return q.to(torch.float32)


def check_state(v: Tensor, name: str) -> None:
    """Raise `FitError` where a membrane does not fit the 24-bit state."""
    largest = float(v.abs().max()) if v.numel() else 0.0
    if largest > STATE_MAX:
        raise FitError(
            f"{name}: a membrane reaches {largest:.0f}, beyond the 24-bit state ({STATE_MAX}); "
            "split the fan-in, lower the shift of the segment or choose a recipe with narrower outliers"
        )


class ExactMatmul:
    """`x @ weight.T` in float32 without rounding: the fan-in is split where a partial sum could reach 2^24."""

    def __init__(self, weight: np.ndarray, max_code: int, device: torch.device):
        magnitude = np.abs(weight.astype(np.int64)).cumsum(1) * max_code
        self.bound = int(magnitude[:, -1].max())
        cuts, start, base = [], 0, np.zeros(len(weight), np.int64)
        while start < weight.shape[1]:
            fits = (magnitude - base[:, None]).max(0) < FLOAT32_EXACT
            stop = weight.shape[1] if fits[-1] else max(int(np.argmin(fits[start:])) + start, start + 1)
            cuts.append((start, stop))
            base, start = magnitude[:, stop - 1], stop
        self.parts = [(a, b, torch.from_numpy(np.ascontiguousarray(weight[:, a:b])).to(device, torch.float32)) for a, b in cuts]

    def __call__(self, x: Tensor) -> Tensor:
        """(..., K) codes -> (..., N) sums, float32 where they are proved to fit it, else float64."""
        if len(self.parts) == 1:
            return torch.nn.functional.linear(x, self.parts[0][2])
        total = None
        for start, stop, weight in self.parts:
            part = torch.nn.functional.linear(x[..., start:stop], weight).double()
            total = part if total is None else total.add_(part)
        assert total is not None
        return total


@dataclass
class _Rows:
    """Cached codes of one value: (B, kv_heads, capacity, head_dim), the first `length` positions in use."""

    codes: Tensor
    length: int = 0

    def append(self, q: Tensor, kv_heads: int) -> None:
        """q: (B, L, kv_heads * head_dim)."""
        new = q.unflatten(-1, (kv_heads, -1)).transpose(1, 2)
        need = self.length + new.shape[2]
        if need > self.codes.shape[2]:
            grown = torch.zeros(*new.shape[:2], max(need, 2 * self.codes.shape[2]), new.shape[3], device=new.device)
            grown[:, :, : self.length] = self.codes[:, :, : self.length]
            self.codes = grown
        self.codes[:, :, self.length : need] = new
        self.length = need

    def used(self) -> Tensor:
        return self.codes[:, :, : self.length]


@dataclass
class Cache:
    """Keys and values of the tokens seen so far, as integer codes and steps, by block and value name."""

    length: int = 0
    rows: dict[tuple[str, str], _Rows] = field(default_factory=dict)
    steps: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def append(self, block: str, value: str, q: Tensor, kv_heads: int) -> None:
        """Keep codes (B, L, kv_heads * head_dim) of new tokens."""
        if (block, value) not in self.rows:
            empty = torch.zeros(len(q), kv_heads, 0, q.shape[-1] // kv_heads, device=q.device)
            self.rows[block, value] = _Rows(empty)
        self.rows[block, value].append(q, kv_heads)

    def used(self, block: str, value: str) -> Tensor:
        """Codes so far, (B, kv_heads, J, head_dim)."""
        return self.rows[block, value].used()


class BlockExecutor:
    """Runs single blocks; `Executor` runs a model with it.

    Args:
        rotary: cos and sin, each (positions, head_dim) float32, or None.
        device: "cpu" or "cuda"; the integers are the same.
        observer: called after every operation.
    """

    def __init__(self, rotary: tuple[Float32, Float32] | None, device: str = "cpu", observer: Observer | None = None):
        self.device = torch.device(device)
        self.observer = observer
        self._matmuls: dict[tuple[str, str], ExactMatmul] = {}
        self._rotary = None
        if rotary is not None:
            self._rotary = (torch.from_numpy(rotary[0]).to(self.device), torch.from_numpy(rotary[1]).to(self.device))

    @torch.inference_mode()
    def run(self, block: Block, x: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """One block on (B, L, width) -> (B, L, width), at absolute positions (L,) that follow what the cache holds."""
        context = HostContext(positions, self._rotary, cache.steps.setdefault(block.name, {}))
        values: dict[str, Value] = {"x": x}
        cached = {op.cache: op.kv_heads for op in block.ops if isinstance(op, (Score, Mix))}
        for op in block.ops:
            if isinstance(op, Linear):
                values[op.output] = self._linear(block, op, _codes(values, op.input))
            elif isinstance(op, (Score, Mix)):
                rows = values[cached_name(op.cache)] = cache.used(block.name, op.cache)
                codes = _codes(values, op.input)
                values[op.output] = _score(op, codes, rows, positions) if isinstance(op, Score) else _mix(op, codes, rows)
            else:
                value = values[op.output] = host.apply(op, values, context)
                if isinstance(op, Encode) and op.cached:
                    assert isinstance(value, Codes)
                    context.remember(op.output, value.step)
                    cache.append(block.name, op.output, value.q, cached[op.output])
            if self.observer is not None:
                self.observer(block, op, values)
        result = values[block.output]
        assert isinstance(result, Tensor)
        return result

    def _linear(self, block: Block, op: Linear, x: Codes) -> Value:
        key = (block.name, op.name)
        if key not in self._matmuls:
            self._matmuls[key] = ExactMatmul(op.weight, max(-op.encoding.code_min, op.encoding.code_max), self.device)
        matmul = self._matmuls[key]
        sums = matmul(x.q)
        if matmul.bound > STATE_MAX:
            check_state(sums, op.name)
        if op.fire is None:
            return sums
        return _fired(op.fire, sums, x, op.name)


class Executor:
    """Runs a converted model; arguments as for `BlockExecutor`."""

    def __init__(self, model: Model, device: str = "cpu", observer: Observer | None = None):
        self.model = model
        self.device = torch.device(device)
        self.blocks = BlockExecutor(model.rotary, device, observer)
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
        positions = torch.arange(cache.length, cache.length + tokens.shape[1], device=self.device)
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
        tokens = tokens.to(self.device)
        if tokens.numel() and (int(tokens.min()) < 0 or int(tokens.max()) >= len(self._tokens)):
            raise UsageError(f"token id {int(tokens.max())} is outside the vocabulary of {len(self._tokens)}")
        x = self._tokens[tokens].float()
        if self._positions is not None:
            offset = self.model.embedding.position_offset
            x = x + self._positions[start + offset : stop + offset].float()
        return x


def _fired(op: Fire, sums: Tensor, x: Codes, name: str) -> Codes:
    step = x.step * op.step if op.rides else torch.full_like(x.step, op.step)
    return Codes(fire(sums, op, name), step)


def _score(op: Score, query: Codes, keys: Tensor, positions: Tensor) -> Tensor:
    """(B, L, H * d) codes against (B, kv_heads, J, d) cached codes -> (B, H, L, J) sums, 0 where j is later than the token."""
    q = query.q.unflatten(-1, (op.heads, -1)).transpose(1, 2)
    batch, heads, length, width = q.shape
    repeat = heads // op.kv_heads
    flat = q.reshape(batch, op.kv_heads, repeat * length, width)
    sums = (flat @ keys.transpose(2, 3)).view(batch, heads, length, -1)  # at most width * 127 * 127 < 2^24
    visible = torch.arange(keys.shape[2], device=q.device) <= positions.view(-1, 1)
    return sums.mul_(visible)


def _mix(op: Mix, weights: Codes, cached: Tensor) -> Tensor | Codes:
    """(B, H, L, J) codes against (B, kv_heads, J, d) cached codes -> (B, L, H * d) sums."""
    batch, heads, length, columns = weights.q.shape
    flat = weights.q.reshape(batch, op.kv_heads, heads // op.kv_heads * length, columns)
    # a row's sum of codes times the largest cached code bounds every partial sum
    exact = float(flat.sum(-1).max()) * 127 < FLOAT32_EXACT
    sums = flat @ cached if exact else flat.double() @ cached.double()
    sums = sums.view(batch, heads, length, -1).transpose(1, 2).flatten(2)
    check_state(sums, op.name)
    return sums if op.fire is None else _fired(op.fire, sums, weights, op.name)


def _codes(values: dict[str, Value], name: str) -> Codes:
    value = values[name]
    if not isinstance(value, Codes):
        raise TypeError(f"{name} holds no codes")
    return value
