"""A model in float: the operations of one layer in order, with its weights, as a family file reads them from a checkpoint.

Norms, rotary embeddings, slices, gates, ReLU and residual sums are the graph's own host operations; two more are float only and
become spikes when the layer is lowered: `Dense` and `Attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.graph.ops import HostOp
from kirin_lava.models.config import Config

__all__ = ["Attention", "Config", "Dense", "Dimensions", "Family", "FloatBlock", "FloatEmbedding", "FloatOp", "Load"]

Load = Callable[[str, tuple[int, ...]], Tensor]
"""Reads one float32 tensor by checkpoint name and checks its shape."""


@dataclass(frozen=True, eq=False)
class Dense:
    """`y = x @ weight.T + bias`. weight: (N, K) float32, bias: (N,) or None."""

    name: str
    input: str
    output: str
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class Attention:
    """Grouped-query attention over slices (tokens, heads * head_dim) and (tokens, kv_heads * head_dim).

    Attributes:
        factor: of the scores; None for `1 / sqrt(head_dim)`.
        causal: whether a token attends to those up to its own; else to the whole sequence.
        window: the last positions that a token attends to, its own included; None for all.
        cap: scores s become `cap * tanh(s / cap)`; None leaves them.
    """

    name: str
    query: str
    key: str
    value: str
    output: str
    heads: int
    kv_heads: int
    head_dim: int
    factor: float | None = None
    causal: bool = True
    cap: float | None = None
    window: int | None = None

    @property
    def scale(self) -> float:
        """What scores are multiplied with."""
        return self.head_dim**-0.5 if self.factor is None else self.factor


FloatOp = Dense | Attention | HostOp


@dataclass(frozen=True, eq=False)
class FloatBlock:
    """One decoder layer, or the head: operations from the value `x` to the value `output`."""

    name: str
    ops: tuple[FloatOp, ...]
    output: str

    @property
    def causal(self) -> bool:
        """Whether its attention is; `UnsupportedError` where some of it is not."""
        kinds = {op.causal for op in self.ops if isinstance(op, Attention)}
        if len(kinds) > 1:
            raise UnsupportedError(f"{self.name} has causal attention beside one that is not; supported is one kind in a layer")
        return kinds != {False}

    def denses(self) -> list[Dense]:
        """The dense layers, in order."""
        return [op for op in self.ops if isinstance(op, Dense)]


@dataclass(frozen=True, eq=False)
class FloatEmbedding:
    """tokens: (vocabulary, width). positions: (rows, width) or None, row p + offset for position p."""

    tokens: Tensor
    positions: Tensor | None = None
    position_offset: int = 0


@dataclass(frozen=True)
class Dimensions:
    """Sizes that every family has. All are counts."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    vocabulary: int
    max_positions: int


def _no_rotary(config: Config) -> None:
    """Positions are not turned."""


@dataclass(frozen=True)
class Family:
    """What the converter must know of a checkpoint family; the functions take the parsed config.json.

    Attributes:
        model_types: values of `model_type` it reads.
        activated: whether an activation that neurons can compute stands directly before a dense layer.
        sites: where activations become codes, without the number of the block: see `kirin_lava.methods.site`.
        check: raises `UnsupportedError` for a config it cannot convert exactly.
        embedding, block, head: read the parts of the model through a `Load`.
        rotary: inverse frequencies (head_dim / 2,), or rows of them for several embeddings, or None.
        tokens: name of the embedding of tokens. lm_head: of the head, which may be that of the embedding.
        prefix: of names, which files of a bare decoder lack.
        derived: ends of names of tensors that follow from the config. architectures: further names of the language model or its
            decoder; all of an encoder's.
        encoder: whether attention looks both ways, so that nothing is generated.
        facts: what the manifest says of the model beside its dimensions, plain values; of an encoder `head` and `outputs`.
        spare: whether a tensor, by name, belongs to a head that is not converted.
        older: ends of names, and how older files write them. copies: names of tensors that files may hold twice.
    """

    model_types: tuple[str, ...]
    sites: tuple[str, ...]
    check: Callable[[Config], None]
    dimensions: Callable[[Config], Dimensions]
    embedding: Callable[[Config, Load], FloatEmbedding]
    block: Callable[[Config, int, Load], FloatBlock]
    head: Callable[[Config, Load], FloatBlock]
    rotary: Callable[[Config], Tensor | None] = _no_rotary
    activated: bool = False
    tokens: str = "model.embed_tokens.weight"
    lm_head: str = "lm_head.weight"
    prefix: str = "model."
    derived: tuple[str, ...] = ("rotary_emb.inv_freq",)
    architectures: tuple[str, ...] = ()
    encoder: bool = False
    facts: Callable[[Config], dict[str, Any]] = lambda config: {}
    spare: Callable[[Config, str], bool] = lambda config, name: False
    older: tuple[tuple[str, str], ...] = ()
    copies: tuple[tuple[str, str], ...] = ()


def concat(load: Load, names: list[str], shapes: list[tuple[int, ...]]) -> Tensor:
    """Tensors stacked along their first axis: matrices that share an input become one segment."""
    return torch.cat([load(name, shape) for name, shape in zip(names, shapes, strict=True)])
