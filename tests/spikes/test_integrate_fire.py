"""Integrate and fire with a held membrane: closed form, division and neuron agree on 200,000 windows, and v(0) = 0 is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.base.matmul import ExactMatmul
from kirin_lava.graph.ops import Linear
from kirin_lava.processes.runtime import run_job
from kirin_lava.spikes.codes import INTEGER8, RATE, SIGNED, UNSIGNED16, Rate, SpikeCode, rate
from kirin_lava.spikes.neurons import IntegrateFire
from kirin_lava.spikes.neurons.simulate import period_of, simulate
from kirin_lava.tasks.verify.segments import FORMS
from tests.spikes import reset_jobs

NEURONS, INPUTS, IN_A_ROW, COPIES = 50, 12, 10, 134
HALF_MOST = STATE_MAX // 2


def layer(rng: np.random.Generator, enc: SpikeCode, out: Rate, exponent: int = 0, rounds: bool = False) -> Linear:
    """8-bit weights; thresholds about which the sums are spread, and the extremes: 1, the largest there is."""
    weight = rng.integers(-128, 128, (NEURONS, INPUTS)).astype(np.int8)
    spread = out.window * 150 * enc.largest << exponent
    theta = rng.integers(1, max(2, min(spread, HALF_MOST)), NEURONS)
    theta[:3] = 1, 2, HALF_MOST
    offset = rng.integers(-spread // out.window, spread // out.window + 1, NEURONS)
    initial = theta // 2 if rounds else rng.integers(0, theta)
    if not rounds:
        initial[3:6] = 0, theta[4] - 1, theta[5] // 2
    return Linear("layer", "x", "y", weight, 8, enc, IntegrateFire(out, theta, initial, offset, exponent))


def some(rng: np.random.Generator, enc: SpikeCode, shape: tuple[int, ...]) -> np.ndarray:
    """Any codes; of every ten windows one is silent, one at the upper end, one at either end."""
    q = rng.integers(enc.code_min, enc.code_max + 1, shape)
    kind = rng.integers(0, 10, shape[:-1])[..., None]
    q = np.where(kind == 0, -enc.zero, np.where(kind == 1, enc.code_max, q))
    return np.where(kind == 2, rng.choice([enc.code_min, enc.code_max], shape), q)


def definition(op: Linear, q: np.ndarray) -> np.ndarray:
    """`clip((T m + v0) // theta, 0, T)`."""
    neuron = op.neuron
    assert isinstance(neuron, IntegrateFire)
    m = (q @ op.weight.T.astype(np.int64) << neuron.exponent) + neuron.offset
    steps = neuron.code.window
    return np.clip((steps * m + neuron.initial) // neuron.theta, 0, steps)


def lived(op: Linear, q: np.ndarray, period: int) -> np.ndarray:
    """By the stepped neuron, windows in a row: q (copies, windows, K)."""
    payload = np.moveaxis(op.code.payloads(q, period), 1, 2).reshape(len(q), q.shape[-1], -1)
    return simulate(op.name, op.weight, op.code, op.neuron, payload, period)


@pytest.mark.parametrize("out", RATE, ids=lambda code: code.name)
def test_three_ways_agree_on_200000_windows_in_rows_of_ten(out: Rate) -> None:
    rng, windows = np.random.default_rng(0), 0
    counts = np.zeros(out.window + 1, np.int64)
    for enc, exponent, spare in ((INTEGER8, 0, 0), (SIGNED, 1, 1), (rate(4), 2, 2)):
        op = layer(rng, enc, out, exponent)
        q = some(rng, enc, (COPIES, IN_A_ROW, INPUTS))
        expected = definition(op, q)
        sums = ExactMatmul(op.weight, enc.largest, torch.device("cpu"))(torch.from_numpy(q).float())
        np.testing.assert_array_equal(op.neuron.reference(sums, op.name).long().numpy(), expected)
        exact: np.ndarray = q @ op.weight.T.astype(np.int64)
        np.testing.assert_array_equal(op.neuron.closed(exact), expected)
        np.testing.assert_array_equal(lived(op, q, period_of(enc, op.neuron) + spare), expected)
        counts += np.bincount(expected.ravel(), minlength=out.window + 1)
        windows += expected.size
    assert windows >= 200_000
    assert (counts > 100).all(), "every count comes up"


@pytest.mark.parametrize("out", RATE, ids=lambda code: code.name)
def test_it_is_the_clip_floor_activation(out: Rate) -> None:
    """`y = theta/L floor(clip(x/theta, 0, 1) L + 1/2)` at every integer x about every border."""
    for theta in (1, 2, 3, 10, 11, 64, 1001):
        one = np.array([theta])
        op = Linear("layer", "x", "y", np.array([[1]], np.int8), 8, INTEGER8, IntegrateFire(out, one, one // 2, one * 0))
        x = np.arange(-2 * theta, 2 * theta + 1)[:, None]
        even = theta - theta % 2  # of an odd threshold the half is rounded down
        wanted = np.floor((np.clip(x / theta, 0, 1) * out.window * theta + even / 2) / theta).clip(0, out.window)
        np.testing.assert_array_equal(op.neuron.closed(x), wanted)


@pytest.mark.lava
def test_stock_neurons_set_v_to_0_when_they_fire() -> None:
    """So there is no stock form: 45 a step, from 0, fits five times over 64 into eight steps, and LIFReset fires four times."""
    sums, theta = np.array([[64], [65], [45], [33], [23], [0], [-9]]), np.array([65])
    counted = IntegrateFire(rate(8), theta, 0 * theta, 0 * theta).closed(sums)[:, 0]
    fired = run_job(reset_jobs.fired, sums[:, 0], 8, timeout=120)
    to_zero = [8 // (65 // m + (65 % m > 0)) if m > 0 else 0 for m in sums[:, 0].tolist()]
    assert fired == to_zero == [4, 8, 4, 4, 2, 0, 0]
    assert counted.tolist() == [7, 8, 5, 4, 2, 0, 0]


def test_a_start_at_0_is_found() -> None:
    rng = np.random.default_rng(1)
    op = layer(rng, INTEGER8, rate(8), rounds=True)
    assert isinstance(op.neuron, IntegrateFire)
    q = some(rng, INTEGER8, (40, INPUTS))
    right = FORMS["reference"](op, q)
    wrong = replace(op, neuron=replace(op.neuron, initial=np.zeros(NEURONS, np.int64)))
    for form in ("closed form", "stepped"):
        np.testing.assert_array_equal(FORMS[form](op, q), right)
        assert (FORMS[form](wrong, q) != right).mean() > 0.1


def test_membranes_at_the_ends_of_24_bits_saturate_without_a_spike_more_or_less() -> None:
    wide = replace(INTEGER8, code_min=-STATE_MAX, code_max=STATE_MAX)
    theta = np.array([1, HALF_MOST, HALF_MOST])
    neuron = IntegrateFire(rate(16), theta, np.array([0, 0, HALF_MOST - 1]), np.zeros(3, np.int64))
    op = Linear("layer", "x", "y", np.ones((3, 1), np.int8), 8, wide, neuron)
    q = np.array([[[STATE_MAX], [-STATE_MAX], [HALF_MOST - 1], [HALF_MOST], [1], [0], [-1]]])
    assert lived(op, q, 16)[0].tolist() == definition(op, q)[0].tolist()
    with pytest.raises(FitError, match="beyond the 24-bit state"):
        neuron.reference(torch.tensor([[STATE_MAX + 1.0] * 3]), "layer")


def test_counts_are_fired_in_the_steps_that_the_reader_takes_for_its_window() -> None:
    """A layer that reads the spikes one step later has all of them in its own window."""
    one = np.array([8])
    first = IntegrateFire(rate(8), one, one // 2, one * 0).stepped((1,), 8, INTEGER8.gains(8))
    second = IntegrateFire(rate(8), one, one * 0, one * 0).stepped((1,), 8, rate(8).gains(8))
    spikes, heard = [], np.zeros(1, np.int64)
    for t in range(32):  # both step at once, the second hears what the first sent a step before
        spikes.append(int(second.step(heard)[0]))
        heard = first.step(np.array([(3, 8, 0, 0)[t // 8] if t % 8 == 7 else 0]))
    # windows 0 and 1 of the first, 3 and 8 counts, are windows 1 and 2 of the second, which counts them once more
    assert (sum(spikes[15:23]), sum(spikes[23:31]), sum(spikes[:15])) == (3, 8, 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"theta": np.array([0, 4])}, "theta of neuron 0 is 0"),
        ({"theta": np.array([4, HALF_MOST + 1])}, "theta of neuron 1 is 4194304: twice as much"),
        ({"initial": np.array([0, 4])}, "initial of neuron 1 is 4, not 0 to 3"),
        ({"initial": np.array([-1, 0])}, "initial of neuron 0 is -1"),
        ({"offset": np.array([0])}, "offset has 1 values instead of 2"),
        ({"code": UNSIGNED16}, "unsigned-16 codes are no counts"),
        ({"exponent": 24}, "shift is 24"),
    ],
)
def test_parameters_that_are_none_are_named(changed: dict[str, Any], message: str) -> None:
    fours, zeros = np.array([4, 4]), np.array([0, 0])
    neuron = IntegrateFire(rate(8), fours, fours // 2, zeros)
    assert neuron.problem(2) is None
    assert message in str(replace(neuron, **changed).problem(2))


def test_a_window_too_short_for_the_counts_is_refused() -> None:
    one = np.array([1])
    with pytest.raises(FitError, match="7 steps cannot hold rate-8 codes"):
        IntegrateFire(rate(8), one, one * 0, one * 0).stepped((1,), 7, (1,) * 7)


def test_a_code_is_sent_evenly_spread_in_the_last_steps() -> None:
    assert [code.payloads(np.array([c]))[0].tolist() for code in RATE[:1] for c in range(5)] == [
        [0, 0, 0, 0],
        [0, 1, 0, 0],
        [1, 0, 1, 0],
        [1, 1, 0, 1],
        [1, 1, 1, 1],
    ]
    for code in RATE:
        every = np.arange(code.code_max + 1)
        raster = code.payloads(every, code.window + 3)
        assert not raster[:, :3].any() and set(raster.ravel()) == {0, 1}
        np.testing.assert_array_equal(raster.sum(1), every)
        np.testing.assert_array_equal(code.decode(raster), every)
        assert code.events(every) == (every.sum(), 0, 1)


def test_the_highest_threshold_is_the_room_that_an_accumulation_needs() -> None:
    """Before a spike is taken off, x may stand at nearly twice the threshold."""
    neuron = IntegrateFire(rate(8), np.array([5, 9]), np.array([1, 2]), np.array([-3, 4]))
    assert neuron.top().tolist() == [10, 18] and neuron.lift().tolist() == [-3, 4]
    counts = np.array([5, 0, 0, 1, 0, 0, 0, 0, 2])
    assert neuron.work(counts) == (8 * 8, 8 * 8 + 3 + 2 * 8) and neuron.most_work() == (8, 16)
