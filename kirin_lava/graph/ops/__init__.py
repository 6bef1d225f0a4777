"""The operations of a block. A host operation is a class in a file here and its place in `HOST_OPS`; nothing else names it.

Four kinds of value flow between them:

    real     float32, computed on the host                              (tokens, width)
    fixed    integers in units of a power of two, on neuro cores        (tokens, width)
    codes    integers q with one step per token and group               (tokens, width), (tokens, groups)
    sums     integers v, the membranes of a window, exact               (tokens, width)

Core operations turn codes into sums (`Linear`, `Score`, `Mix`) or into codes (`Linear` whose neurons fire) and run on neuro
cores. Host operations are float32 arithmetic, written once for every backend. `Encode` and `Decode` are the doors between the
two. Integer operations, `kirin_lava.graph.ops.integer`, stand in for all of them where there is to be no host.
"""

from __future__ import annotations

from collections.abc import Iterable

from kirin_lava.graph.ops.activations import Gelu, GeluGate, SoftCap
from kirin_lava.graph.ops.core import Linear, Mix, Score, synapses_of
from kirin_lava.graph.ops.doors import Decode, Encode
from kirin_lava.graph.ops.norm import Norm
from kirin_lava.graph.ops.op import HostOp, Op, StageOp
from kirin_lava.graph.ops.plain import Add, Gate, Relu, Rotary, Slice, Sum
from kirin_lava.graph.ops.softmax import Softmax
from kirin_lava.graph.ops.zero_points import ZeroPoints

__all__ = [
    "CORE_OPS",
    "HOST_OPS",
    "Add",
    "CoreOp",
    "Decode",
    "Encode",
    "Gate",
    "Gelu",
    "GeluGate",
    "HostOp",
    "Linear",
    "Mix",
    "Norm",
    "Op",
    "Relu",
    "Rotary",
    "Score",
    "Slice",
    "SoftCap",
    "Softmax",
    "StageOp",
    "Sum",
    "ZeroPoints",
    "require_ops",
    "synapses_of",
]

CoreOp = Linear | Score | Mix
CORE_OPS: tuple[type[Op], ...] = (Linear, Score, Mix)
HOST_OPS: tuple[type[HostOp], ...] = (
    Norm,
    Rotary,
    Slice,
    Gate,
    GeluGate,
    Gelu,
    Relu,
    SoftCap,
    Add,
    Sum,
    Encode,
    ZeroPoints,
    Decode,
    Softmax,
)


def require_ops(backend: str, known: Iterable[type[Op]], needed: Iterable[type[Op]] = CORE_OPS) -> None:
    """Raise `NotImplementedError` where a backend lacks an operation; called when the backend is imported."""
    missing = [op.__name__ for op in needed if op not in set(known)]
    if missing:
        raise NotImplementedError(f"{backend} does not compute {', '.join(missing)}")
