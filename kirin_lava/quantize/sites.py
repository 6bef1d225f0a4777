"""How the sites of one block are coded: the one answer for lowering, calibration, training and the search of budgets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.graph.ops import Relu
from kirin_lava.methods.recipe import Recipe
from kirin_lava.methods.site import Coding, Site
from kirin_lava.models.float_model import Arithmetic
from kirin_lava.models.layout import Attention, Dense, FloatBlock
from kirin_lava.spikes.codes import Channels, SpikeCode
from kirin_lava.spikes.steps import StaticStep

__all__ = ["Calibration", "Coded", "Sites", "straight_through"]


@dataclass
class Calibration:
    """What lowering needs beside the weights, by name of the dense layer.

    Attributes:
        input_steps: step of the inputs of a dense layer that fires.
        output_steps: steps (N,) of its outputs, per neuron.
        channels: fine channels of a site, by its name. codings: of sites that were measured, by their names.
        means: (K,) mean input of a dense layer as sent. moments: (K, K) second moments about it.
    """

    input_steps: dict[str, float] = field(default_factory=dict)
    output_steps: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    channels: dict[str, Channels] = field(default_factory=dict)
    codings: dict[str, Coding] = field(default_factory=dict)
    means: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)


class Sites:
    """The sites of a block under a recipe.

    Args:
        block: as the method computes it.
        calibration: what is known so far; fixed steps are taken from it where they are asked for.

    Attributes:
        firing: dense layers that fire on chip -> the dense layer that reads their codes; none in a head, whose steps nobody
            measures.
        sources: the reverse.
    """

    def __init__(self, block: FloatBlock, recipe: Recipe, calibration: Calibration | None = None):
        self.block, self.recipe = block, recipe
        self.calibration = calibration or Calibration()
        self.firing = {
            first: second
            for first, second in _relu_pairs(block).items()
            if block.name != "head" and recipe.method.fired(Site(block.name, first), recipe.options) is not None
        }
        self.sources = {second: first for first, second in self.firing.items()}

    def site(self, op: Dense | Attention, side: str = "input") -> Site:
        """The site of an operation's side."""
        return Site(self.block.name, op.name, side)

    def coding(self, op: Dense | Attention, side: str = "input") -> Coding:
        """Code and rule; of the inputs of a dense layer that fires with its calibrated step."""
        site = self.site(op, side)
        coding = self.calibration.codings.get(site.name) or self.recipe.method.coding(site, self.recipe.options)
        if site.name in self.calibration.channels:
            coding = replace(coding, code=coding.code.bound(self.calibration.channels[site.name]))
        if isinstance(op, Attention) and side == "p":
            coding = replace(coding, rule=coding.rule.reaching(op.window))
        if op.name not in self.firing or side != "input":
            return coding
        code, rule = self.recipe.method.firing_code(site, self.recipe.options), coding.rule
        if op.name in self.calibration.input_steps:
            rule = StaticStep(self.calibration.input_steps[op.name], getattr(rule, "ratio", 0.0))
        return Coding(code, rule, coding.name)

    def fired(self, op: Dense) -> SpikeCode | None:
        """Code that a dense layer fires into the next one; None where it is read out."""
        return self.recipe.method.fired(self.site(op), self.recipe.options) if op.name in self.firing else None

    def input_code(self, op: Dense) -> SpikeCode:
        """Code of what a dense layer gets, from the host or fired."""
        if op.name in self.sources:
            code = self.recipe.method.fired(Site(self.block.name, self.sources[op.name]), self.recipe.options)
            assert code is not None
            return code
        return self.coding(op).code

    def fold(self, op: Dense) -> npt.NDArray[np.float32] | None:
        """Steps (K,) of the fired codes that a dense layer reads: they become part of its weights. None where it reads no
        such."""
        return self.calibration.output_steps[self.sources[op.name]] if op.name in self.sources else None

    def fired_by(self, relu: str) -> str | None:
        """The firing dense layer whose ReLU writes the value `relu`."""
        writers = {op.output: op.name for op in self.block.denses()}
        found = [writers[op.input] for op in self.block.ops if isinstance(op, Relu) and op.output == relu]
        return found[0] if found and found[0] in self.firing else None


def _relu_pairs(block: FloatBlock) -> dict[str, str]:
    """Dense layers whose result goes through a ReLU straight into another: name of the first -> name of the second."""
    relus = {op.input: op.output for op in block.ops if isinstance(op, Relu)}
    consumers = {op.input: op.name for op in block.denses()}
    return {op.name: consumers[relus[op.output]] for op in block.denses() if relus.get(op.output) in consumers}


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """`quantized` forward, the identity backward."""
    return x + (quantized - x).detach()


class Coded(Arithmetic):
    """The float model with values sent as the integer network sends them; gradients pass straight through, steps are constants.

    What counts in the end is measured with the integer executor.
    """

    watches_attention: ClassVar[bool] = True

    def __init__(self, sites: Sites):
        self.sites = sites

    def coding(self, op: Dense | Attention, side: str) -> Coding | None:
        """How a site is coded here; None leaves it in float."""
        return self.sites.coding(op, side)

    def sent(self, op: Dense | Attention, side: str, x: Tensor) -> Tensor:
        """See `Arithmetic`. What a dense layer reads as fired codes was rounded where it was fired."""
        if side == "input" and op.name in self.sites.sources:
            return x
        coding = self.coding(op, side)
        return x if coding is None else straight_through(x, coding.sent(x, not isinstance(op, Attention) or op.causal))

    @torch.no_grad()
    def value_steps(self, op: Attention, v: Tensor) -> Tensor | None:
        """See `Arithmetic`."""
        coding = self.sites.coding(op, "v")
        return coding.codes(v).step.squeeze(-1)
