"""The hybrid graph: what a converted decoder computes, operation by operation, with the integer domain of every value.

A `Model` is an embedding and a tuple of `Block`s (one per decoder layer and, last, the head). A block is a straight list of
operations over named values. Each value is written once, the first input is `x`, the last output is the block's result.
Three kinds of value:

    real     float32, computed on the host                              (tokens, width)
    codes    integers q with one step per token and group               (tokens, width), (tokens, groups)
    sums     integers v, the membranes of a window, exact               (tokens, width)

Core operations turn codes into sums (`Linear`, `Score`, `Mix`) or into codes (`Linear` with `fire`) and run on neuro cores.
Host operations (everything else) are float32 arithmetic that is written once, in `kirin_lava.graph.host`, for every backend.
`Encode` and `Decode` are the two doors between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from kirin_lava.spikes.codes.coding import Encoding

__all__ = [
    "Add",
    "Block",
    "CoreOp",
    "Decode",
    "Embedding",
    "Encode",
    "Fire",
    "Gate",
    "HostOp",
    "Linear",
    "Mix",
    "Model",
    "Norm",
    "Op",
    "Rotary",
    "Score",
    "Slice",
    "Softmax",
    "Sum",
]

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]
Int64 = npt.NDArray[np.int64]

NEUROCORE, CUSTOM_NEURON, HOST = "neurocore", "neurocore with custom neuron", "host"


@dataclass(frozen=True, eq=False)
class Norm:
    """`y = (x - mean?) / sqrt(mean((x - mean?)^2) + eps) * weight + bias?` over each of `groups` equal parts of a token.

    `center` False is RMSNorm, True is LayerNorm. weight, bias: (width / groups,) float32.
    """

    place: ClassVar[str] = HOST
    name: str
    input: str
    output: str
    weight: Float32
    bias: Float32 | None
    eps: float
    center: bool
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Rotary:
    """Rotary position embedding of `heads` heads: `y = x * cos[p] + rotate_half(x) * sin[p]` at position p.

    cos, sin: (positions, head_dim) float32, shared by the model and stored once per block list in `Model`.
    """

    place: ClassVar[str] = HOST
    name: str
    input: str
    output: str
    heads: int


@dataclass(frozen=True, eq=False)
class Slice:
    """`y = x[..., start:stop]` of a real value, or of codes, which keep their step."""

    place: ClassVar[str] = HOST
    name: str
    input: str
    output: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Gate:
    """`y = silu(x[..., :half]) * x[..., half:]`, the product in a SwiGLU feed-forward."""

    place: ClassVar[str] = HOST
    name: str
    input: str
    output: str


@dataclass(frozen=True, eq=False)
class Add:
    """`y = x + other`, the residual sum, in float32."""

    place: ClassVar[str] = HOST
    name: str
    input: str
    other: str
    output: str


@dataclass(frozen=True, eq=False)
class Sum:
    """sums: `v = x + other`, exact integers; the membranes of two segments that share a wide fan-in."""

    place: ClassVar[str] = HOST
    name: str
    input: str
    other: str
    output: str


@dataclass(frozen=True, eq=False)
class Encode:
    """real -> codes: `q = clip(round(x / step), code_min, code_max)`, round half to even.

    The step of a token and group is the smallest that leaves at most `max(1, floor(ratio * width / groups))` outliers and
    clips nothing: `step = max(t / (spike_max + 0.499), max|x| / (code_max + 0.49))` with t the largest magnitude that must be
    a spike, rounded up to 4 binary digits (3 for probabilities), so that counting finds it. Where negative spikes reach
    further, a negative magnitude counts in proportion less, `(spike_max + 0.499) / (|spike_min| + 0.499)` of it. With
    `static_step` the step is fixed and codes beyond the range are clipped and counted.

    Attributes:
        groups: equal parts of a token with a step each (heads); 1 for a whole token.
        ratio: share of elements that may be outliers; ignored where `channels` is given.
        channels: (width,) bool, the outlier channels of the per-channel policy, or None for the element-wise policy.
        static_step: step of every token, or None for a step per token and group.
        causal: the input is a row of attention probabilities: its width is the number of positions up to the token's own.
        cached: the codes are kept for later tokens (keys and values).
    """

    place: ClassVar[str] = HOST
    name: str
    input: str
    output: str
    encoding: Encoding
    groups: int = 1
    ratio: float = 0.0
    channels: npt.NDArray[np.bool_] | None = None
    static_step: float | None = None
    causal: bool = False
    cached: bool = False


@dataclass(frozen=True, eq=False)
class Decode:
    """sums -> real: `y = v * step * scale + bias`, with the step of the codes the sums were made from.

    Attributes:
        codes: name of the codes value whose steps apply; its groups divide the width.
        scale: (width,) float32, or None for 1 (attention).
        bias: (width,) float32 or None.
    """

    place: ClassVar[str] = HOST
    name: str
    input: str
    codes: str
    output: str
    scale: Float32 | None
    bias: Float32 | None


@dataclass(frozen=True, eq=False)
class Softmax:
    """Causal softmax over scores, with the value scale folded in.

    `P[h, j] = softmax_j(v[h, j] * step_q[h] * step_k[j, h'] * factor) * step_v[j, h']` for j up to the token's own
    position, 0 beyond; h' = h * kv_heads // heads. The result is a real value of width heads * positions.
    """

    place: ClassVar[str] = HOST
    name: str
    input: str
    query: str
    key: str
    value: str
    output: str
    heads: int
    kv_heads: int
    factor: float


@dataclass(frozen=True, eq=False)
class Fire:
    """The fire phase of a silence-threshold neuron, `D` its ramp and `m` its membrane `2^shift * v + offset`.

    Unsigned and offset codes (T levels, thresholds `k * D - D // 2` on `m + zero * D`, k = T-1 down to 1, one per step):
        `q = clip((m + zero * D + D // 2) // D, 0, T - 1) - zero`
    Signed codes (a mirrored ladder, sign and magnitude):
        `q = sign(m) * min((|m| + D // 2) // D, T - 1)`

    Attributes:
        encoding: of the output codes. Unsigned: negative membranes stay silent, which is ReLU for free.
        ramp: (N,) int64, D >= 1.
        offset: (N,) int64, the bias in units of m.
        shift: f, the synapses hold `2^f * weight`, so that D is not coarse.
        step: step of the output codes, or, where it rides, its ratio to the (single) step of the input token.
        rides: whether the output step of a token is `step * input step`.
    """

    encoding: Encoding
    ramp: Int64
    offset: Int64
    shift: int
    step: float
    rides: bool = False


@dataclass(frozen=True, eq=False)
class Linear:
    """codes -> sums (read) or codes (fire): `v[n] = sum_k weight[n, k] * q[k]`, exactly.

    Attributes:
        weight: (N, K) int8 synapses; a power-of-two shift per group of inputs is already multiplied in.
        bits: 4 or 8, the bit-width of a weight before its shift.
        encoding: of the input codes.
        fire: the fire phase, or None where the membrane is read out.
        group_shift: (N, groups) uint8 exponents that were multiplied in, or None.
    """

    name: str
    input: str
    output: str
    weight: Int8
    bits: int
    encoding: Encoding
    fire: Fire | None = None
    group_shift: npt.NDArray[np.uint8] | None = None

    @property
    def place(self) -> str:
        """Stock neurons read out or, on Lava's LIFReset, fire; the silence-threshold neuron itself is a custom one."""
        return NEUROCORE


