"""Spike synapses and outlier synapses: stock `Dense` that multiplies integers exactly.

Lava's `fixed_pt` model of `Dense` drops the lowest bit of a matrix with both signs, as Loihi does. A synapse of weight w
therefore stores 2 w and shifts its sums right by one (`weight_exp = -1`); the sign mode is fixed, because a matrix whose
entries all have one sign would be stored by another rule. Both synapses end in the same `a_in`, where Lava adds them up.
"""

from __future__ import annotations

from lava.proc.dense.process import Dense
from lava.utils.weightutils import SignMode

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import MESSAGE_BITS, WEIGHT_MAX, WEIGHT_MIN
from kirin_lava.spikes.codes import Integers

__all__ = ["outlier_synapse", "spike_synapse"]


def spike_synapse(weight: Integers, shift: int = 0) -> Dense:
    """Synapses for spikes: a_out = 2^shift * weight * s_in, one time step later.

    Parameters
    ----------
    weight : numpy.ndarray
        Integers of shape (N, K); times 2^shift they must lie within -128..127.

    shift : int, optional
        Exponent of a common factor. Default is 0.
    """
    return _exact_dense(weight, shift)


def outlier_synapse(weight: Integers, shift: int = 0) -> Dense:
    """Synapses for graded outlier messages: the same weights, a port of their own.

    Parameters
    ----------
    weight : numpy.ndarray
        As for spike_synapse.

    shift : int, optional
        As for spike_synapse.
    """
    return _exact_dense(weight, shift)


def _exact_dense(weight: Integers, shift: int) -> Dense:
    stored = weight.astype("int32") << shift
    if stored.size and (stored.min() < WEIGHT_MIN or stored.max() > WEIGHT_MAX):
        raise FitError(
            f"synapses span {stored.min()}..{stored.max()} (shift {shift} included), beyond the 8 bits of a synapse "
            f"({WEIGHT_MIN}..{WEIGHT_MAX}): lower the shift of the segment or use fewer weight bits"
        )
    # num_message_bits is for spikes, too: they carry a sign, which Dense would reduce to a bool without it
    return Dense(weights=2 * stored, weight_exp=-1, sign_mode=SignMode.MIXED, num_message_bits=MESSAGE_BITS)
