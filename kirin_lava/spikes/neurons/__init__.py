"""Neurons, one file or folder each: what becomes of a membrane. A kind is a class and its line in `NEURONS`."""

from __future__ import annotations

from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.neurons.integrate_fire import IntegrateFire
from kirin_lava.spikes.neurons.neuron import Neuron
from kirin_lava.spikes.neurons.planes import DOUBLING, PLANE_BY_PLANE, Doubling, PlaneByPlane
from kirin_lava.spikes.neurons.readout import READ_OUT, ReadOut
from kirin_lava.spikes.neurons.silence import Silence

__all__ = [
    "DOUBLING",
    "NEURONS",
    "PLANE_BY_PLANE",
    "READ_OUT",
    "Doubling",
    "IntegrateFire",
    "Neuron",
    "PlaneByPlane",
    "ReadOut",
    "Silence",
    "reader_of",
]

NEURONS: tuple[type[Neuron], ...] = (ReadOut, Silence, IntegrateFire, PlaneByPlane, Doubling)


def reader_of(code: SpikeCode, weights: int | None = None) -> Neuron:
    """The neuron that reads sums of a code out.

    Args:
        weights: most that the magnitudes of a neuron's weights sum to, None where they are not known.
    """
    if not code.by_plane:
        return READ_OUT
    whole = weights is not None and DOUBLING.reach(code, weights) <= STATE_MAX
    return DOUBLING if whole else PLANE_BY_PLANE
