"""Bit planes and cached halves: every code leaves plane by plane and comes back; a plane that is dropped is found."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.base.matmul import ExactMatmul
from kirin_lava.graph.ops import Linear, synapses_of
from kirin_lava.spikes.codes import HALVES16, INTEGER8, PLANES, SIGNED, Planes, planes
from kirin_lava.spikes.neurons import DOUBLING, PLANE_BY_PLANE, READ_OUT, Neuron, reader_of
from kirin_lava.spikes.neurons.simulate import simulate
from kirin_lava.spikes.ranges import FixedStep, PlaneRow, PlaneStep, best_planes, step_above
from kirin_lava.tasks.verify.segments import FORMS

CHANNELS, NEURONS, COPIES, IN_A_ROW = 6, 6, 3500, 10
EVERY = pytest.mark.parametrize("code", PLANES, ids=lambda code: code.name)


def random_codes(rng: np.random.Generator, code: Planes, shape: tuple[int, ...]) -> np.ndarray:
    """Any codes; of every ten windows one is silent, one all outliers, one at the upper end, one at either, two ordinary."""
    most, kind = 1 << code.window, rng.integers(0, 10, shape[:-1])[..., None]
    q = rng.integers(code.code_min, code.code_max + 1, shape)
    outliers = rng.choice([-1, 1], shape) * rng.integers(min(most, code.code_max), code.code_max + 1, shape)
    ends = rng.choice([code.code_min, code.code_max, 1 - most, most - 1], shape)
    ordinary = rng.integers(1 - most, most, shape)
    return code.admitted(np.select([kind == k for k in range(5)], [0 * q, outliers, code.code_max + 0 * q, ends, ordinary], q))


def definition(code: Planes, q: np.ndarray, period: int) -> np.ndarray:
    """(..., K, period) payloads, from the binary digits of a code."""
    raster = np.zeros((*q.shape, period), np.int64)
    factor = np.where(np.abs(q) >= 2**code.window, 2**code.outlier_shift, 1)
    left = np.abs(q) // factor
    for t in reversed(range(period - code.window, period)):
        raster[..., t], left = np.sign(q) * factor * (left % 2), left // 2
    assert not left.any()
    return raster


@EVERY
def test_three_ways_agree_on_200000_windows_in_rows_of_ten(code: Planes) -> None:
    rng, period, compared = np.random.default_rng(code.window), code.window + code.outlier_shift % 3, 0
    q = random_codes(rng, code, (COPIES, IN_A_ROW, CHANNELS))
    raster = code.payloads(q, period)
    np.testing.assert_array_equal(raster, definition(code, q, period))
    np.testing.assert_array_equal(code.decode(raster), q)
    np.testing.assert_array_equal(np.count_nonzero(raster, axis=-1), code.spike_count(q))
    np.testing.assert_array_equal(code.spike_count(torch.from_numpy(q).float()).numpy(), code.spike_count(q))
    assert np.abs(raster).max() == 2**code.outlier_shift and (q != 0).any(-1).mean() < 0.95
    np.testing.assert_array_equal(code.graded_count(q), np.where(np.abs(q) >= 2**code.window, code.spike_count(q), 0))
    weight = rng.integers(-127, 128, (NEURONS, CHANNELS)).astype(np.int8)
    expected = q @ weight.astype(np.int64).T
    lived = np.moveaxis(raster, 2, 1).reshape(COPIES, CHANNELS, -1)
    readers: list[Neuron] = [PLANE_BY_PLANE]
    if DOUBLING.reach(code, 127 * CHANNELS) <= STATE_MAX:
        readers += [DOUBLING, READ_OUT]  # the neuron with two states gives the same, where a membrane holds the sum
    for reader in readers:
        np.testing.assert_array_equal(simulate("layer", weight, code, reader, lived, period), expected)
        compared += expected.size
    wide = ExactMatmul(weight, code.largest, torch.device("cpu"), wide=True)
    np.testing.assert_array_equal(wide(torch.from_numpy(q).float()).numpy(), expected)
    assert compared >= 200_000 * len(readers) and q.size >= 200_000


@dataclass(frozen=True)
class Dropped(Planes):
    """The ablation: its lowest plane is never sent."""

    def spikes(self, sent: np.ndarray, steps: int) -> np.ndarray:
        raster = super().spikes(sent, steps)
        raster[..., -1] = 0
        return raster


@EVERY
def test_a_plane_that_is_dropped_is_found(code: Planes) -> None:
    rng = np.random.default_rng(0)
    q = random_codes(rng, code, (40, 30))
    weight = rng.integers(1, 128, (20, 30)).astype(np.int8)
    op = Linear("layer", "x", "y", weight, 8, code, reader_of(code))
    wrong = replace(op, code=Dropped(**{name: getattr(code, name) for name in (field.name for field in fields(code))}))
    right = FORMS["reference"](op, q)
    for form in ("closed form", "stepped"):
        np.testing.assert_array_equal(FORMS[form](op, q), right)
        differ = (FORMS[form](wrong, q) != right)[q.any(1)]
        assert differ.mean() > 0.9


def test_who_reads_what() -> None:
    narrow, wide = planes(8, 0), planes(16, 0)
    assert reader_of(SIGNED) is READ_OUT and reader_of(wide) is PLANE_BY_PLANE and reader_of(narrow) is PLANE_BY_PLANE
    most = STATE_MAX // 255
    assert reader_of(narrow, most) is DOUBLING and reader_of(narrow, most + 1) is PLANE_BY_PLANE
    assert PLANE_BY_PLANE.counts(narrow, 9) == (128, 128, 64, 32, 16, 8, 4, 2, 1) and DOUBLING.counts(narrow, 3) == (0, 0, 1)
    assert not PLANE_BY_PLANE.reads(SIGNED) and not DOUBLING.reads(INTEGER8) and READ_OUT.reads(SIGNED)
    with pytest.raises(FitError, match="without a zero point"):
        DOUBLING.stepped((2,), 8, narrow.gains(), np.array([0, 1]))


@pytest.mark.parametrize("reader", [PLANE_BY_PLANE, DOUBLING], ids=lambda reader: reader.name)
def test_the_last_sum_that_fits_and_the_first_that_does_not(reader: Neuron) -> None:
    code = planes(8, 0)
    layer = reader.stepped((2,), 8, code.gains())
    for current in (0, 0, 0, 0, 0, 0, STATE_MAX // 2, 1):
        layer.step(np.array([0, current]))
    assert layer.overflow is None
    layer = reader.stepped((2,), 8, code.gains())
    for current in (STATE_MAX // 2 + 1, 0) if reader is DOUBLING else (STATE_MAX + 1,):
        layer.step(np.array([0, current]))
    assert layer.overflow is not None and (layer.overflow.neuron, layer.overflow.value) == (1, STATE_MAX + 1)


def test_an_outlier_is_a_multiple_and_others_are_refused() -> None:
    code = planes(8, 4)
    assert code.payloads(np.array([-0xA5, 0xA50])).tolist() == [[-1, 0, -1, 0, 0, -1, 0, -1], [16, 0, 16, 0, 0, 16, 0, 16]]
    assert code.events(np.array([0, 255, -4080, 256])) == (17, 0, 1)
    with pytest.raises(UsageError, match="code 257 is no multiple of 16: from 256 on planes-8-x16 codes are outliers"):
        code.raster(np.array([3, 257]))


def test_ranges_by_hand() -> None:
    """theta_1 = 4, theta_2 = 16, 8 planes."""
    code, rule = planes(8, 2), PlaneStep(2.0**-6, 1)
    x = torch.tensor([[[0.0, 1 / 64, -0.999 / 64, -3.999, 4.0, -15.99, 16.0, 99.0]]])
    found = rule.encode(code, x, 1, 0, "here", True)
    assert found.q.tolist() == [[[0, 1, 0, -255, 256, -1020, 1020, 1020]]] and found.clipped == 2
    assert (found.step == 2.0**-6).all() and found.step.shape == (1, 1, 1)
    with pytest.raises(FitError, match="here: an activation is NaN or infinite"):
        rule.encode(code, torch.tensor([[[float("nan")]]]), 1, 0, "here", True)


@EVERY
@pytest.mark.parametrize("fraction", [3, 9, 20, 31])
def test_integers_give_the_codes_that_floats_give(code: Planes, fraction: int) -> None:
    x = torch.randint(-(2**22), 2**22, (1, 200, 60), generator=torch.Generator().manual_seed(fraction))
    x[:, 0] = 0
    rows, step = x.view(1, 4, 50, 60), step_above(2.0 ** (21 - fraction) / code.code_max, 8)
    for rule, values in ((PlaneStep(step, 8), x), (PlaneRow(step, 8), rows)):
        whole = rule.integers(code, values, fraction, 3, 0, "here")
        real = rule.encode(code, torch.ldexp(values.float(), torch.tensor(-fraction)), 3, 0, "here", True)
        assert torch.equal(whole.q, real.q + 0.0) and torch.equal(whole.step, real.step) and whole.clipped == real.clipped > 0
        unit = torch.ldexp(whole.step.double(), torch.tensor(fraction + rule.step_bits(code, fraction)))
        assert torch.equal(unit, unit.round()) and unit.max() < 2**24
    kept = FixedStep(step_above(2.0 ** (21 - fraction) / HALVES16.largest, 1), 23)
    whole, real = kept.integers(HALVES16, x, fraction, 1, 0, "k"), kept.encode(HALVES16, x / 2.0**fraction, 1, 0, "k", True)
    assert (whole.q - real.q).abs().max() <= 1 and whole.clipped == real.clipped > 0  # a half is rounded up, or to even


@pytest.mark.parametrize(("rule", "problem"), [
    (PlaneStep(-1.0), "not a positive number"),
    (PlaneStep(3.0, 1), "not of 1 binary digits"),
    (FixedStep(1.0, 25), "25 digits has not 1 to 24"),
])  # fmt: skip
def test_steps_that_are_none_are_refused(rule: FixedStep, problem: str) -> None:
    assert problem in (rule.problem(8) or "") and FixedStep(3.0, 2).problem(8) is None
    assert PlaneStep().unfit(SIGNED) and PlaneStep().unfit(planes(8, 0)) is None
    with pytest.raises(FitError, match="has no place in units of 2"):
        PlaneStep(2.0**-100, 1).integers(planes(8, 0), torch.ones(1, 1, 1, dtype=torch.int64), 0, 1, 0, "here")


def test_the_range_of_least_error_is_chosen() -> None:
    noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    far = torch.cat([noise, torch.tensor([200.0])])

    def error(code: Planes, rule: PlaneStep, sample: Tensor) -> float:
        values = rule.values(code, rule.encode(code, sample.view(1, -1, 1), 1, 0, "", True)).flatten()
        return float((values - sample).double().square().sum())

    every = [planes(8, shift) for shift in (0, 2, 4, 8)]
    for sample, shift in ((torch.linspace(0.9, 1, 999), 0), (far, 4)):
        reach = 1.5 * float(sample.abs().max())
        code, rule = best_planes(every, reach, sample)
        assert code.outlier_shift == shift and reach <= rule.step * 2 ** (8 + shift) <= 1.01 * reach
        errors = {
            c.outlier_shift: error(c, PlaneStep(step_above(reach / 2 ** (8 + c.outlier_shift), 8), 8), sample) for c in every
        }
        assert min(errors, key=lambda b: errors[b]) == shift and errors[shift] == pytest.approx(error(code, rule, sample))


def test_two_halves_hold_a_cached_code() -> None:
    q = np.arange(HALVES16.code_min, HALVES16.code_max + 1)
    high = (q + 128) // 256
    low = q - 256 * high
    assert synapses_of(HALVES16) == (127, 128) and synapses_of(INTEGER8) == (127,) == synapses_of(None)
    assert (abs(high).max(), low.min(), low.max()) == (127, -128, 127)
