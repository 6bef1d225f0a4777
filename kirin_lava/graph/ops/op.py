"""What every operation of a block is: an owner of its port, its arithmetic, its float form and its work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from torch import Tensor

from kirin_lava.graph.port import Inputs, Port
from kirin_lava.graph.values import HostContext, Value, Values

__all__ = ["CUSTOM_NEURON", "EXP_OPERATIONS", "HOST", "NEUROCORE", "STORED_FLOAT32", "FloatForm", "HostOp", "Op", "StageOp"]

NEUROCORE, CUSTOM_NEURON, HOST = "neurocore", "neurocore with custom neuron", "host"

STORED_FLOAT32 = {"dtype": "float32"}
"""Metadata of a field that holds an array of one axis: its type in a file."""

EXP_OPERATIONS = 20
"""Float operations of one exp to float32 precision: range reduction, a polynomial, scaling."""


class FloatForm(Protocol):
    """What the float form of an operation may ask of the model that is run, see `kirin_lava.models.float_model`."""

    @property
    def rotary(self) -> tuple[Tensor, Tensor] | None:
        """cos and sin, each (positions, head_dim)."""
        ...

    def gain(self, op: Any) -> Tensor:
        """Weight of a norm, which training may have changed."""
        ...


class Op(ABC):
    """One operation, a frozen dataclass with fields of its own: plain numbers, arrays of one axis (`STORED_FLOAT32`), codes,
    rules, neurons.

    Attributes:
        place: where it runs. name: unique in its block. input, output: names of values.
    """

    place: ClassVar[str]
    name: str
    input: str
    output: str

    @abstractmethod
    def port(self, inputs: Inputs) -> Port:
        """What it writes; raises `UsageError` where its inputs or parameters do not fit."""

    def reads(self) -> dict[str, str]:
        """Names of the values it reads: "all" of them, or the "steps" of their codes alone."""
        return {self.input: "all"}


class StageOp(Op):
    """An operation between core operations: arithmetic that is written once for every backend, in float32 on the host or in
    integers on neuro cores, as its `place` says."""

    @abstractmethod
    def compute(self, values: Values, context: HostContext) -> Value:
        """The result, with bits that depend on nothing but the token: correctly rounded operations in a fixed order, and sums
        that have no error, see `kirin_lava.base.exact`. All operations take the tokens row by row: a caller may split them."""

    @abstractmethod
    def operations(self) -> int:
        """Operations, float or integer as its `place` says, per element of the result, of a plain implementation of its
        formula; per visible position and head where the result has one element for each."""


class HostOp(StageOp):
    """An operation of the host, in float32."""

    place: ClassVar[str] = HOST

    def float_form(self, values: dict[str, Tensor], model: FloatForm) -> Tensor:
        """The same in a float model, differentiable, on whole sequences (B, L, width) from position 0 on."""
        raise TypeError(f"{type(self).__name__} has no float form")
