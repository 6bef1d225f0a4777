"""Which integers reach the neurons unchanged. That Lava does the same is tested in test_netx_traps.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kirin_lava.export.netx.weights import stock_weights


@given(arrays(np.int8, st.tuples(st.integers(1, 4), st.integers(1, 4))))
def test_int8_with_a_positive_weight_is_exact(weight: np.ndarray) -> None:
    """All that a segment relies on: its guard line makes sure of the positive weight."""
    weight[0, 0] = max(1, weight[0, 0])
    assert np.array_equal(stock_weights(weight), weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("low", [-1, -2, -64, -128])
def test_without_a_positive_weight_powers_of_two_are_clipped(low: int) -> None:
    effective = stock_weights(np.array([[low, 0], [low, low]]))
    assert effective is not None and (effective != [[low, 0], [low, low]]).any()


def test_zeros_have_no_weights_at_all() -> None:
    assert stock_weights(np.zeros((2, 2))) is None
