"""Core operations: they run as spikes and integers on neuro cores, and turn codes into sums, or into codes where neurons
fire."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kirin_lava.base.loihi2 import STATE_MAX, WEIGHT_MAX, WEIGHT_MIN
from kirin_lava.graph.ops.op import CUSTOM_NEURON, NEUROCORE, Op
from kirin_lava.graph.port import CODES, SUMS, Inputs, Port
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.neurons import READ_OUT, Neuron, reader_of
from kirin_lava.spikes.steps import LEFT_OUT

__all__ = ["Linear", "Mix", "Score", "synapses_of"]

_EXACT = 1 << 24  # products of attention are summed in float32, or in float64


@dataclass(frozen=True, eq=False)
class Linear(Op):
    """codes -> sums (read out) or codes (fired): `v[n] = sum_k weight[n, k] * q[k]`, exactly, and what the neuron makes of it.

    Attributes:
        weight: (N, K) int8 synapses.
        bits: 4 or 8, the width of a synapse.
        code: of the inputs.
        neuron: what becomes of the membranes.
    """

    place: ClassVar[str] = NEUROCORE
    name: str
    input: str
    output: str
    weight: npt.NDArray[np.int8]
    bits: int
    code: SpikeCode
    neuron: Neuron = READ_OUT

    @property
    def fires(self) -> SpikeCode | None:
        """Code of what its neurons fire, None where they are read out."""
        return self.neuron.fires

    @property
    def kind(self) -> str:
        """ "read" or "fire"."""
        return "read" if self.fires is None else "fire"

    def port(self, inputs: Inputs) -> Port:
        """Sums, or codes with a step of 1."""
        codes = inputs.read(self.input, CODES)
        inputs.same("inputs", self.weight.shape[1], codes.width)
        inputs.same("groups", codes.groups, 1)
        inputs.code(self.code, codes)
        if not self.neuron.reads(self.code):
            raise inputs.error(f"neurons that read {self.neuron.name} do not read {self.code.name} codes")
        neurons = self.weight.shape[0]
        problem = self.neuron.problem(neurons)
        if problem is not None:
            raise inputs.error(problem)
        if self.fires is None:
            return Port(SUMS, neurons, zero_points=codes.zero_points)
        inputs.same("zero points in a segment that fires", codes.zero_points, 0)
        return Port(CODES, neurons, code=self.fires, fraction=None if codes.fraction is None else 0)


def synapses_of(cached: SpikeCode | None) -> tuple[int, ...]:
    """Largest magnitudes of the 8-bit synapses that hold a cached code, the highest digit to the base 256 first."""
    largest = WEIGHT_MAX if cached is None else cached.largest
    return (largest,) if largest <= WEIGHT_MAX else ((largest - WEIGHT_MIN) // 256, -WEIGHT_MIN)


@dataclass(frozen=True, eq=False)
class _Attention(Op):
    place: ClassVar[str] = CUSTOM_NEURON
    name: str
    input: str
    cache: str
    output: str
    heads: int
    kv_heads: int
    code: SpikeCode
    window: int | None = field(default=None, metadata=LEFT_OUT, kw_only=True)

    @property
    def kind(self) -> str:
        """ "score" or "mix"."""
        return type(self).__name__.lower()

    @property
    def neuron(self) -> Neuron:
        """What reads its sums."""
        return reader_of(self.code)

    def reads(self) -> dict[str, str]:
        """Codes, and the row that the token adds to the cache."""
        return {self.input: "all", self.cache: "all"}

    def held(self, positions: int) -> int:
        """Positions that its cache holds of so many: those of its window at most."""
        return positions if self.window is None else min(positions, self.window)

    def _head_dim(self, inputs: Inputs) -> int:
        inputs.heads(self.heads, self.kv_heads)
        if self.window is not None:
            inputs.positive("window", self.window)
        cached = inputs.cached(self.cache)
        inputs.same(f"steps of {self.cache}", cached.groups, self.kv_heads)
        return cached.width // self.kv_heads


@dataclass(frozen=True, eq=False)
class Score(_Attention):
    """codes x cached codes -> sums: `v[h, j] = sum_d Q[h, d] * K[j, h', d]` for positions j up to the token's own, 0 beyond.

    With a `window` of W only the last W positions are kept, position p in the place of p - W, and what is older has a sum of 0.
    """

    def port(self, inputs: Inputs) -> Port:
        """Sums by head and position."""
        head_dim, query, cached = self._head_dim(inputs), inputs.read(self.input, CODES), inputs.cached(self.cache)
        inputs.code(self.code, query)
        inputs.same("width of the query", query.width, self.heads * head_dim)
        synapses = synapses_of(cached.code)
        most = STATE_MAX if self.neuron.every_step or len(synapses) > 1 else _EXACT - 1
        if self.neuron.reach(self.code, head_dim * max(synapses)) > most:
            raise inputs.error(f"heads of width {head_dim} do not fit sums of 24 bits")
        return Port(SUMS, self.heads, by_position=True, window=self.window)


@dataclass(frozen=True, eq=False)
class Mix(_Attention):
    """codes x cached codes -> sums: `v[h, d] = sum_j P[h, j] * V[j, h', d]` over positions j up to the token's own.

    A long context has neurons of its own for every `part` positions, and the host adds their membranes, exactly:
    `v = sum_i v_i`, where v_i sums over the positions from `i * part` to `(i + 1) * part - 1`; where a `window` of W positions
    is kept, over these places of position p modulo W.

    Attributes:
        part: positions that share neurons, None for all of them.
    """

    part: int | None = field(default=None, metadata=LEFT_OUT)

    def parts(self, positions: int) -> int:
        """Neurons for each of the sums that a token with `positions` positions has, itself included."""
        return 1 if self.part is None else -(-self.held(positions) // self.part)

    def port(self, inputs: Inputs) -> Port:
        """Sums, head_dim for every head."""
        if self.part is not None:
            inputs.positive("positions of a part", self.part)
        head_dim = self._head_dim(inputs)
        weights = inputs.read(self.input, CODES, by_position=True)
        inputs.code(self.code, weights)
        inputs.same("heads", weights.width, self.heads)
        inputs.window(self.input, self.window)
        return Port(SUMS, self.heads * head_dim)
