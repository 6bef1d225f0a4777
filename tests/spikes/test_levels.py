"""Multi-level spikes: closed form, neuron and definition agree on 200,000 windows, and 15 levels would lose the top codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.ops import Linear
from kirin_lava.spikes.codes import LEVELS, REFINED, SIGNED, Channels, Levels, levels
from kirin_lava.spikes.neurons.emit import LevelNeuron, emitted, emitter_of, played
from kirin_lava.spikes.neurons.simulate import simulate
from kirin_lava.tasks.verify.segments import FORMS

CHANNELS, NEURONS, IN_A_ROW = 8, 4, 10
SOME, NONE, ALL = Channels(CHANNELS, (1, 4, 6)), Channels(CHANNELS, ()), Channels(CHANNELS, tuple(range(CHANNELS)))


def random_codes(rng: np.random.Generator, code: Levels, shape: tuple[int, ...]) -> np.ndarray:
    """Any codes; of every ten windows one is silent, one at the upper end, one at either."""
    q = rng.integers(0, code.code_max + 1, shape)
    kind = rng.integers(0, 10, shape[:-1])[..., None]
    q = np.where(kind == 0, 0, np.where(kind == 1, code.code_max, q))
    return code.admitted(np.where(kind == 2, rng.choice([0, code.code_max], shape), q))


def definition(code: Levels, q: np.ndarray, period: int) -> np.ndarray:
    """(..., K, period) payloads, spike by spike: an ordinary channel sends its level at once, a fine one 16 at a time."""
    raster = np.zeros((*q.shape, period), np.int64)
    fine = code.fine(q.shape[-1])
    left = q.copy()
    for t in range(period - code.window, period):
        sent = np.where(fine, np.minimum(left, 16), left)
        raster[..., t], left = sent, left - sent
    assert not left.any()
    return raster


def test_three_ways_agree_on_200000_windows_in_rows_of_ten() -> None:
    rng, windows = np.random.default_rng(0), 0
    for code in LEVELS:
        for channels in (SOME, NONE, ALL) if code.refinement else (None,):
            code, period = code.bound(channels), code.window + windows % 2
            q = random_codes(rng, code, (3000, IN_A_ROW, CHANNELS))
            raster = code.payloads(q, period)
            np.testing.assert_array_equal(raster, definition(code, q, period))
            np.testing.assert_array_equal(code.decode(raster), q)
            np.testing.assert_array_equal(np.count_nonzero(raster, axis=-1), code.spike_count(q))
            # the neurons live through ten windows in a row, 3,000 layers side by side
            neuron = emitter_of(code, (3000, CHANNELS), period)
            assert neuron is not None
            currents = np.moveaxis(played(code, q, period)[0], 2, 1).reshape(3000, CHANNELS, -1)
            lived = np.stack([neuron.step(currents[..., t]) for t in range(currents.shape[-1])], -1)
            np.testing.assert_array_equal(lived, np.moveaxis(raster, 2, 1).reshape(currents.shape))
            weight = rng.integers(-8, 8, (NEURONS, CHANNELS)).astype(np.int8)
            op = Linear("layer", "x", "y", weight, 4, code)
            sums = simulate(op.name, weight, code, op.neuron, lived, period)
            np.testing.assert_array_equal(sums, q @ weight.astype(np.int64).T)
            windows += q[..., 0].size
    assert windows >= 200_000


@pytest.mark.parametrize(("refinement", "lost"), [(1, {31: 30}), (2, {61: 60, 62: 60, 63: 60})])
def test_with_fifteen_levels_the_top_codes_are_lost_and_it_is_found(refinement: int, lost: dict[int, int]) -> None:
    code = levels(refinement)
    few, every = replace(code, top=15), np.arange(code.code_max + 1)
    for short in (few.decode(few.payloads(every)), few.decode(emitted(few, every[None], few.window)[:, None])[:, 0]):
        assert {int(c): int(short[c]) for c in every if short[c] != c} == lost
    np.testing.assert_array_equal(code.decode(code.payloads(every)), every)

    q = np.stack([every, every[::-1]])
    weight = np.random.default_rng(0).integers(-8, 8, (40, len(every))).astype(np.int8)
    weight[:, code.code_max] = 3  # of the channel that sends the top code
    op = Linear("layer", "x", "y", weight, 4, code)
    right, wrong = FORMS["reference"](op, q), replace(op, code=few)
    for form in ("closed form", "stepped"):
        np.testing.assert_array_equal(FORMS[form](op, q), right)
        assert (FORMS[form](wrong, q)[0] != right[0]).mean() > 0.7


def test_an_ordinary_channel_sends_one_spike_and_no_odd_code() -> None:
    code = levels(1).bound(SOME)
    q = np.array([30, 31, 2, 0, 17, 14, 1, 2])
    assert code.payloads(q).tolist() == [[30, 0], [16, 15], [2, 0], [0, 0], [16, 1], [14, 0], [1, 0], [2, 0]]
    assert code.spike_count(q).tolist() == [1, 2, 1, 0, 2, 1, 1, 1]
    assert code.spike_count(torch.from_numpy(q).float()).tolist() == [1, 2, 1, 0, 2, 1, 1, 1]
    assert code.events(q) == (9, 0, 1) and code.payload_bits == 5 and levels(2).payload_bits == 6
    with pytest.raises(
        UsageError, match="code 31 in channel 0 is no multiple of 2: only a fine channel of levels-2 codes sends"
    ):
        code.raster(np.array([31, 31, 3, 0, 17, 14, 1, 2]))
    with pytest.raises(UsageError, match="levels-2 codes of 8 channels meet a value of 7"):
        code.raster(q[:7])


def test_a_part_of_a_value_keeps_its_fine_channels() -> None:
    code = levels(2).bound(SOME)
    assert code.part(3, 7).channels == Channels(4, (1, 3))
    assert levels(2).part(3, 7) == levels(2) and SIGNED.bound(SOME) is SIGNED and REFINED[1].bound(SOME).channels is SOME
    assert code.bound(None) == levels(2)


@pytest.mark.parametrize(
    ("width", "fine"), [(0, ()), (4, (4,)), (4, (-1,)), (4, (2, 1)), (4, (1, 1)), (4, (0, 2, 1, 3)), (4, (-1, 2)), (4, (1, 4))]
)
def test_channels_are_ascending_numbers_below_the_width(width: int, fine: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="are no ascending numbers below"):
        Channels(width, fine)


def test_channels_that_are_refused_are_shown_up_to_eight() -> None:
    with pytest.raises(UsageError, match=r"channels \[9, 8, 7, 6, 5, 4, 3, 2\] are no"):
        Channels(10, tuple(range(9, -1, -1)))
    assert Channels(1, (0,)).mask.tolist() == [True]


def test_kept_codes_have_a_bit_more_in_fine_channels() -> None:
    spans = [(code.name, code.refinement, code.code_min, code.code_max) for code in REFINED]
    assert spans == [("refined-1", 0, -15, 15), ("refined-2", 1, -31, 31)]


def test_what_is_left_at_the_end_of_a_window_is_lost() -> None:
    neuron = LevelNeuron(replace(levels(1), top=15), (1,), 2)
    assert [int(neuron.step(np.array([c]))[0]) for c in (31, 0, 3, 0)] == [15, 15, 3, 0]
