"""Steps of the pipeline and the bound on their length."""

from __future__ import annotations

import pytest

from kirin_lava.base import loihi2
from kirin_lava.base.errors import UsageError
from kirin_lava.hardware.placement import place
from kirin_lava.hardware.timing import CONSTANTS, step_rows, time_bound
from kirin_lava.hardware.work import assumed_work
from kirin_lava.methods.kirin import KIRIN
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.quantize.without_weights import shape_of_config
from kirin_lava.spikes.codes import OFFSET, UNSIGNED16
from kirin_lava.spikes.stock.layout import Layout
from tests.small_models import CONFIGS


def test_steps_against_an_eight_bit_code() -> None:
    """The paper's 93.75 %, and 96.875 % for signed codes; two layers of six stages and an integer head."""
    rows = step_rows(shape_of_config(CONFIGS["llama"], load_recipe("kirin-w4a4-8")), KIRIN.windows)
    assert [(row.window, row.window_reduction) for row in rows] == [(16, 0.9375), (8, 0.96875), (256, 0.0)]
    assert [row.stages for row in rows] == [13] * 3
    assert [row.latency_steps for row in rows] == [12 * 16 + 1, 12 * 8 + 1, 12 * 256 + 1]
    assert rows[0].latency_reduction == pytest.approx(1 - 193 / 3073)


@pytest.mark.parametrize(("recipe", "window"), [("kirin-w4a4-8", 16), ("kirin-w4a4-12", 8)])
def test_without_a_list_of_windows_the_models_own_is_compared(recipe: str, window: int) -> None:
    shape = shape_of_config(CONFIGS["llama"], load_recipe(recipe))
    assert [(row.scheme, row.window) for row in step_rows(shape)] == [("own codes", window), ("8-bit spike codes", 256)]
    others = step_rows(shape, {"long codes": 32})
    assert [row.window for row in others] == [window, 32, 256], "its own comes first"


def test_stock_windows_are_those_of_the_netx_form() -> None:
    (row, *_) = step_rows(shape_of_config(CONFIGS["opt-post-norm"], load_recipe("kirin-w4a4-8")))
    read = Layout(OFFSET, 1, 1, None, ()).period
    fire = Layout(OFFSET, 1, 1, UNSIGNED16, ()).period
    assert row.stock_latency_steps == 5 * read + fire + 2


def test_the_bound_by_hand() -> None:
    """One chip: neurons of scores are the busiest, and nothing is faster than the barrier."""
    shape = shape_of_config(CONFIGS["llama"], load_recipe("kirin-w4a4-8"))
    placement, work = place(shape, 64), assumed_work(shape, 64)
    assert len(placement.cores) < 4
    bound = time_bound(work, placement)
    stages = {(stage.block, stage.name): stage for stage in bound.stages}
    for w in work.segments:
        stage = stages[w.block, w.name]
        assert stage.seconds >= w.window * loihi2.BARRIER_SECONDS
        assert stage.neuron_updates <= w.neuron_updates
        parts = (
            w.window * loihi2.BARRIER_SECONDS,
            stage.synapses * loihi2.SYNAPSE_SECONDS,
            stage.neuron_updates * loihi2.NEURON_UPDATE_SECONDS,
        )
        assert stage.seconds == max(parts)
    assert bound.seconds_per_token == pytest.approx(sum(stage.seconds for stage in bound.stages))
    assert bound.tokens_per_second == pytest.approx(1 / bound.seconds_per_token)
    assert bound.pipelined_tokens_per_second == pytest.approx(1 / (16 * bound.step_seconds))
    # all cores together: a core's work in a window is at least its share, so the slowest is at least the mean
    updates = sum(w.neuron_updates for w in work.segments) / len(placement.cores)
    assert 16 * bound.step_seconds >= updates * loihi2.NEURON_UPDATE_SECONDS * (1 - 1e-9)


def test_constants_have_sources_and_go_with_the_result() -> None:
    shape = shape_of_config(CONFIGS["llama"], load_recipe("fast"))
    values = time_bound(assumed_work(shape, 8), place(shape, 8)).to_dict()
    assert len(values["constants"]) == len(CONSTANTS)
    assert all(constant["source"] and constant["seconds"] > 0 for constant in values["constants"])


def test_work_of_another_model_is_refused() -> None:
    first, second = (shape_of_config(CONFIGS[kind], load_recipe("fast")) for kind in ("llama", "opt"))
    with pytest.raises(UsageError, match="another model"):
        time_bound(assumed_work(first, 8), place(second, 8))
