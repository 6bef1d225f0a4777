"""What flows through a block: real values and exact sums as tensors, codes with their steps; and what operations know beside
them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.arrays import Numbers
from kirin_lava.spikes.steps import Codes

__all__ = [
    "ROTARY_BITS",
    "Array",
    "Codes",
    "Constants",
    "Float32",
    "HostContext",
    "Turns",
    "Value",
    "Values",
    "codes_in",
    "rotary_tables",
    "tensor_in",
]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Constants = dict[int, tuple[Array, Tensor]]
Turns = dict[tuple[int, int, int], tuple[Tensor, Tensor]]
Value = Tensor | Codes
Values = dict[str, Value]


ROTARY_BITS = 22
"""Of cosines and sines of integer operations: they count in units of 2^-22."""
_MOST_TURNS = 64


@dataclass
class HostContext:
    """What host operations know beside their inputs.

    Attributes:
        positions: (L,) int64 absolute positions of the tokens, consecutive.
        rotary: cos and sin, each (max_positions, head_dim) float32, or int32 in units of 2^-22, or None; more than one
            embedding side by side.
        steps: steps of cached codes by value name, (B, groups, J) float32, the tokens at hand included.
        constants: arrays of operations as tensors, by identity; a caller that keeps it saves their conversion.
        turns: what `turn` gave before, by first and last position; a caller that keeps it saves computing it in every block.
        check: whether to look for NaN and infinity in whatever is encoded. They turn into steps that are not finite, and reach
            the end of a block: a caller that looks there can do without.
        causal: whether a token sees the positions up to its own; else it sees the whole sequence, whose cached codes and their
            steps must all be there.
    """

    positions: Tensor
    rotary: tuple[Tensor, Tensor] | None = None
    steps: dict[str, Tensor] = field(default_factory=dict)
    constants: Constants = field(default_factory=dict)
    turns: Turns = field(default_factory=dict)
    check: bool = True
    causal: bool = True

    def __post_init__(self) -> None:
        self.start = int(self.positions[0])
        self.stop = self.start + len(self.positions)

    @property
    def first(self) -> int | None:
        """Position of the first token, None where every token sees all positions."""
        return self.start if self.causal else None

    @property
    def last(self) -> int | None:
        """How many positions the last token sees, None where every token sees all of them."""
        return self.stop if self.causal else None

    def constant(self, array: Array, other: Numbers) -> Numbers:
        """An array of an operation, of the kind of another value and where that is."""
        if isinstance(other, np.ndarray):
            return array
        if id(array) not in self.constants:
            self.constants[id(array)] = array, torch.from_numpy(array).to(other.device)
        return self.constants[id(array)][1]

    def turn(self, width: int, table: int) -> tuple[Tensor, Tensor]:
        """cos and sin at the tokens' positions of an embedding, (L, 1, width); the first half of sin is negative."""
        key = self.start, self.stop, table
        found = self.turns.get(key)
        if found is None:
            if self.rotary is None:
                raise TypeError("a rotary embedding without rotary tables")
            if len(self.turns) >= _MOST_TURNS:
                self.turns.clear()
            part = slice(table * width, (table + 1) * width)
            cos, sin = (turns[self.start : self.stop, part].unsqueeze(1) for turns in self.rotary)
            low, high = sin.chunk(2, -1)
            found = self.turns[key] = cos, torch.cat([-low, high], -1)
        return found

    def remember(self, name: str, step: Tensor) -> None:
        """Append the steps (B, L, groups) of newly cached codes."""
        new = step.transpose(1, 2)
        old = self.steps.get(name)
        self.steps[name] = new if old is None else torch.cat([old, new], dim=2)


def rotary_tables(frequencies: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """cos and sin of position times frequency, (positions, 2 * number of frequencies) float32, computed in float64 on the CPU;
    rows of frequencies side by side."""
    rows = frequencies.double().cpu()
    rows = torch.cat([rows, rows], dim=-1).flatten()
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), rows)
    return angles.cos().float(), angles.sin().float()


def tensor_in(values: Values, name: str) -> Tensor:
    """A real value or sums; `TypeError` where there are codes."""
    value = values[name]
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} holds codes where a real value or sums are needed")
    return value


def codes_in(values: Values, name: str) -> Codes:
    """Codes; `TypeError` where there are none."""
    value = values[name]
    if not isinstance(value, Codes):
        raise TypeError(f"{name} holds no codes")
    return value
