"""Neurons, one file or folder each: what becomes of a membrane. A kind is a class and its line in `NEURONS`."""

from __future__ import annotations

from kirin_lava.spikes.neurons.integrate_fire import IntegrateFire
from kirin_lava.spikes.neurons.neuron import Neuron
from kirin_lava.spikes.neurons.readout import READ_OUT, ReadOut
from kirin_lava.spikes.neurons.silence import Silence

__all__ = ["NEURONS", "READ_OUT", "IntegrateFire", "Neuron", "ReadOut", "Silence"]

NEURONS: tuple[type[Neuron], ...] = (ReadOut, Silence, IntegrateFire)
