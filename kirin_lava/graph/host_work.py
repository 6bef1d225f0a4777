"""Float operations of the host, counted per element: what a plain implementation of each formula in `kirin_lava.graph.ops`
needs.

The tricks that make `kirin_lava.graph.host` repeatable (exact sums, frexp) are not charged: any host may compute it in its
own way.
"""

from __future__ import annotations

from kirin_lava.graph.ops import Add, Decode, Encode, Gate, HostOp, Norm, Rotary, Slice, Softmax, Sum

__all__ = ["EXP_OPERATIONS", "float_operations"]

EXP_OPERATIONS = 20
"""One exp to float32 precision: range reduction, a polynomial, scaling."""


def float_operations(op: HostOp) -> int:
    """Float operations per element of the result; per visible position and head for `Softmax` and causal `Encode`."""
    if isinstance(op, Norm):
        # RMSNorm: square, sum, scale, weight. LayerNorm: sum, subtract, square, sum, scale, weight.
        return (6 if op.center else 4) + (op.bias is not None)
    if isinstance(op, Rotary):
        return 3  # two products and a sum
    if isinstance(op, Slice):
        return 0
    if isinstance(op, Gate):
        return EXP_OPERATIONS + 4  # negate, exp, add 1, divide, multiply
    if isinstance(op, (Add, Sum)):
        return 1
    if isinstance(op, Encode):
        return 5  # magnitude, selection of the step, divide, round, clip
    if isinstance(op, Decode):
        return 1 + (op.scale is not None) + (op.bias is not None)
    if isinstance(op, Softmax):
        return EXP_OPERATIONS + 7  # two steps, maximum, subtract, sum, divide, step of the value
    raise TypeError(f"{type(op).__name__} is not a host operation")
