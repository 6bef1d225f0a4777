"""Limits of Loihi 2 and of Lava's bit-accurate models, each with its source.

Sources: [brief] Intel, "Taking Neuromorphic Computing to the Next Level with Loihi 2", technology brief, 2021.
[lava] lava-nc 0.10.0, the named module. [dl] lava-dl 0.6.0. [abreu] Abreu et al. 2025, arXiv 2503.18002.
[davies18] Davies et al., IEEE Micro 38(1), 2018, table 2: Loihi 1 at 0.75 V, simulated before silicon.
[davies21] Davies et al., Proc. IEEE 109(5), 2021. [frady] Frady et al. 2020, arXiv 2004.12691: 768 of its chips, measured.
[assumed] no public number: a choice, meant to be generous to the chip.
"""

from __future__ import annotations

STATE_BITS = 24  # [lava] proc/lif/models.py: u and v
STATE_MAX = 2 ** (STATE_BITS - 1) - 1
WEIGHT_BITS = 8  # [lava] utils/weightutils.py; mixed sign in steps of 2 in Lava's convention
WEIGHT_MIN, WEIGHT_MAX = -128, 127  # what stock netx carries exactly
MESSAGE_BITS = 24  # [lava] graded payload in Lava's models; 32 on chip [brief]
MESSAGE_MAX = 2 ** (MESSAGE_BITS - 1) - 1
THRESHOLD_MANTISSA_BITS = 17  # [lava] proc/lif/models.py: vth, shifted left by 6
LIF_SHIFT = 6  # [lava] proc/lif/models.py: input, bias and threshold are shifted left by it
BIAS_MANTISSA_BITS, BIAS_EXPONENT_MAX = 13, 7  # [lava] proc/lif/models.py
DELAY_MAX = 62  # [dl] slayer/axon/delay.py

CORES_PER_CHIP = 128  # [brief]
USABLE_CORES_PER_CHIP = 120  # [abreu]
NEURONS_PER_CORE = 8192  # [brief]
CORE_MEMORY_BYTES = 192 * 1024  # [brief]
SYNAPSE_MEMORY_BYTES = 128 * 1024  # [brief], at most, of the core's memory

PACKET_BITS = 32  # [davies21] a spike message; a graded payload of up to 32 bits [brief] takes one more
INPUT_AXON_BYTES = 4  # [assumed] routing entry of an input line
OUTPUT_AXON_BYTES = 4  # [assumed] routing entry of a neuron, whatever the number of its destinations
STATE_BYTES = STATE_BITS // 8  # [assumed] states lie without gaps
READ_STATES = 3  # u, v, constant
FIRE_STATES = 6  # u, v, latched membrane, threshold, ramp, offset
COUNT_STATES = 7  # u, v, held membrane, what is integrated of it, threshold, start, offset

# Times. Loihi 2 has no public time per operation: those of Loihi 1, divided by the factors that Intel states for Loihi 2.
BARRIER_SECONDS = 200e-9  # [brief] shortest chip-wide time step, "under 200 ns"
NEURON_UPDATE_SECONDS = 8.4e-9 / 2  # [davies18] active update; [brief] twice as fast
SYNAPSE_SECONDS = 3.5e-9 / 5  # [davies18] synaptic operation; [brief] five times as fast
MANY_CHIPS_BARRIER_SECONDS = 16.2e-6  # [frady] barrier over 768 Loihi 1 chips; for comparison only, it is no bound
