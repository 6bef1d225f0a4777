"""FAS, arXiv 2502.04405: activations become counts of spikes, and the model is fine-tuned with them.

ReLU between two layers  integrate-and-fire neurons: 0 to L spikes in T = L steps, the clip-floor activation (QCFS) exactly
dense inputs             integers of 8 bits; of a layer that fires with a fixed step
queries, probabilities   messages of 8 bits
keys and values          8-bit integers in a cache
head                     integers of 8 bits

The paper has no more: all else of its networks stays in float. Families whose activation is not directly before a dense layer,
such as those with gated layers, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from kirin_lava import models
from kirin_lava.base.errors import FitError, UnsupportedError
from kirin_lava.base.loihi2 import STATE_MAX, WEIGHT_MAX, WEIGHT_MIN
from kirin_lava.graph.ops import Relu
from kirin_lava.methods.fas.steps import input_step, output_steps, settled
from kirin_lava.methods.method import FiringDense, Method, Paper
from kirin_lava.methods.options import choice
from kirin_lava.methods.site import Coding, Site
from kirin_lava.models.layout import FloatBlock
from kirin_lava.spikes.codes import INTEGER8, RATE, UNSIGNED_INTEGER8, Rate, SpikeCode
from kirin_lava.spikes.neurons import IntegrateFire, Neuron
from kirin_lava.spikes.steps import RowBudget, TokenBudget

__all__ = ["FAS", "Fas", "FasOptions"]

_BY_STEPS = {code.window: code for code in RATE}
_MAX_SHIFT = 4


@dataclass(frozen=True)
class FasOptions:
    """How activations are counted.

    Attributes:
        levels: L, the most spikes of a neuron, and T, the steps they have: 8 (the paper's), 4 or 16.
        fit: thresholds and starts on the quantised network: one factor and one start for each "layer", then others for each
            "neuron"; "none" keeps those of the float model.
    """

    levels: int = 8
    fit: str = "none"

    def __post_init__(self) -> None:
        choice("levels", self.levels, tuple(_BY_STEPS))
        choice("fit", self.fit, ("none", "layer", "neuron"))


class Fas(Method):
    """See the module."""

    name: ClassVar[str] = "fas"
    title: ClassVar[str] = "FAS"
    paper: ClassVar[Paper | None] = Paper("FAS", "arXiv 2502.04405", energy_reduction=0.9663)
    options: ClassVar[type[Any]] = FasOptions
    trains: ClassVar[tuple[str, ...]] = ("none", "blocks", "distill")
    needs_activation: ClassVar[bool] = True
    trains_firing: ClassVar[bool] = True
    folder: ClassVar[Path | None] = Path(__file__).parent
    windows: ClassVar[Mapping[str, int]] = MappingProxyType({f"{steps} levels": steps for steps in _BY_STEPS})

    def activations(self, options: FasOptions) -> Rate:
        """Of what neurons fire: the only spikes there are."""
        return _BY_STEPS[options.levels]

    def coding(self, site: Site, options: FasOptions) -> Coding:
        """See `Method`: integers of 8 bits."""
        if site.side == "p":
            return Coding(UNSIGNED_INTEGER8, RowBudget(), site.name)
        return Coding(INTEGER8, TokenBudget(), site.name)

    def fired(self, site: Site, options: FasOptions) -> SpikeCode:
        """See `Method`."""
        return self.activations(options)

    def input_step(self, site: Site, options: FasOptions, sample: Tensor, peak: float) -> float:
        """Of least squared error, see `steps`."""
        return input_step(sample, peak)

    def output_steps(self, site: Site, options: FasOptions, sample: Tensor) -> Tensor:
        """Of least squared error, of the layer and then of every neuron, see `steps`."""
        return output_steps(sample, options.levels)

    def settles(self, options: FasOptions) -> bool:
        """See `Method`."""
        return options.fit != "none"

    def settled(
        self, site: Site, options: FasOptions, sums: Tensor, wanted: Tensor, steps: Tensor, reader: Tensor
    ) -> tuple[Tensor, Tensor]:
        """With which the reading layer is least wrong, of the layer and then of every neuron, see `steps`."""
        return settled(sums, wanted, steps, reader, options.levels, fine=options.fit == "neuron")

    def neuron(self, dense: FiringDense, site: Site, options: FasOptions) -> Neuron:
        """Thresholds and starts, with the largest shift that synapses and membranes hold. The bias is held with the membrane;
        what is less than 1 of it in a step is added to the start, which is half a threshold otherwise."""
        code = self.activations(options)
        steps = code.window
        reach = np.abs(dense.weight, dtype=np.int16).sum(1, dtype=np.int64) * dense.inputs.max_message
        lowest, highest = int(dense.weight.min()), int(dense.weight.max())
        for shift in range(_MAX_SHIFT, -1, -1):
            theta = np.maximum(np.rint(2.0**shift * steps * dense.steps / dense.unit), 1)
            bias = 2.0**shift * dense.bias / dense.unit
            offset = np.rint(bias)
            most = np.maximum(reach * 2**shift + np.abs(offset), 2 * theta)
            if lowest << shift >= WEIGHT_MIN and highest << shift <= WEIGHT_MAX and most.max() <= STATE_MAX:
                start = np.clip(theta // 2 + np.rint(steps * (bias - offset)), 0, theta - 1)
                theta, start, offset = (part.astype(np.int64) for part in (theta, start, offset))
                return IntegrateFire(code, theta, start, offset, shift)
        worst = int(most.argmax())
        raise FitError(
            f"{dense.name}: membrane or twice the threshold of neuron {worst} can reach {most[worst]:.0f}, beyond the 24-bit"
            f" state ({STATE_MAX}); split its fan-in or use a recipe with fewer bits"
        )

    def rewrite(self, block: FloatBlock) -> FloatBlock:
        """The block as it is.

        Raises:
            UnsupportedError: no activation stands directly before a dense layer, so nothing would spike.
        """
        activated = {op.output for op in block.ops if isinstance(op, Relu)}
        if block.name == "head" or any(op.input in activated for op in block.denses()):
            return block
        known = ", ".join(kind for family in models.FAMILIES if family.activated for kind in family.model_types)
        raise UnsupportedError(
            f"{block.name}: FAS replaces a ReLU directly before a dense layer, and this family has none (it has a gate, or a"
            f" GELU); FAS converts: {known}; choose a recipe of another method for this model"
        )

    def setting(self, options: FasOptions) -> str:
        """See `Method`."""
        return "A8"

    def facts(self, options: FasOptions) -> dict[str, str]:
        """See `Method`."""
        return {
            "activations before a dense layer": f"0 to {options.levels} spikes in {options.levels} steps",
            "all other activations": "messages of 8 bits",
            "cached keys and values": "8 bits",
        }


FAS = Fas()
