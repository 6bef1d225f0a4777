"""The parts that blocks of families are made of, read under the prefix of a block's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.graph.ops import Norm, Slice
from kirin_lava.models.config import MOST_HEAD_WIDTH, Config, positive
from kirin_lava.models.layout import Dense, Load, concat

__all__ = ["GELUS", "Parts", "gains", "head_width", "scaled", "slices"]


GELUS = {"gelu": True, "gelu_new": False, "gelu_pytorch_tanh": False, "gelu_fast": False}
"""Names that transformers has for GELU, and whether it is the one with the error function, else its form with a tanh."""


def scaled(x: Tensor, factor: float) -> Tensor:
    """A tensor times a number; the tensor itself where that is 1."""
    return x if factor == 1.0 else x * factor


def head_width(config: Config, width: str, heads: str) -> int:
    """Width of a head where all heads together are as wide as the layers."""
    whole, count = positive(config, width), positive(config, heads)
    if whole % count:
        raise UsageError(f"{width} {whole} is not a multiple of {heads} {count}")
    if whole // count > MOST_HEAD_WIDTH:
        raise UnsupportedError(f"heads of width {whole // count} are not supported; supported are: up to {MOST_HEAD_WIDTH}")
    return whole // count


def slices(queries: int, keyed: int) -> list[Slice]:
    """Queries, keys and values of a value `qkv`."""
    return [
        Slice("attn.q", "qkv", "q", 0, queries),
        Slice("attn.k", "qkv", "k", queries, queries + keyed),
        Slice("attn.v", "qkv", "v", queries + keyed, queries + 2 * keyed),
    ]


@dataclass(frozen=True)
class Parts:
    """Reads what is called `prefix` and something.

    Attributes:
        eps: of all norms. center: LayerNorm with a bias, else RMSNorm. offset: what a norm's weight is added to.
    """

    load: Load
    prefix: str
    eps: float
    center: bool = False
    offset: float = 0.0

    def dense(
        self,
        name: str,
        input: str,
        output: str,
        parts: Mapping[str, int],
        fan_in: int,
        bias: bool,
        rows: Tensor | None = None,
        gain: Tensor | float = 1.0,
    ) -> Dense:
        """One dense layer of matrices that share an input.

        Args:
            parts: number of rows by name, as stored (rows, fan_in). rows: the order they are taken in; None as they stand.
            gain: what the rows in that order are multiplied with: a number, or (rows,) of them.
        """
        weight = concat(self.load, [f"{self.prefix}{part}.weight" for part in parts], [(n, fan_in) for n in parts.values()])
        biases = (
            concat(self.load, [f"{self.prefix}{part}.bias" for part in parts], [(n,) for n in parts.values()]) if bias else None
        )
        return arranged(Dense(name, input, output, weight, biases), rows, gain)

    def transposed(self, name: str, input: str, output: str, part: str, fan_out: int, fan_in: int) -> Dense:
        """A dense layer that is stored (fan_in, fan_out), with a bias."""
        weight = self.load(f"{self.prefix}{part}.weight", (fan_in, fan_out)).T.contiguous()
        return Dense(name, input, output, weight, self.load(f"{self.prefix}{part}.bias", (fan_out,)))

    def norm(self, part: str, input: str, output: str, width: int, groups: int = 1, name: str | None = None) -> Norm:
        """A norm, called as its part where it has no name of its own."""
        weight = self.load(f"{self.prefix}{part}.weight", (width,)) + self.offset
        bias = self.load(f"{self.prefix}{part}.bias", (width,)).numpy() if self.center else None
        return Norm(name or part, input, output, weight.numpy(), bias, self.eps, self.center, groups)


def arranged(dense: Dense, rows: Tensor | None, gain: Tensor | float) -> Dense:
    """A dense layer with its rows in another order, and multiplied."""
    weight, bias = dense.weight, dense.bias
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    if isinstance(gain, float):
        weight, bias = scaled(weight, gain), None if bias is None else scaled(bias, gain)
    else:
        weight, bias = weight * gain.to(weight.device).unsqueeze(1), None if bias is None else bias * gain
    return Dense(dense.name, dense.input, dense.output, weight, bias)


def gains(*parts: tuple[int, float]) -> Tensor:
    """(rows,) factors: so many rows of each."""
    return torch.cat([torch.full((count,), factor) for count, factor in parts])
