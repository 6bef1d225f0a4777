"""Integer reference = closed form = time-stepped neuron, on 200,000 neuron windows and at the edges of every range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.base.matmul import ExactMatmul
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import CODES, OFFSET, SIGNED, UNSIGNED8, UNSIGNED16, SpikeCode, code_named
from kirin_lava.spikes.neurons import (
    NEURONS,
    PLANE_BY_PLANE,
    READ_OUT,
    Doubling,
    IntegrateFire,
    Neuron,
    PlaneByPlane,
    ReadOut,
    Silence,
    reader_of,
)
from kirin_lava.spikes.neurons.silence.stepped import SteppedSilence
from kirin_lava.spikes.neurons.simulate import period_of, simulate
from kirin_lava.spikes.neurons.two_state import Arrivals, TwoState, membranes
from tests.spikes.test_codes import all_of

FIRED = [code for code in CODES if code.has_spikes and not code.graded and not code.repeats]
NEURON_WINDOWS = 200_000
EXAMPLES = 200


def layer(rng: np.random.Generator, neurons: int, fan_in: int, enc: SpikeCode, out: SpikeCode | None, shift: int = 0) -> Linear:
    """A random 4-bit layer; a firing one has ramps that spread its membranes over the levels."""
    weight = rng.integers(-8, 8, (neurons, fan_in)).astype(np.int8)
    neuron: Neuron = reader_of(enc, 8 * fan_in)
    if out is not None:
        spread = np.sqrt(fan_in) * 20 * 2**shift / out.window
        ramp = np.maximum(1, rng.normal(spread, spread / 2, neurons)).astype(np.int64)
        neuron = Silence(out, ramp, rng.integers(-5 * ramp, 5 * ramp + 1).astype(np.int64), shift)
    return Linear("layer", "x", "y", weight, 4, enc, neuron)


def random_codes(rng: np.random.Generator, shape: tuple[int, ...], enc: SpikeCode, kind: str) -> np.ndarray:
    """Codes of one kind; "per-channel" has its outliers in a fixed set of channels, "per-element" anywhere."""
    if kind == "silent":
        return np.full(shape, -enc.zero)
    low, high = enc.code_span(messages=False)
    if kind == "extreme":
        return rng.choice([enc.code_min, enc.code_max, low, high], shape)
    if kind == "all-outliers":
        every = all_of(enc)
        return rng.choice(every[enc.is_message(every) | (every == enc.code_max)], shape)
    spikes = rng.integers(low, high + 1, shape)
    wide = rng.integers(enc.code_min, enc.code_max + 1, shape)
    where = rng.random(shape if kind == "per-element" else shape[-1]) < 0.1
    return enc.admitted(np.where(where, wide, spikes))


def formula(op: Linear, q: np.ndarray) -> np.ndarray:
    """The definition: `v = W q`, and the output code by one integer division."""
    v = q.astype(np.int64) @ op.weight.astype(np.int64).T
    fire = op.neuron
    if not isinstance(fire, Silence):
        return v
    enc, ramp = fire.code, fire.ramp
    m = v * 2**fire.exponent + fire.offset
    if enc.mirrored:
        return np.sign(m) * np.minimum((np.abs(m) + ramp // 2) // ramp, enc.window - 1)
    return np.clip((m + enc.zero * ramp + ramp // 2) // ramp, 0, enc.window - 1) - enc.zero


def reference(op: Linear, q: np.ndarray) -> np.ndarray:
    """The same by the executor's own functions, in float32 matrix products."""
    wide = op.neuron.every_step
    sums = ExactMatmul(op.weight, op.code.largest, torch.device("cpu"), wide=wide)(torch.from_numpy(q).float())
    return op.neuron.reference(sums, op.name).to(torch.int64).numpy()


def closed_form(op: Linear, raster: np.ndarray) -> np.ndarray:
    """raster: (windows, K, T)."""
    v = membranes(Arrivals.of(raster), op.weight, op.code) - op.code.zero * op.weight.astype(np.int64).sum(1)
    return op.neuron.closed(v)


def stepped(op: Linear, payload: np.ndarray, period: int, layer: TwoState | None = None) -> np.ndarray:
    """payload: (..., K, windows * period)."""
    return simulate(op.name, op.weight, op.code, op.neuron, payload, period, layer)


