"""Linear segments on Lava's own processes: the same integers as the definition, at every edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.ops import Linear
from kirin_lava.processes.runtime import run_job
from kirin_lava.spikes.codes import CODES, SIGNED, UNSIGNED8, UNSIGNED16, Integers, SpikeCode
from tests.processes.jobs import count_in_one_job, multiply_by_synapses, run_segments
from tests.spikes.test_neuron import FIRED, formula, layer, random_codes

KINDS = ["per-element", "per-channel", "extreme", "all-outliers", "silent"]


def cases() -> list[tuple[Linear, Integers, int | None]]:
    """Every input code with every output, each with another kind of codes, fan-in and period."""
    rng = np.random.default_rng(0)
    work: list[tuple[Linear, Integers, int | None]] = []
    outputs: list[SpikeCode | None] = [None, *(code for code in FIRED if code.message_bits == 8)]
    for i, enc in enumerate(CODES):
        for j, out in enumerate(outputs if enc.message_bits <= 8 else outputs[:2]):
            fan_in = [1, 7, 60, 300][(i + j) % 4] if enc.message_bits <= 8 else [20, 4][i % 2]
            out = None if enc.by_plane else out
            op = layer(rng, 9, fan_in, enc, out, shift=j % 3)
            op.weight[0] = 0
            q = np.concatenate([random_codes(rng, (2, fan_in), enc, kind) for kind in (KINDS[(i + j) % 5], "per-element")])
            work.append((op, q, 18 if (i + j) % 3 == 0 else None))
    one_sign = [np.full((2, 3), -128), np.full((2, 3), 127), np.zeros((2, 3)), np.array([[1, -3, 7], [-5, 2, -8]])]
    for weight in one_sign:
        work.append((Linear("w", "x", "y", weight.astype(np.int8), 8, SIGNED), np.array([[5, -7, 100], [0, 0, 0]]), None))
    return work


@pytest.mark.lava
@pytest.mark.slow
def test_native_segments_equal_the_definition() -> None:
    work = cases()
    compared = 0
    for (op, q, _), run in zip(work, run_job(run_segments, work, timeout=600), strict=True):
        np.testing.assert_array_equal(run.result, formula(op, q))
        np.testing.assert_array_equal(run.outliers, op.code.is_message(q).sum(1))
        np.testing.assert_array_equal(run.spikes, op.code.spike_count(q).sum(1))
        compared += run.result.size
    assert compared > 700


@pytest.mark.lava
def test_the_last_state_that_fits_and_the_first_that_does_not() -> None:
    wide = replace(SIGNED, code_max=STATE_MAX + 1)
    op = Linear("edge", "x", "y", np.array([[0], [1]], np.int8), 8, wide)
    (run,) = run_job(run_segments, [(op, np.array([[STATE_MAX], [1]]), None)], timeout=300)
    np.testing.assert_array_equal(run.result, [[0, STATE_MAX], [0, 1]])
    with pytest.raises(FitError, match="edge: neuron 1 reaches 8388608 in step 7, beyond the 24-bit state"):
        run_job(run_segments, [(op, np.array([[STATE_MAX + 1], [1]]), None)], timeout=300)


@pytest.mark.lava
def test_a_synapse_holds_eight_bits_and_multiplies_each_of_them() -> None:
    """Odd weights too: Lava's model of a matrix with both signs drops the lowest bit of what it stores."""
    weight = np.array([[-128, -127, -1, 0], [1, 3, 126, 127]])
    sums, sent = run_job(multiply_by_synapses, weight, timeout=300)
    np.testing.assert_array_equal(sums, weight.T)
    np.testing.assert_array_equal(sent, weight.T * 1000)
    for beyond in (128, -129):
        with pytest.raises(FitError, match=rf"synapses span .*{beyond}.*beyond the 8 bits of a synapse \(-128\.\.127\)"):
            run_job(multiply_by_synapses, np.array([[0, beyond]]), timeout=300)


@pytest.mark.lava
def test_what_cannot_be_built_is_refused() -> None:
    op = Linear("w", "x", "y", np.array([[100]], np.int8), 8, SIGNED)
    rng = np.random.default_rng(0)
    firing = layer(rng, 2, 3, SIGNED, UNSIGNED16)
    for work, error, message in [
        ((op, np.array([[128]]), None), UsageError, "outside signed"),
        ((op, np.array([[1]]), 7), UsageError, "7 steps cannot hold signed codes"),
        ((firing, np.array([[1, 2, 3]]), 8), FitError, "8 steps cannot hold unsigned-16 codes"),
        ((layer(rng, 30, 30, SIGNED, UNSIGNED8, shift=5), np.ones((1, 30), np.int64), None), FitError, "8 bits of a synapse"),
    ]:
        with pytest.raises(error, match=message):
            run_job(run_segments, [work], timeout=300)


@pytest.mark.lava
@pytest.mark.slow
def test_fifty_runs_in_one_job_leave_its_descriptors_as_they_were() -> None:
    op = layer(np.random.default_rng(0), 2, 3, SIGNED, None)
    early, late = run_job(count_in_one_job, op, np.ones((1, 3), np.int64), 50, timeout=900)
    assert late == early
