"""Limits of the chip that another library, or arithmetic, can confirm."""

from __future__ import annotations

import numpy as np

from kirin_lava.base import loihi2


def test_registers_are_as_wide_as_they_are_called() -> None:
    int8 = np.iinfo(np.int8)
    assert (int8.min, int8.max) == (loihi2.WEIGHT_MIN, loihi2.WEIGHT_MAX), "stock netx keeps synapses as int8"
    assert int8.bits == loihi2.WEIGHT_BITS
    assert loihi2.STATE_MAX == 2**23 - 1 and loihi2.MESSAGE_MAX == 2**23 - 1  # 24 bits, one of them for the sign
