"""Integer operations: what a block does between its core operations, by neurons with tables instead of a host with floats.

A fixed-point value is a tensor of int64 in units of `2^-fraction`, the fraction a number of its port, its magnitude below 2^23.
Every operation is a class in a file here and its place in `INTEGER_OPS`.
"""

from __future__ import annotations

from kirin_lava.graph.ops.integer.activations import (
    IntegerGate,
    IntegerGelu,
    IntegerGeluGate,
    IntegerRelu,
    IntegerSoftCap,
)
from kirin_lava.graph.ops.integer.doors import IntegerDecode, IntegerEncode, IntegerSum, IntegerZeroPoints
from kirin_lava.graph.ops.integer.norm import IntegerNorm
from kirin_lava.graph.ops.integer.op import IntegerOp
from kirin_lava.graph.ops.integer.plain import IntegerAdd, IntegerRotary, IntegerSlice
from kirin_lava.graph.ops.integer.softmax import IntegerCappedSoftmax, IntegerSoftmax
from kirin_lava.spikes.tables import Table, table

__all__ = [
    "INTEGER_OPS",
    "IntegerAdd",
    "IntegerCappedSoftmax",
    "IntegerDecode",
    "IntegerEncode",
    "IntegerGate",
    "IntegerGelu",
    "IntegerGeluGate",
    "IntegerNorm",
    "IntegerOp",
    "IntegerRelu",
    "IntegerRotary",
    "IntegerSlice",
    "IntegerSoftCap",
    "IntegerSoftmax",
    "IntegerSum",
    "IntegerZeroPoints",
    "Table",
    "table",
]

INTEGER_OPS: tuple[type[IntegerOp], ...] = (
    IntegerNorm,
    IntegerRotary,
    IntegerSlice,
    IntegerGate,
    IntegerGeluGate,
    IntegerGelu,
    IntegerRelu,
    IntegerSoftCap,
    IntegerAdd,
    IntegerSum,
    IntegerEncode,
    IntegerZeroPoints,
    IntegerDecode,
    IntegerSoftmax,
    IntegerCappedSoftmax,
)
