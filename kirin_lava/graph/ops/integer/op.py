"""What integer operations share: where they run, and the fields by which they know their units."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.integers import to_real, whole
from kirin_lava.graph.ops.op import CUSTOM_NEURON, StageOp
from kirin_lava.graph.values import HostContext, Values, tensor_in
from kirin_lava.spikes.tables import Table

__all__ = ["STORED_INT32", "STORED_TABLE", "Int32", "IntegerOp", "constant", "fixed_in", "real_step", "whole_step"]

Int32 = npt.NDArray[np.int32]
STORED_INT32 = {"dtype": "int32"}
STORED_TABLE = {"table": True}
"""Metadata of fields: an array of one axis, or a table, in a file."""


class IntegerOp(StageOp):
    """An operation of neurons with integer arithmetic of their own: int64 throughout, no float anywhere.

    Attributes:
        stock: why the neurons of a stock netx file cannot hold it.
        steps: time steps from its inputs to its result, at least: one for every pass over a row.
        products: of two numbers of up to 24 bits, among its `operations`.
    """

    place: ClassVar[str] = CUSTOM_NEURON
    stock: ClassVar[str]
    steps: ClassVar[int] = 1
    products: ClassVar[int] = 0

    def constant_bytes(self) -> int:
        """Of numbers that every neuron keeps for itself."""
        return 0

    def tables(self) -> tuple[Table, ...]:
        """The tables that its neurons look up."""
        return ()


def fixed_in(values: Values, name: str) -> Tensor:
    """A fixed-point value, or sums, as int64."""
    return whole(tensor_in(values, name))


def whole_step(step: Tensor, fraction: int) -> Tensor:
    """Steps in units of 2^-fraction, int64. They are kept as float32 numbers, which hold integers below 2^24 times a power of
    two without error, so that whoever asks what codes stand for need not know of units."""
    return torch.ldexp(step.double(), torch.tensor(fraction)).to(torch.int64)


def real_step(step: Tensor, fraction: int) -> Tensor:
    """The reverse of `whole_step`."""
    return to_real(step, fraction).float()


def constant(array: Int32, context: HostContext, x: Tensor) -> Tensor:
    """An array of an operation, int64, where x is."""
    found: Tensor = context.constant(array, x)
    return found.to(torch.int64)
