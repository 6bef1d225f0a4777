"""IntegerStage: what neurons compute between two core operations of a block without a host, token by token."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from kirin_lava.graph.ops import StageOp
from kirin_lava.graph.ops.integer.op import real_step, whole_step
from kirin_lava.graph.values import HostContext, Value
from kirin_lava.processes.host import HostStage, StageModel
from kirin_lava.processes.integer_stage.operations import answer

__all__ = ["IntegerStage", "PyIntegerStageModel"]


class IntegerStage(HostStage):
    """`HostStage` of a block of integer operations: all its ports carry integers, fixed-point values below 2^23, steps of codes
    below 2^24 and sums in two words."""


@implements(proc=IntegerStage, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyIntegerStageModel(StageModel):
    """IntegerStage on the CPU, in arithmetic of its own, see `operations.py`: it shares none with the executor."""

    x_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=32)
    x_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=32)
    _number: ClassVar[type[np.generic]] = np.int32

    def _compute(self, op: StageOp, values: dict[str, Value], context: HostContext) -> Value:
        return answer(op, values, context)

    def _steps_out(self, name: str, step: torch.Tensor) -> torch.Tensor:
        return whole_step(step, self._units(name))

    def _steps_in(self, name: str, step: torch.Tensor) -> torch.Tensor:
        return real_step(step, self._units(name))

    def _units(self, name: str) -> int:
        fraction = self._plan.block.ports[name].fraction
        assert fraction is not None
        return fraction
