"""A network of one table neuron after the other, asked for answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg

from kirin_lava.processes.start import start_runtime
from kirin_lava.processes.table import TableNeuron
from kirin_lava.processes.tape import TapePlayer, TapeRecorder
from kirin_lava.spikes.tables import Table

__all__ = ["ask_tables"]

Int64 = npt.NDArray[np.int64]


def ask_tables(tables: Sequence[Table], arguments: Sequence[npt.NDArray[np.integer[Any]]]) -> list[Int64]:
    """What table neurons on Lava answer.

    Args:
        arguments: of each table (steps, N): N neurons are asked once in every time step.

    Returns:
        Of each table (steps, N).
    """
    answers = []
    for table, asked in zip(tables, arguments, strict=True):
        steps, neurons = asked.shape
        player, recorder = TapePlayer(lines=neurons, columns=steps), TapeRecorder(lines=neurons, columns=steps)
        neuron = TableNeuron(shape=(neurons,), table=table)
        player.s_out.connect(neuron.a_in)
        neuron.s_out.connect(recorder.a_in)
        player.tape[:], player.span[:], recorder.span[:] = asked, (0, steps), (0, steps)
        try:
            start_runtime(neuron, Loihi2SimCfg(select_tag="fixed_pt"))
            neuron.run(condition=RunSteps(steps))
        finally:
            neuron.stop()
        answers.append(recorder.tape.astype(np.int64))
    return answers
