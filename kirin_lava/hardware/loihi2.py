"""Limits of Loihi 2 and of Lava's bit-accurate models, each with its source.

Sources: [brief] Intel, "Taking Neuromorphic Computing to the Next Level with Loihi 2", technology brief, 2021.
[lava] lava-nc 0.10.0, the named module. [dl] lava-dl 0.6.0. [abreu] Abreu et al. 2025, arXiv 2503.18002.
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
