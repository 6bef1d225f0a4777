"""The comparison that every verification rests on: any difference, anywhere, of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kirin_lava.base.errors import VerificationError
from kirin_lava.tasks.verify.result import Row, Verification, compare

WINDOWS, NEURONS = 3, 5
DIFFERENCES = [1, -1, 2, 127, 255, 256, -256, 512, 2**15, 2**16, 2**24, -(2**30)]


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("window", range(WINDOWS))
@pytest.mark.parametrize("neuron", range(NEURONS))
def test_a_single_integer_that_differs_is_found_where_it_is(difference: int, window: int, neuron: int) -> None:
    expected = np.arange(WINDOWS * NEURONS, dtype=np.int32).reshape(WINDOWS, NEURONS)
    got = expected.astype(np.int64)
    got[window, neuron] += difference
    assert np.argwhere(compare(expected, got)).tolist() == [[window, neuron]]
    verification, row = Verification("segment", ("stock",)), Row("blocks.0.attn.o", "read", 4, NEURONS, 8, 0, 0, 0)
    verification.rows.append(row)
    verification.note(row, "stock", expected, got)
    assert (row.compared, row.mismatches) == (WINDOWS * NEURONS, 1)
    first = expected[window, neuron]
    with pytest.raises(VerificationError) as error:
        verification.require()
    assert str(error.value) == (
        f"1 of 15 integers differ; first: blocks.0.attn.o, stock, window {window}, neuron {neuron}: "
        f"expected {first}, got {first + difference}"
    )


@given(
    st.lists(st.integers(-(2**23), 2**23), min_size=6, max_size=6),
    st.lists(st.integers(-(2**23), 2**23), min_size=6, max_size=6),
)
def test_integers_are_compared_whole(first: list[int], second: list[int]) -> None:
    """In whatever types they come."""
    expected = np.array([[a != b for a, b in zip(first, second, strict=True)]])
    for kind in (np.int32, np.int64):
        np.testing.assert_array_equal(compare(np.array([first], kind), np.array([second], np.int64)), expected)
    assert not compare(np.array([first], np.int32), np.array([first], np.int64)).any()


def test_the_first_mismatch_stays_and_all_are_counted() -> None:
    verification, row = Verification("segment", ("native", "stock")), Row("a", "read", 1, 2, 8, 0, 0, 0)
    verification.rows.append(row)
    zeros = np.zeros((2, 2), np.int64)
    for backend, place in (("native", (1, 1)), ("stock", (0, 0))):
        got = zeros.copy()
        got[place] = 1
        verification.note(row, backend, zeros, got)
    assert (verification.compared, verification.mismatches) == (8, 2)
    assert verification.first is not None
    assert (verification.first.backend, verification.first.window, verification.first.neuron) == ("native", 1, 1)
    assert verification.summary().startswith("NOT VERIFIED: 8 integers compared (native, stock), 2 mismatches")
