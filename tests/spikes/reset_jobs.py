"""What the tests here let a Lava job do; Lava itself is imported there alone."""

from __future__ import annotations

import numpy as np


def fired(currents: np.ndarray, steps: int) -> list[int]:
    """Spikes (N,) of stock LIFReset neurons in fixed point that get a constant current each, from v = 0 on; they fire where
    v > 64."""
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.lif.process import LIFReset
    from lava.proc.monitor.process import Monitor

    neurons = LIFReset(
        shape=currents.shape, du=0, dv=0, bias_mant=currents.astype(int), vth=1, reset_interval=1000, reset_offset=0
    )
    spikes = Monitor()
    spikes.probe(neurons.s_out, steps)
    neurons.run(RunSteps(steps), Loihi2SimCfg(select_tag="fixed_pt"))
    try:
        (found,) = spikes.get_data()[neurons.name].values()
        return np.asarray(found).astype(bool).sum(0).tolist()
    finally:
        neurons.stop()