def in_a_row(raster: np.ndarray) -> np.ndarray:
    """(windows, K, T) -> (K, windows * T)."""
    return np.moveaxis(raster, 0, 1).reshape(raster.shape[1], -1)


def test_three_ways_agree_on_200000_neuron_windows() -> None:
    compared = 0

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        fan_in=st.one_of(st.sampled_from([1, 2, 1024]), st.integers(1, 1024)),
        enc=st.sampled_from(CODES),
        out=st.sampled_from([None, *FIRED]),
        kind=st.sampled_from(["per-element", "per-channel", "extreme", "all-outliers", "silent"]),
        rows=st.integers(1, 6),
        spare=st.sampled_from([0, 0, 1, 5]),
        shift=st.integers(0, 2),
        zero_row=st.booleans(),
    )
    def check(
        seed: int,
        fan_in: int,
        enc: SpikeCode,
        out: SpikeCode | None,
        kind: str,
        rows: int,
        spare: int,
        shift: int,
        zero_row: bool,
    ) -> None:
        nonlocal compared
        rng = np.random.default_rng(seed)
        neurons = 32 if fan_in > 256 else 100
        if enc.by_plane:
            out, fan_in = None, min(fan_in, STATE_MAX // PLANE_BY_PLANE.reach(enc, 8))
        else:
            fan_in = min(fan_in, STATE_MAX // (8 * 2**shift * (enc.max_message + 1)) - 1)  # wide messages: fewer fit 24 bits
        op = layer(rng, neurons, fan_in, enc, out, shift if kind != "extreme" else 0)
        if zero_row:
            op.weight[0] = 0
        period = period_of(enc, op.neuron) + spare
        copies = -(-1200 // (neurons * rows))  # independent runs of `rows` windows in a row
        q = random_codes(rng, (copies, rows, fan_in), enc, kind)
        raster = enc.payloads(q, period)  # (copies, rows, K, T)

        expected = formula(op, q)
        closed = closed_form(op, raster.reshape(-1, fan_in, period)).reshape(expected.shape)
        lived = stepped(op, np.moveaxis(raster, 1, 2).reshape(copies, fan_in, -1), period)
        np.testing.assert_array_equal(reference(op, q), expected)
        np.testing.assert_array_equal(closed, expected)
        np.testing.assert_array_equal(lived, expected)
        if op.fires is not None:
            low, high = op.fires.code_span(messages=False)
            assert expected.min() >= low and expected.max() <= high
        compared += expected.size

    check()
    assert compared >= NEURON_WINDOWS


@pytest.mark.parametrize("out", FIRED, ids=lambda e: e.name)
def test_every_code_of_the_output_comes_up_and_borders_round_half_up(out: SpikeCode) -> None:
    for ramp in (1, 2, 3, 10, 11):
        phase = Silence(out, np.array([ramp]), np.array([0]))
        op = Linear("layer", "x", "y", np.array([[1]], np.int8), 4, replace(SIGNED, code_min=-999, code_max=999), phase)
        q = np.arange(-18 * ramp, 18 * ramp + 1)[:, None]
        raster = op.code.payloads(q, 16)
        expected = formula(op, q)
        assert set(expected[:, 0]) == set(range(out.code_span(False)[0], out.code_span(False)[1] + 1))
        np.testing.assert_array_equal(closed_form(op, raster), expected)
        np.testing.assert_array_equal(stepped(op, in_a_row(raster), 16), expected)


@pytest.mark.parametrize("out", FIRED, ids=lambda e: e.name)
@pytest.mark.parametrize("enc", [OFFSET, SIGNED], ids=lambda e: e.name)
def test_without_silence_codes_come_out_wrong(enc: SpikeCode, out: SpikeCode) -> None:
    rng = np.random.default_rng(3)
    op = layer(rng, 64, 128, enc, out)
    q = random_codes(rng, (50, 128), enc, "per-element")
    period = max(enc.window, out.window)
    payload = in_a_row(enc.payloads(q, period))
    expected = formula(op, q)
    assert (stepped(op, payload, period) == expected).all()
    assert isinstance(op.neuron, Silence)
    constant = enc.zero * op.weight.sum(1, dtype=np.int64)
    hasty = SteppedSilence(op.neuron, (64,), period, enc.gains(period), constant, silence=False)
    wrong = stepped(op, payload, period, hasty) != expected
    assert wrong.mean() > 0.1


def test_no_neuron_fires_twice_and_none_before_its_window_has_ended() -> None:
    rng = np.random.default_rng(4)
    op = layer(rng, 40, 30, OFFSET, UNSIGNED16)
    neuron = op.neuron.stepped((40,), 16, OFFSET.gains(), OFFSET.zero * op.weight.sum(1, dtype=np.int64))
    q = random_codes(rng, (4, 30), OFFSET, "per-element")
    payload = in_a_row(OFFSET.payloads(q))
    trace = np.stack([neuron.step(op.weight.astype(np.int64) @ payload[:, t]) for t in range(64)])
    assert not trace[:16].any()
    assert trace.reshape(4, 16, 40).sum(1).max() == 1
    assert not trace.reshape(4, 16, 40)[:, -1].any(), "silence is code 0, and costs no spike in the last step"
    assert not neuron.u.any() and not neuron.v.any()


def test_a_neuron_that_hears_nothing_answers_nothing() -> None:
    neuron = READ_OUT.stepped((2,), 8, SIGNED.gains())
    assert [neuron.step(np.zeros(2, np.int64)).tolist() for _ in range(16)] == [[0, 0]] * 16


@pytest.mark.parametrize("state", ["u", "v", "membrane"])
def test_overflow_names_neuron_step_value_and_limit(state: str) -> None:
    limit = STATE_MAX
    neuron = TwoState((3,), 4, (1,) * 4, np.array([0, -limit, 0]) if state == "membrane" else 0)
    current = {"u": limit + 1, "v": limit // 2 + 1, "membrane": 1}[state]
    for _ in range(4):
        neuron.step(np.array([0, current, 0]))
    assert neuron.overflow is not None and neuron.overflow.neuron == 1
    assert neuron.overflow.step == {"u": 0, "v": 1, "membrane": 3}[state]
    assert neuron.overflow.value > limit
    with pytest.raises(FitError, match=rf"segment: neuron 1 reaches {neuron.overflow.value} in step .*{limit}"):
        raise neuron.overflow.error("segment")


@pytest.mark.parametrize("sign", [1, -1])
def test_a_current_beyond_its_register_is_found_where_the_membrane_still_fits(sign: int) -> None:
    """u rises above the limit while v, which was on the other side, does not."""
    neuron = TwoState((2,), 8, (1,) * 8)
    neuron.step(sign * np.array([0, -10]))
    assert neuron.overflow is None
    neuron.step(sign * np.array([0, STATE_MAX + 11]))
    assert neuron.overflow is not None
    assert (neuron.overflow.neuron, neuron.overflow.step, neuron.overflow.value) == (1, 1, sign * (STATE_MAX + 1))
    assert neuron.u.tolist() == [0, sign * STATE_MAX], "saturated, not wrapped"


def test_states_up_to_the_limit_fit_and_one_more_does_not() -> None:
    wide = replace(SIGNED, code_max=STATE_MAX + 1)
    op = Linear("layer", "x", "y", np.array([[1]], np.int8), 8, wide)
    assert stepped(op, in_a_row(wide.payloads(np.array([[STATE_MAX]]))), 8) == STATE_MAX
    with pytest.raises(FitError, match="layer: neuron 0 reaches 8388608 in step 7"):
        stepped(op, in_a_row(wide.payloads(np.array([[STATE_MAX + 1]]))), 8)


@pytest.mark.parametrize("code", [UNSIGNED8, UNSIGNED16, SIGNED], ids=lambda code: code.name)
def test_comparisons_and_falls_are_those_of_the_ladder(code: SpikeCode) -> None:
    """A neuron that is not silent is compared with one level after the other, from the top, until it fires; in between the
    threshold falls."""
    neuron, sides = Silence(code, np.array([3]), np.array([0])), 2 if code.mirrored else 1
    for level in range(code.window):
        for sign in (1, -1)[:sides]:
            histogram = np.zeros(code.code_max - code.code_min + 1, np.int64)
            histogram[sign * level - code.code_min] = 7
            met = [each for each in range(code.window - 1, 0, -1) if each >= level]
            assert neuron.work(histogram) == (7 * sides * len(met), 7 * (len(met) - 1))
    assert neuron.most_work() == (sides * (code.window - 1), code.window - 2)


@pytest.mark.parametrize("gains", [(1,) * 15, (1,) * 17])
def test_a_window_and_the_gains_of_a_code_go_together(gains: tuple[int, ...]) -> None:
    with pytest.raises(FitError, match=f"a window of 16 steps does not hold a code with {len(gains)}"):
        READ_OUT.stepped((1,), 16, gains)


def test_a_window_too_short_for_the_output_codes_is_refused() -> None:
    phase = Silence(UNSIGNED16, np.array([1]), np.array([0]))
    with pytest.raises(FitError, match="8 steps cannot hold unsigned-16 codes"):
        phase.stepped((1,), 8, (1,) * 8)


def test_random_codes_cover_what_they_claim() -> None:
    rng = np.random.default_rng(5)
    for enc in FIRED:
        assert enc.is_message(random_codes(rng, (50, 50), enc, "all-outliers")).all()
        share = enc.is_message(random_codes(rng, (500, 50), enc, "per-element")).mean()
        assert 0.03 < share < 0.15
        by_channel = enc.is_message(random_codes(rng, (500, 50), enc, "per-channel")).any(0)
        assert 0 < by_channel.sum() < 25


def test_every_kind_of_neuron_is_compared_here() -> None:
    compared = {ReadOut, Silence, PlaneByPlane, Doubling, IntegrateFire}
    assert set(NEURONS) == compared, "compare the new kind here or in a file of its own"
    assert len({neuron.name for neuron in NEURONS}) == len(NEURONS)


LADDER = Silence(UNSIGNED16, np.array([4, 7]), np.array([0, -3]), 2)


def test_what_a_ladder_adds_and_how_high_it_begins() -> None:
    assert LADDER.lift().tolist() == [0, -3] and replace(LADDER, code=OFFSET).lift().tolist() == [32, 53]
    assert LADDER.top().tolist() == [15 * 4 - 2, 15 * 7 - 3] and replace(LADDER, code=UNSIGNED8).top().tolist() == [26, 46]
    assert (LADDER.shift, LADDER.fires, READ_OUT.fires, READ_OUT.shift) == (2, UNSIGNED16, None, 0)


@pytest.mark.parametrize(("changed", "message"), [
    ({"ramp": np.array([4])}, "ramp has 1 values instead of 2"),
    ({"offset": np.array([[0, 1]])}, "offset has 2 values instead of 2"),
    ({"ramp": np.array([4, 0])}, "ramp of neuron 1 is 0, not 1 or more"),
    ({"ramp": np.array([-2, 1])}, "ramp of neuron 0 is -2, not 1 or more"),
    ({"code": code_named("integer-8")}, "integer-8 codes are no spikes: a neuron cannot fire them"),
    ({"code": code_named("levels-2")}, "levels-2 codes are graded: "
     "a neuron that falls silent after one spike cannot fire them"),
    ({"code": code_named("rate-8")}, "rate-8 codes take several spikes: a neuron that falls silent after one cannot fire them"),
    ({"exponent": -1}, "shift is -1, not 0 to 23"),
    ({"exponent": 24}, "shift is 24, not 0 to 23"),
    ({"exponent": 23}, None),
    ({"exponent": 0}, None),
    ({"ramp": np.array([1, 1])}, None),
])  # fmt: skip
def test_parameters_of_a_ladder_are_checked_at_both_ends(changed: dict[str, Any], message: str | None) -> None:
    assert replace(LADDER, **changed).problem(2) == message
    assert LADDER.problem(3) == "ramp has 2 values instead of 3"


@pytest.mark.parametrize("code", [UNSIGNED8, SIGNED], ids=lambda code: code.name)
@pytest.mark.parametrize("spare", [0, 1, 4])
def test_a_spike_leaves_as_many_steps_before_the_end_of_the_next_window_as_its_code(code: SpikeCode, spare: int) -> None:
    """Step by step for one neuron, its threshold falling by 4; a membrane that meets it by a hair, and one that does not."""
    period = code.window + spare
    for level in range(1, code.window):
        for membrane, fired in ((4 * level - 2, level), (4 * level - 3, level - 1)):
            neuron = Silence(code, np.array([4]), np.array([0])).stepped((1,), period, (0,) * (period - 1) + (1,))
            trace = [int(neuron.step(np.array([membrane if t == 0 else 0]))[0]) for t in range(3 * period)]
            expected = [0] * (3 * period)
            if fired:
                expected[2 * period - 1 - fired] = 1
            assert trace == expected, (level, membrane)
            assert neuron.latency == 1 and neuron.overflow is None
