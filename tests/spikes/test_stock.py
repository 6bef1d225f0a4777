"""Ranges and layouts of stock segments on small numbers, counted by hand or one integer after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kirin_lava.base.errors import FitError, UsageError, VerificationError
from kirin_lava.base.loihi2 import MESSAGE_BITS
from kirin_lava.spikes.codes import INTEGER8, OFFSET, SIGNED, UNSIGNED8, UNSIGNED16, SpikeCode
from kirin_lava.spikes.stock import ranges
from kirin_lava.spikes.stock.layout import ControlLine, Layout, columns, fired_codes, read_sums
from kirin_lava.spikes.stock.ranges import (
    CURRENT,
    MEMBRANE,
    Range,
    check_codes,
    exact_sums,
    measure,
    range_of,
    require,
    worst_sums,
)

WEIGHT = np.array([[3, -5], [-8, 0], [7, 7], [-1, -2], [0, 0]], np.int8)


def followed(weight: np.ndarray, code: SpikeCode, codes: np.ndarray) -> list[list[int]]:
    """Lowest and highest u, lowest and highest v of every neuron, one addition after the other."""
    found = []
    for row in weight.astype(int).tolist():
        us, vs = [0], [0]
        for payloads in code.payloads(codes).tolist():
            u = v = 0
            for t, gain in enumerate(code.gains()):
                u += sum(w * line[t] for w, line in zip(row, payloads, strict=True))
                v += gain * u
                us.append(u)
                vs.append(v)
        found.append([min(us), max(us), min(vs), max(vs)])
    return np.array(found).T.tolist()


@pytest.mark.parametrize("rows", [1, 2, 4096])
@pytest.mark.parametrize("code", [SIGNED, OFFSET, INTEGER8, UNSIGNED16], ids=lambda code: code.name)
def test_states_are_followed_through_every_column(code: SpikeCode, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "_ROWS", rows)
    codes = np.random.default_rng(0).integers(max(code.code_min, -20), 21, (6, 2))
    assert [part.tolist() for part in measure(WEIGHT, code, codes)] == followed(WEIGHT, code, codes)
    assert exact_sums(WEIGHT, codes).tolist() == (codes @ WEIGHT.astype(int).T).tolist()
    assert exact_sums(WEIGHT, codes).dtype == np.int64


def test_worst_sums_take_either_end_for_either_sign() -> None:
    low, high = worst_sums(WEIGHT, OFFSET)  # payloads -119 to 135
    assert low.tolist() == [3 * -119 - 5 * 135, -8 * 135, 14 * -119, -3 * 135, 0]
    assert high.tolist() == [3 * 135 + 5 * 119, 8 * 119, 14 * 135, 3 * 119, 0]


def test_a_range_is_that_of_all_neurons_and_names_the_one_nearest_to_its_limit() -> None:
    low, high = np.array([-9, -1, 0]), np.array([1, 3, 7])
    found = range_of("u", (-10, 10), (low, high))
    assert found == Range("u", (-10, 10), (-9, 7), None, 0) and found.guarantee == "proved"
    seen = range_of("u", (-8, 10), (low, high), (np.array([-8, 0, -2]), np.array([1, 2, 10])))
    assert seen == Range("u", (-8, 10), (-9, 7), (-8, 10), 0) and seen.guarantee == "calibrated"
    assert range_of("u", (-9, 10), (low, high), (np.array([-8, 0, -2]), np.array([1, 2, 10]))).neuron == 2
    for measured in ((-9, 10), (-8, 11)):
        assert replace(seen, measured=measured).guarantee is None
    for worst in ((-8, 10), (0, 0)):
        assert replace(seen, worst=worst, measured=None).guarantee == "proved"
    for worst in ((-9, 10), (-8, 11)):
        assert replace(seen, worst=worst, measured=None).guarantee is None


FITS, WIDE = Range("vth", (1, 9), (5, 5), None, 0), Range(CURRENT, (-9, 8), (-11, 12), None, 3)
RAMP = Range("v after a spike", (-9, 9), (0, 10), None, 1)


@pytest.mark.parametrize(("found", "message"), [
    ((WIDE, RAMP), r"l: v after a spike reaches 0\.\.10 in the worst case \(neuron 1\), stock Lava holds -9\.\.9: use finer "
     "output steps or smaller offsets"),
    ((WIDE, FITS), rf"l: {CURRENT} reaches -11\.\.12 in the worst case \(neuron 3\), stock Lava holds -9\.\.8: pass "
     "calibration codes that stay inside, or use fewer outliers, smaller weights or fewer inputs"),
    ((replace(WIDE, quantity=MEMBRANE, measured=(-10, 3)),), rf"l: {MEMBRANE} reaches -10\.\.3 on the calibration codes "
     r"\(neuron 3\), stock Lava holds -9\.\.8: use fewer outliers, smaller weights or fewer inputs"),
])  # fmt: skip
def test_what_does_not_fit_is_told_with_its_way_out(found: tuple[Range, ...], message: str) -> None:
    with pytest.raises(FitError, match=f"^{message}$"):
        require("l", found)
    require("l", (FITS, replace(WIDE, measured=(-9, 8))))


def test_codes_of_a_run_are_watched_where_a_range_was_only_calibrated() -> None:
    layout = Layout(INTEGER8, 2, 5, None, (ControlLine("guard"),))
    synapses = np.hstack([WEIGHT, np.full((5, 1), 99, np.int8)])
    limit = Range(MEMBRANE, (-16, 14), (-99, 99), (-3, 3), 0)
    other = Range("vth", (1, 9), (5, 5), None, 0)
    for codes in ([[2, 0]], [[0, 2]], [[1, 1]]):
        check_codes("l", layout, synapses, (limit, other), np.array(codes))
    for codes, reached, neuron in (([[1, 1], [3, 0]], r"-24\.\.0", 1), ([[0, 2], [0, 3]], r"0\.\.21", 2)):
        with pytest.raises(
            FitError, match=rf"l: {MEMBRANE} reaches {reached} in neuron {neuron} on these codes, stock Lava holds -16\.\.14"
        ):
            check_codes("l", layout, synapses, (other, limit), np.array(codes))
        check_codes("l", layout, synapses, (other, replace(limit, worst=(0, 0))), np.array(codes))


READ, FIRE = Layout(SIGNED, 3, 2, None, ()), Layout(OFFSET, 3, 2, SIGNED, (ControlLine("a"), ControlLine("b")))


def test_lines_neurons_and_columns_are_counted() -> None:
    assert (READ.kind, READ.period, READ.lines, READ.mirrored, READ.neurons) == ("read", 9, 3, False, 2)
    assert (FIRE.kind, FIRE.period, FIRE.lines, FIRE.mirrored, FIRE.neurons) == ("fire", 24, 5, True, 4)
    plain = replace(FIRE, fires=UNSIGNED8)
    assert (plain.mirrored, plain.neurons, plain.period) == (False, 2, 24)
    assert READ.network == {"input_message_bits": MESSAGE_BITS}
    assert FIRE.network == {"input_message_bits": MESSAGE_BITS, "reset_interval": 24, "reset_offset": 1}


def test_the_first_neuron_out_of_rest_is_named() -> None:
    answer = np.zeros((2, 2 * READ.period + 1), int)
    answer[0, 2 * READ.period] = answer[1, READ.period] = -7
    with pytest.raises(VerificationError, match=r"^window 0, neuron 1: u is -7 after the closing column instead of 0"):
        read_sums(READ, np.zeros(2, int), answer)


def test_sums_are_read_from_every_column_and_their_constant_is_taken_off() -> None:
    rng = np.random.default_rng(0)
    layout, codes = Layout(OFFSET, 2, 5, None, ()), rng.integers(-127, 128, (3, 2))
    u = WEIGHT.astype(int) @ columns(layout, codes)
    answer = np.hstack([np.zeros((5, 1), int), u.cumsum(1)[:, :-1]])
    constant = OFFSET.zero * WEIGHT.sum(1, dtype=int)
    assert read_sums(layout, constant, answer).tolist() == (codes @ WEIGHT.astype(int).T).tolist()


@pytest.mark.parametrize("shape", [(2, 18), (2, 20), (3, 19), (1, 19), (19,), (2, 19, 1)])
def test_an_answer_has_a_column_more_than_its_windows(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"the answer has shape .*: the segment gives \(2, windows \* 9 \+ 1\)"):
        read_sums(READ, np.zeros(2, int), np.zeros(shape, int))


@pytest.mark.parametrize("shape", [(2, 4), (2, 2), (3,), (1, 3, 1)])
def test_codes_have_a_row_for_each_window(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"codes are int64 .*: the segment takes integers \(windows, 3\)"):
        columns(READ, np.zeros(shape, np.int64))


def test_levels_are_those_of_the_spike_or_none() -> None:
    answer = np.zeros((4, FIRE.period + 1), int)
    for neuron, column in ((0, 0), (3, 6)):
        answer[neuron, 1 + OFFSET.window + column] = 1
    assert fired_codes(FIRE, answer).tolist() == [[7, -1]]
    offset = Layout(SIGNED, 3, 2, OFFSET, ())
    answer = np.zeros((2, offset.period + 1), int)
    answer[1, 1 + SIGNED.window] = 1
    assert fired_codes(offset, answer).tolist() == [[-8, 7]]
