"""The Processes in a Lava network of your own: two layers from spike to spike, watched by a stock sink.

    codes -> SpikeEncoder -> synapses -> SilenceNeuron (fires: ReLU) -> spike synapse -> SilenceNeuron (read out) -> RingBuffer

The first layer takes signed codes, spikes within -7..7 and outlier messages beyond. Its neurons stay silent until a window is
over, then fire once; the time of the spike is the code. The second layer is read out. Every membrane is compared with plain
integer arithmetic.

Run: python examples/custom_network.py   (Python 3.10 with lava-nc 0.10.0)
"""

from __future__ import annotations

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer

from kirin_lava.processes import SilenceNeuron, SpikeEncoder, outlier_synapse, spike_synapse
from kirin_lava.spikes.codes import SIGNED, UNSIGNED8
from kirin_lava.spikes.neurons import Silence

INPUTS, HIDDEN, OUTPUTS, WINDOWS = 20, 12, 4, 6
PERIOD = 8  # time steps per window, the same for every Process


def main() -> int:
    """Build, run, compare; returns the number of membranes that differ."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-7, 8, (WINDOWS, INPUTS))
    codes[:, ::6] *= 9  # outliers
    first, second = rng.integers(-8, 8, (HIDDEN, INPUTS)), rng.integers(-8, 8, (OUTPUTS, HIDDEN))
    ramp = rng.integers(30, 60, HIDDEN)  # one threshold step of each hidden neuron
    fire = Silence(UNSIGNED8, ramp, offset=np.zeros(HIDDEN, np.int64))

    encoder = SpikeEncoder(codes=codes, code=SIGNED, period=PERIOD)
    spikes, outliers = spike_synapse(first), outlier_synapse(first)
    hidden = SilenceNeuron(shape=(HIDDEN,), period=PERIOD, fire=fire)
    synapse = spike_synapse(second)
    output = SilenceNeuron(shape=(OUTPUTS,), period=PERIOD)
    steps = (WINDOWS + 1) * PERIOD + 1  # fired codes need one window more, a membrane leaves one step after its window
    sink = RingBuffer(shape=(OUTPUTS,), buffer=steps)

    encoder.s_out.connect(spikes.s_in)
    encoder.a_out.connect(outliers.s_in)
    spikes.a_out.connect(hidden.a_in)
    outliers.a_out.connect(hidden.a_in)
    hidden.s_out.connect(synapse.s_in)
    synapse.a_out.connect(output.a_in)
    output.s_out.connect(sink.a_in)

    try:
        sink.run(condition=RunSteps(steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        messages = sink.data.get().astype(int)
    finally:
        sink.stop()

    expected = np.clip((codes @ first.T + ramp // 2) // ramp, 0, 7) @ second.T
    got = messages[:, 2 * PERIOD :: PERIOD].T  # window w of the input leaves in time step (w + 2) * PERIOD
    wrong = int((got != expected).sum())
    print(f"{wrong} of {expected.size} membranes differ; the last window: {got[-1].tolist()}")
    return wrong


if __name__ == "__main__":
    raise SystemExit(main())