@dataclass(frozen=True, eq=False)
class Score:
    """codes x cached codes -> sums: `v[h, j] = sum_d Q[h, d] * K[j, h', d]` for positions j up to the token's own, 0 beyond."""

    place: ClassVar[str] = CUSTOM_NEURON
    name: str
    input: str
    cache: str
    output: str
    heads: int
    kv_heads: int
    encoding: Encoding


@dataclass(frozen=True, eq=False)
class Mix:
    """codes x cached codes -> sums: `v[h, d] = sum_j P[h, j] * V[j, h', d]` over positions j up to the token's own.

    With `fire` the membranes become codes without a host operation; the input then has one step per token.
    """

    place: ClassVar[str] = CUSTOM_NEURON
    name: str
    input: str
    cache: str
    output: str
    heads: int
    kv_heads: int
    encoding: Encoding
    fire: Fire | None = None


HostOp = Norm | Rotary | Slice | Gate | Add | Sum | Encode | Decode | Softmax
CoreOp = Linear | Score | Mix
Op = HostOp | CoreOp


@dataclass(frozen=True, eq=False)
class Block:
    """A straight list of operations from the value `x` to the value `output`."""

    name: str
    ops: tuple[Op, ...]
    output: str

    def linears(self) -> Iterator[Linear]:
        """The linear segments, in order."""
        return (op for op in self.ops if isinstance(op, Linear))

    def core_ops(self) -> Iterator[CoreOp]:
        """The operations that run as spikes and integers, in order."""
        return (op for op in self.ops if isinstance(op, (Linear, Score, Mix)))

    def producer(self, value: str) -> Op:
        """The operation that writes `value`."""
        return next(op for op in self.ops if op.output == value)


@dataclass(frozen=True, eq=False)
class Embedding:
    """Host: `x = tokens[id] + positions[p + position_offset]?`, float32.

    tokens: (vocabulary, width) float32. positions: (rows, width) float32 or None.
    """

    tokens: Float32
    positions: Float32 | None = None
    position_offset: int = 0


@dataclass(frozen=True, eq=False)
class Model:
    """A converted decoder.

    Attributes:
        blocks: decoder layers in order; `head` turns the last one's result into logits.
        rotary: cos and sin, each (max_positions, head_dim) float32, or None.
        max_positions: longest sequence.
        facts: plain JSON values about the source (model_type, widths, vocabulary, special tokens).
    """

    embedding: Embedding
    blocks: tuple[Block, ...]
    head: Block
    rotary: tuple[Float32, Float32] | None
    max_positions: int
    facts: dict[str, Any] = field(default_factory=dict)
