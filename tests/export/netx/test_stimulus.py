"""Codes to columns and answers back to integers."""

from __future__ import annotations

import numpy as np
import pytest

from kirin_lava.base.errors import UsageError, VerificationError
from kirin_lava.spikes.codes import CODES, INTEGER8, OFFSET, SIGNED, UNSIGNED8, SpikeCode
from kirin_lava.spikes.stock.layout import ControlLine, Layout, columns, fired_codes, read_sums
from tests.export.netx.cases import some_codes

READ = Layout(SIGNED, 3, 2, None, ())
FIRE = Layout(SIGNED, 3, 2, UNSIGNED8, (ControlLine("ramp", ((8, 5), (9, -5))),))


@pytest.mark.parametrize("enc", CODES, ids=lambda enc: enc.name)
def test_columns_count_every_code_and_take_it_back(enc: SpikeCode) -> None:
    codes = some_codes(np.random.default_rng(0), enc, 4, 9, 0.3)
    layout = Layout(enc, 9, 2, None, (ControlLine("silent"),))
    x = columns(layout, codes)
    assert x.shape == (10, 4 * layout.period + 1)
    windows = x[:9, :-1].reshape(9, 4, layout.period)
    u = windows.cumsum(2)
    np.testing.assert_array_equal((u[..., :-1] @ np.array(enc.gains())).T - enc.zero, codes)
    assert not u[..., -1].any()
    assert not x[9].any() and not x[:, -1].any()


def test_spikes_and_outliers_stand_where_the_documentation_says() -> None:
    x = columns(READ, np.array([[3, -100, 0]]))
    assert x.tolist() == [[0, 0, 0, 0, 0, 1, 0, 0, -1, 0], [0] * 7 + [-100, 100, 0], [0] * 10]
    x = columns(Layout(OFFSET, 2, 1, None, ()), np.array([[7, -8]]))  # c = 15 comes first, c = 0 not at all
    assert x[0].tolist() == [0, 1] + [0] * 14 + [-1, 0]
    assert not x[1].any()


def test_control_lines_send_the_same_in_every_window() -> None:
    x = columns(FIRE, np.zeros((3, 3), int))
    assert FIRE.period == 16
    assert np.argwhere(x).tolist() == [[3, 16 * b + c] for b in range(3) for c in (8, 9)]
    assert x[3, 8] == 5 and x[3, 9] == -5


def test_no_windows_are_no_columns() -> None:
    assert columns(READ, np.zeros((0, 3), int)).shape == (3, 1)
    assert read_sums(READ, np.zeros(2, int), np.zeros((2, 1), int)).shape == (0, 2)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((2, 4), int), r"takes integers \(windows, 3\)"),
        (np.zeros(3, int), r"takes integers"),
        (np.zeros((2, 3)), r"float64"),
        (np.full((2, 3), 128), r"outside signed"),
    ],
)
def test_other_codes_are_refused(codes: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        columns(READ, codes)


def test_a_neuron_that_is_not_at_rest_is_named() -> None:
    answer = np.zeros((2, 2 * READ.period + 1), int)
    answer[1, 2 * READ.period] = 7
    with pytest.raises(VerificationError, match="window 1, neuron 1: u is 7"):
        read_sums(READ, np.zeros(2, int), answer)


def test_levels_are_times_and_the_last_column_is_level_0() -> None:
    answer = np.zeros((2, FIRE.period + 1), int)
    answer[0, 1 + 8 + 2] = 1  # two columns after fire start
    answer[1, 1 + 8 + 7] = 1
    assert fired_codes(FIRE, answer).tolist() == [[5, 0]]
    offset = Layout(INTEGER8, 3, 2, OFFSET, ())
    assert fired_codes(offset, np.zeros((2, offset.period + 1), int)).tolist() == [[-8, -8]]


def test_signed_codes_have_two_neurons() -> None:
    layout = Layout(SIGNED, 3, 2, SIGNED, ())
    assert layout.mirrored and layout.neurons == 4
    answer = np.zeros((4, layout.period + 1), int)
    answer[0, 1 + 8 + 1] = 1
    answer[3, 1 + 8] = 1
    assert fired_codes(layout, answer).tolist() == [[6, -7]]


def test_early_and_double_spikes_are_named() -> None:
    early = np.zeros((2, 2 * FIRE.period + 1), int)
    early[1, FIRE.period + 8] = 1
    with pytest.raises(VerificationError, match="window 1, neuron 1 fired before its inputs"):
        fired_codes(FIRE, early)
    early[1, 8] = early[0, FIRE.period + 8] = 1
    with pytest.raises(VerificationError, match="window 0, neuron 1 fired before its inputs"):
        fired_codes(FIRE, early)
    twice = np.zeros((2, FIRE.period + 1), int)
    twice[:, [10, 12]] = 1
    with pytest.raises(VerificationError, match="window 0, neuron 0 fired twice"):
        fired_codes(FIRE, twice)


def test_answers_of_another_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"gives \(2, windows \* 9 \+ 1\)"):
        read_sums(READ, np.zeros(2, int), np.zeros((2, 9), int))
    with pytest.raises(UsageError, match="does not fire"):
        fired_codes(READ, np.zeros((2, 10), int))
