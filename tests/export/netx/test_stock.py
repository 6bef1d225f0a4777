"""Segments as stock layers: exact on an independent model of Lava's neurons, and honest about what fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import INTEGER8, OFFSET, SIGNED, UNSIGNED8, UNSIGNED16, SpikeCode
from kirin_lava.spikes.neurons import Silence
from kirin_lava.spikes.neurons.silence.stock import LIF_LIMIT
from kirin_lava.spikes.stock.layout import fired_codes, read_sums
from kirin_lava.spikes.stock.ranges import CURRENT, MEMBRANE, check_codes, measure
from tests.export.netx.cases import (
    BEFORE_FIRE,
    INPUTS,
    OUTPUTS,
    WIDE,
    emulate,
    expected,
    few,
    read_form,
    some_codes,
    some_linear,
    stock_form,
    with_fire,
)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    enc=st.sampled_from((*INPUTS, *WIDE)),
    out=st.sampled_from(OUTPUTS),
    inputs=st.integers(1, 48),
    outputs=st.integers(1, 12),
    weights=st.sampled_from([(-8, 7), (-127, 127), (-128, -1), (0, 0), (0, 127), (-64, 0)]),
    shift=st.integers(0, 6),
)
def test_random_layers_are_exact(
    seed: int, enc: SpikeCode, out: SpikeCode, inputs: int, outputs: int, weights: tuple[int, int], shift: int
) -> None:
    rng = np.random.default_rng(seed)
    inputs = few(inputs, enc)
    linear = some_linear(rng, inputs, outputs, enc, *weights)
    codes = some_codes(rng, enc, 4, inputs)
    layer = read_form(linear, codes)
    sums = read_sums(layer.layout, layer.constant, emulate(layer, codes)[0])
    np.testing.assert_array_equal(sums, expected(linear, codes))
    linear = with_fire(rng, linear, out, sums, shift)
    try:
        layer = stock_form(linear, codes)
    except FitError:
        return
    np.testing.assert_array_equal(fired_codes(layer.layout, emulate(layer, codes)[0]), expected(linear, codes))


@pytest.mark.parametrize("out", OUTPUTS, ids=lambda enc: enc.name)
@pytest.mark.parametrize("enc", BEFORE_FIRE, ids=lambda enc: enc.name)
def test_every_pair_of_encodings_fires_every_level(enc: SpikeCode, out: SpikeCode) -> None:
    rng = np.random.default_rng(5)
    linear = some_linear(rng, 32, 32, enc, -7, 7)
    codes = some_codes(rng, enc, 100, 32)
    linear = with_fire(rng, linear, out, expected(linear, codes[3:]), 3)
    layer = stock_form(linear, codes)
    got = fired_codes(layer.layout, emulate(layer, codes)[0])
    np.testing.assert_array_equal(got, expected(linear, codes))
    assert len(np.unique(got)) == (2 if out.mirrored else 1) * out.window - out.mirrored


def test_thresholds_round_half_up_on_every_membrane() -> None:
    """One input of weight 1: the membrane takes every value, the thresholds sit between integers of v."""
    codes = np.arange(-127, 128)[:, None]
    for shift in (0, 3):
        for ramp in (1, 2, 5, 8, 13, 40):
            for offset in (-11, 0, 7):
                fire = Silence(SIGNED, np.array([ramp]), np.array([offset]), shift)
                linear = Linear("one", "x", "y", np.ones((1, 1), np.int8), 4, SIGNED, fire)
                layer = stock_form(linear)
                np.testing.assert_array_equal(fired_codes(layer.layout, emulate(layer, codes)[0]), expected(linear, codes))


def test_a_matrix_without_a_positive_weight_gets_a_guard() -> None:
    rng = np.random.default_rng(0)
    for low, high in ((0, 0), (-64, 0), (-128, -1)):
        layer = read_form(some_linear(rng, 5, 4, SIGNED, low, high))
        assert layer.synapses.max() == 1 and layer.layout.lines == 6
        assert layer.layout.control[0].events == ()
    assert read_form(some_linear(rng, 5, 4, SIGNED)).layout.control == ()


def test_a_whole_ramp_needs_no_lines_for_single_steps() -> None:
    rng = np.random.default_rng(0)
    linear = with_fire(rng, some_linear(rng, 6, 5, SIGNED), UNSIGNED16, np.array([300]), 0)
    assert len(stock_form(linear).layout.control) == 6
    assert isinstance(linear.neuron, Silence)
    layer = stock_form(replace(linear, neuron=replace(linear.neuron, ramp=linear.neuron.ramp | 1, exponent=1)))
    assert len(layer.layout.control) > 6


# ---- ranges --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enc", [*INPUTS, *WIDE], ids=lambda enc: enc.name)
def test_the_worst_case_is_reached_by_the_worst_codes(enc: SpikeCode) -> None:
    rng = np.random.default_rng(1)
    linear = some_linear(rng, 20, 1, enc)
    worst = np.where(linear.weight > 0, enc.code_max, max(enc.code_min, -enc.zero if enc.code_min == 0 else enc.code_min))
    layer = read_form(linear)
    low_u, high_u, _, _ = measure(
        linear.weight, enc, np.vstack([worst, np.where(linear.weight > 0, enc.code_min, enc.code_max)])
    )
    assert layer.ranges[0].worst == (low_u[0], high_u[0])
    assert layer.guarantee == "proved"


def test_measured_ranges_are_those_of_the_emulated_neuron() -> None:
    rng = np.random.default_rng(2)
    linear = some_linear(rng, 30, 8, OFFSET)
    codes = some_codes(rng, OFFSET, 6, 30)
    linear = with_fire(rng, linear, UNSIGNED8, expected(linear, codes), 1)
    layer = stock_form(linear, codes)
    _, u, v = emulate(layer, codes)
    arriving = np.arange(u.shape[1] - 1) % layer.layout.period < OFFSET.window
    by_name = {r.quantity: r for r in layer.ranges}
    for name, trace in ((CURRENT, u), (MEMBRANE, v)):
        seen = trace[:, 1:][:, arriving]
        assert by_name[name].measured == (min(0, seen.min()), max(0, seen.max()))


def test_a_wide_layer_is_calibrated_or_refused() -> None:
    rng = np.random.default_rng(3)
    linear = some_linear(rng, 512, 4, SIGNED, -100, 100)
    codes = rng.integers(-7, 8, (8, 512))
    sums = expected(linear, codes)
    linear = with_fire(rng, linear, UNSIGNED16, sums, 0)
    with pytest.raises(
        FitError, match=r"seg: u while inputs arrive reaches -\d+..\d+ in the worst case \(neuron \d\).*-131071"
    ):
        stock_form(linear)
    layer = stock_form(linear, codes)
    assert layer.guarantee == "calibrated"
    np.testing.assert_array_equal(fired_codes(layer.layout, emulate(layer, codes)[0]), expected(linear, codes))
    check_codes("seg", layer.layout, layer.synapses, layer.ranges, codes)
    loud = np.where(linear.weight[2] > 0, 127, -127)[None]
    with pytest.raises(FitError, match=r"u while inputs arrive reaches .* in neuron 2 on these codes.*calibrat"):
        check_codes("seg", layer.layout, layer.synapses, layer.ranges, loud)
    with pytest.raises(FitError, match="on the calibration codes"):
        stock_form(linear, np.vstack([codes, loud]))


def test_peaks_seen_elsewhere_count_as_measured() -> None:
    rng = np.random.default_rng(3)
    linear = some_linear(rng, 512, 4, SIGNED, -100, 100)
    codes = rng.integers(-7, 8, (8, 512))
    linear = with_fire(rng, linear, UNSIGNED16, expected(linear, codes), 0)
    peak = np.full(4, LIF_LIMIT // 2)
    assert stock_form(linear, codes, peak).guarantee == "calibrated"
    with pytest.raises(FitError, match="v while inputs arrive"):
        stock_form(linear, codes, 2 * peak + 2)
    with pytest.raises(UsageError, match=r"peaks of shape \(3,\) for 4 neurons"):
        stock_form(linear, codes, peak[:3])
    with pytest.raises(UsageError, match=r"peaks of shape \(5,\) for 4 neurons"):
        stock_form(linear, codes, np.full(5, LIF_LIMIT // 2))


def test_a_read_segment_that_does_not_fit_24_bits_is_refused() -> None:
    linear = Linear("wide", "x", "y", np.full((1, 1000), 127, np.int8), 8, OFFSET)
    with pytest.raises(FitError, match=r"wide: u while inputs arrive reaches .*8388607.*calibration codes"):
        read_form(linear)
    assert read_form(linear, np.zeros((1, 1000), int)).guarantee == "calibrated"


def test_a_proved_layer_asks_nothing_of_its_codes() -> None:
    linear = some_linear(np.random.default_rng(0), 4, 2, SIGNED)
    layer = read_form(linear)
    check_codes("seg", layer.layout, layer.synapses, layer.ranges, np.full((1, 4), 127))


def test_codes_of_a_calibrated_layer_may_go_to_its_limits_and_not_beyond() -> None:
    layer = read_form(Linear("l", "x", "y", np.array([[3, 2]], np.int8), 8, INTEGER8))
    reached = measure(layer.synapses[:, :2], layer.layout.code, np.array([[9, 9]]))
    ranges = (replace(layer.ranges[0], limit=(int(reached[0][0]), int(reached[1][0])), measured=(0, 0)),)
    check_codes("l", layer.layout, layer.synapses, ranges, np.array([[9, 9]]))
    with pytest.raises(FitError, match=r"in neuron 0 on these codes, stock Lava holds 0\.\.45, and"):
        check_codes("l", layer.layout, layer.synapses, ranges, np.array([[9, 10]]))


@pytest.mark.parametrize("ramp", [400_000, 40_000])
def test_a_ramp_too_coarse_for_the_membrane_is_refused(ramp: int) -> None:
    fire = Silence(UNSIGNED16, np.array([ramp]), np.array([300_000]), 0)
    linear = Linear("coarse", "x", "y", np.ones((1, 3), np.int8), 4, SIGNED, fire)
    with pytest.raises(FitError, match=r"coarse: .*neuron 0.*finer output steps"):
        stock_form(linear)


def test_a_dead_neuron_fits_whatever_its_ramp() -> None:
    ramps = np.array([10, 5_000_000, 20])
    fire = Silence(UNSIGNED16, ramps, np.array([0, -3_000_000, 0]), 2)
    linear = Linear("dead", "x", "y", np.ones((3, 4), np.int8), 4, SIGNED, fire)
    codes = some_codes(np.random.default_rng(0), SIGNED, 5, 4)
    layer = stock_form(linear)
    got = fired_codes(layer.layout, emulate(layer, codes)[0])
    np.testing.assert_array_equal(got, expected(linear, codes))
    assert not got[:, 1].any() and got[:, 0].any()


def test_the_neuron_of_a_fire_segment_has_no_leak_and_one_step_of_rest() -> None:
    linear = with_fire(
        np.random.default_rng(0), some_linear(np.random.default_rng(0), 6, 5, SIGNED), UNSIGNED16, np.array([300]), 0
    )
    layer = stock_form(linear)
    vth = layer.neuron["vThMant"]
    assert layer.neuron == {"type": "LOIHI", "vThMant": vth, "refDelay": 1, "iDecay": 0, "vDecay": 0}
    limits = {each.quantity: each.limit for each in layer.ranges}
    assert limits[CURRENT] == limits["u in the fire phase"] == (-LIF_LIMIT, LIF_LIMIT) and limits["vth"] == (1, LIF_LIMIT)
    assert limits["v after a spike"] == (-LIF_LIMIT, vth) and limits[MEMBRANE][1] == vth


@pytest.mark.parametrize(("offset", "room"), [(0, 0), (-30_781, 0), (-30_782, 1), (-40_000, 9219)])
def test_what_is_lifted_down_has_so_much_less_room_below(offset: int, room: int) -> None:
    """The first neuron fires its top level from -100,000 on, so that vth is 100,000 lower than it could be; that of the second
    one is 290 - offset."""
    fires = Silence(UNSIGNED16, np.array([20, 20]), np.array([100_290, offset]), 0)
    linear = Linear("l", "x", "y", np.array([[1] * 3, [127] * 3], np.int8), 8, SIGNED, fires)
    layer = stock_form(linear, np.zeros((1, 3), np.int64))
    assert layer.neuron["vThMant"] == LIF_LIMIT - 1 - 100_000
    assert {each.quantity: each.limit for each in layer.ranges}[MEMBRANE][0] == room - LIF_LIMIT


def test_offsets_and_zero_points_of_any_size_fit_or_are_refused() -> None:
    rng = np.random.default_rng(4)
    linear = some_linear(rng, 24, 6, OFFSET, -8, 7)
    codes = some_codes(rng, OFFSET, 4, 24)
    fitted = 0
    for offset in (-400_000, -120_000, -30_000, 0, 30_000, 100_000, 120_000, 400_000):
        fire = Silence(UNSIGNED16, np.full(6, 300), np.full(6, offset), 0)
        try:
            layer = stock_form(replace(linear, neuron=fire), codes)
        except FitError:
            continue
        fitted += 1
        got = fired_codes(layer.layout, emulate(layer, codes)[0])
        np.testing.assert_array_equal(got, expected(replace(linear, neuron=fire), codes))
    assert fitted >= 6


# ---- what is no segment ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_a_segment_is_refused() -> None:
    good = some_linear(np.random.default_rng(0), 4, 3, SIGNED)
    assert stock_form(good).layout.fires is None  # a neuron that is read out has a stock form, too
    with pytest.raises(UsageError, match=r"float32 \(3, 4\)"):
        read_form(replace(good, weight=good.weight.astype(np.float32)))
    with pytest.raises(UsageError, match=r"\(0, 4\)"):
        read_form(replace(good, weight=good.weight[:0]))
    fire = Silence(UNSIGNED16, np.ones(3, np.int64), np.zeros(3, np.int64), 0)
    with pytest.raises(UsageError, match="integer-8 codes are no spikes"):
        stock_form(replace(good, neuron=replace(fire, code=INTEGER8)))
    with pytest.raises(UsageError, match="ramp has 2 values instead of 3"):
        stock_form(replace(good, neuron=replace(fire, ramp=fire.ramp[:2])))
    with pytest.raises(UsageError, match="ramp of neuron 1 is 0"):
        stock_form(replace(good, neuron=replace(fire, ramp=np.array([1, 0, 1]))))


def test_minus_128_has_no_mirror() -> None:
    weight = np.array([[1, -128]], np.int8)
    fire = Silence(SIGNED, np.array([50]), np.array([0]), 0)
    with pytest.raises(FitError, match="weight 0, 1 is -128"):
        stock_form(Linear("m", "x", "y", weight, 8, SIGNED, fire))
    assert stock_form(Linear("m", "x", "y", weight, 8, SIGNED, replace(fire, code=UNSIGNED8))).guarantee == "proved"
