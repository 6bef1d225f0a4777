"""Lava Processes of the spiking network: usable on their own in any Lava network, wired from the graph by `build` and `block`.

    SpikeEncoder     plays windows of codes as spikes and outlier messages
    spike_synapse, outlier_synapse    stock `Dense` with exact integer weights
    SpikeMatmul      synapses made at run time: spikes meet cached keys or values
    SilenceNeuron    two-state neuron with a silence threshold, read out or firing
    HostStage        host operations between two segments, token by token
    IntegerStage     the same by neurons, with integers at all ports
    TableNeuron      a function of one integer from a table
    SpikeSink, MembraneSink    sinks that decode and count what travels over a connection

**The window clock.** All windows of a network have the same period of P time steps, counted from 0. A source (encoder, host
stage) plays window w in steps wP .. wP + P-1. A synapse delays by one step, as Lava's `Dense` does, so the window of a neuron
is wP + 1 .. (w+1)P. It sends its membrane in the last of these steps, in which the next source starts window w+1; or it fires
code c in step (w+2)P - c, where a source would play it in window w+1, and its own next window goes on meanwhile.

Importing this package does not import Lava; taking a Process from it does. Every Process with its model is a package of one
file, because Lava's compiler looks for models by executing every file of a Process's folder, squared, for every instance.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kirin_lava.processes.block import BlockNetwork, build_block
    from kirin_lava.processes.build import SegmentNetwork, build_segment
    from kirin_lava.processes.encoder import SpikeEncoder
    from kirin_lava.processes.host import HostStage
    from kirin_lava.processes.integer_stage import IntegerStage
    from kirin_lava.processes.matmul import SpikeMatmul
    from kirin_lava.processes.sink import MembraneSink, SpikeSink
    from kirin_lava.processes.synapse import outlier_synapse, spike_synapse
    from kirin_lava.processes.table import TableNeuron
    from kirin_lava.spikes.neurons.silence.process import SilenceNeuron

__all__ = [
    "BlockNetwork",
    "HostStage",
    "IntegerStage",
    "MembraneSink",
    "SegmentNetwork",
    "SilenceNeuron",
    "SpikeEncoder",
    "SpikeMatmul",
    "SpikeSink",
    "TableNeuron",
    "build_block",
    "build_segment",
    "outlier_synapse",
    "spike_synapse",
]

_HOMES = {
    "BlockNetwork": "block",
    "HostStage": "host",
    "IntegerStage": "integer_stage",
    "MembraneSink": "sink",
    "SegmentNetwork": "build",
    "SilenceNeuron": "kirin_lava.spikes.neurons.silence.process",
    "SpikeEncoder": "encoder",
    "SpikeMatmul": "matmul",
    "SpikeSink": "sink",
    "TableNeuron": "table",
    "build_block": "block",
    "build_segment": "build",
    "outlier_synapse": "synapse",
    "spike_synapse": "synapse",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kirin_lava.processes.runtime import require_lava

    require_lava()
    home = _HOMES[name]
    return getattr(importlib.import_module(home if "." in home else f"{__name__}.{home}"), name)
