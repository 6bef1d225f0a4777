"""Keys and values of past tokens, as integer codes with their steps: the run-time "weights" of the attention.

Where attention is not causal they are those of the whole sequence, which is there before its first token attends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

__all__ = ["Cache", "Columns", "OneHead"]


@dataclass
class _Rows:
    """Cached codes of one value: (B, kv_heads, head_dim, capacity), the first `length` positions in use."""

    codes: Tensor
    length: int = 0

    def append(self, q: Tensor, kv_heads: int, capacity: int) -> int:
        """q: (B, L, kv_heads * head_dim). Returns the new length."""
        new = q.unflatten(-1, (kv_heads, -1)).permute(0, 2, 3, 1)
        need = self.length + new.shape[3]
        if need > self.codes.shape[3]:
            grown = new.new_zeros(*new.shape[:3], max(need, capacity, 2 * self.codes.shape[3]))
            grown[..., : self.length] = self.codes[..., : self.length]
            self.codes = grown
        self.codes[..., self.length : need] = new
        self.length = need
        return need


@dataclass
class Cache:
    """Keys and values of the tokens seen so far, as integer codes and steps, by block and value name.

    An error in the middle of a run leaves it between two tokens: drop it then.

    Attributes:
        length: tokens so far. capacity: for how many it reserves memory at once; it grows beyond them.
    """

    length: int = 0
    rows: dict[tuple[str, str], _Rows] = field(default_factory=dict)
    steps: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    capacity: int = 0

    def append(self, block: str, value: str, q: Tensor, kv_heads: int) -> int:
        """Keep codes (B, L, kv_heads * head_dim) of new tokens; returns how many positions are held now."""
        if (block, value) not in self.rows:
            self.rows[block, value] = _Rows(q.new_zeros(len(q), kv_heads, q.shape[-1] // kv_heads, 0))
        return self.rows[block, value].append(q, kv_heads, self.capacity)

    def length_of(self, block: str) -> int:
        """How many positions a block holds."""
        return max((rows.length for (name, _), rows in self.rows.items() if name == block), default=0)

    def columns(self, block: str, value: str, stop: int | None) -> Tensor:
        """Codes of the positions before `stop`, (B, kv_heads, head_dim, stop); None: of all that are held."""
        rows = self.rows[block, value]
        return rows.codes[..., : rows.length if stop is None else stop]

    def used(self, block: str, value: str) -> Tensor:
        """Codes so far, (B, kv_heads, J, head_dim)."""
        return self.columns(block, value, None).transpose(2, 3)


class Columns(Protocol):
    """What an attention reads of a cache."""

    def columns(self, block: str, value: str, stop: int | None) -> Tensor:
        """As of `Cache`."""
        ...


@dataclass(frozen=True)
class OneHead:
    """A cache of which one head is seen."""

    cache: Cache
    head: int

    def columns(self, block: str, value: str, stop: int | None) -> Tensor:
        """(B, 1, head_dim, stop)."""
        return self.cache.columns(block, value, stop)[:, self.head : self.head + 1]
