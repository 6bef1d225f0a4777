"""A network without a host pays for its neurons, tables, integer operations and steps between its segments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kirin_lava.base import loihi2
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Executor
from kirin_lava.hardware.energy import energy_table
from kirin_lava.hardware.placement import place
from kirin_lava.hardware.profile import load_profile
from kirin_lava.hardware.shapes import ModelShape, shape_of_model
from kirin_lava.hardware.timing import step_rows, time_bound
from kirin_lava.hardware.traffic import traffic
from kirin_lava.hardware.work import ModelWork, assumed_work, measured_work
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.quantize.convert import convert_model
from kirin_lava.quantize.without_weights import shape_of_config
from kirin_lava.spikes.tables import table
from tests.small_models import CONFIGS, random_checkpoint, random_rows

SPIKES = load_recipe("kirin-spikes")
HOSTED = replace(SPIKES, host="float")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelShape, ModelWork]:
    checkpoint = random_checkpoint(tmp_path_factory.mktemp("model"), "llama")
    model = convert_model(checkpoint, random_rows(CONFIGS["llama"], 2, 16), SPIKES)
    counter = Counter()
    Executor(model, observer=counter).forward(torch.stack(random_rows(CONFIGS["llama"], 1, 7)))
    stats, shape = counter.result(), shape_of_model(model)
    for work in shape.host:
        row = next(row for row in stats.host if (row.block, row.op) == (work.block, work.name))
        assert row.integer_operations == sum(work.at(c) for c in range(1, 8)) and row.float_operations == 0
    return shape, measured_work(stats, shape)


def test_nothing_is_left_to_a_host_and_nothing_crosses_but_rows_and_logits(measured: tuple[ModelShape, ModelWork]) -> None:
    shape, work = measured
    assert work.host_operations == work.code_operations == 0 < work.integer_products < work.integer_operations
    assert (work.link_in, work.link_out) == (32, 40)
    total = traffic(work, place(shape)).total()
    assert total["from_host_bits"] == 32 * 2 * loihi2.PACKET_BITS and total["to_host_bits"] == 40 * 2 * loihi2.PACKET_BITS


@pytest.mark.parametrize("profile", ["horowitz-45nm", "loihi1-fitted"])
def test_every_network_but_float16_pays_for_the_integers(profile: str, measured: tuple[ModelShape, ModelWork]) -> None:
    prices = load_profile(profile)
    with_them = energy_table(measured[1], prices)
    free = replace(measured[1], integer_operations=0.0, integer_products=0.0, integer_messages=0.0)
    without = energy_table(free, prices)
    for name in ("integer", "rate", "ours"):
        assert (with_them.column(name).total or 0) > (without.column(name).total or 0)
    ours = with_them.column("ours").counts
    assert ours.get("host_operation", 0) == 0
    assert ours["mac_8x8"] - without.column("ours").counts.get("mac_8x8", 0) == pytest.approx(9 * measured[1].integer_products)
    assert with_them.column("fp16").counts["host_operation"] == measured[1].integer_operations


def test_their_neurons_and_tables_take_room(measured: tuple[ModelShape, ModelWork]) -> None:
    shape, _ = measured
    placed, hosted = place(shape, 64), place(shape_of_config(CONFIGS["llama"], HOSTED), 64)
    assert hosted.between is None and "between" not in hosted.to_dict()
    between = placed.between
    assert between is not None
    assert between.tables == {name: table(name).bytes for name in ("exp2", "reciprocal", "root", "silu")}
    assert between.table_bytes % 1 == 0 and between.table_bytes >= sum(between.tables.values())
    assert between.rotary_bytes == 64 * 8 * 3
    widths = [work.neurons(64) for work in shape.host]
    assert between.neurons == sum(widths) and max(widths) == 4 * 64
    assert sum(core.neurons for core in placed.cores) == sum(s.neurons for s in placed.segments) + between.neurons + 8
    for core in placed.cores:
        assert core.neurons <= loihi2.NEURONS_PER_CORE and core.total_bytes <= loihi2.CORE_MEMORY_BYTES
        assert core.synapse_bytes <= loihi2.SYNAPSE_MEMORY_BYTES
    assert placed.to_dict()["between"]["neurons"] == between.neurons


def test_a_long_context_takes_more_cores() -> None:
    shape = shape_of_config({**CONFIGS["llama"], "max_position_embeddings": 8192}, SPIKES)
    few, many = (place(shape, context) for context in (64, 8192))
    assert few.between is not None and many.between is not None
    assert many.between.cores > few.between.cores
    for core in many.cores:
        assert core.neurons <= loihi2.NEURONS_PER_CORE and core.total_bytes <= loihi2.CORE_MEMORY_BYTES
        assert core.synapse_bytes <= loihi2.SYNAPSE_MEMORY_BYTES
    assert time_bound(assumed_work(shape, 8192), many).seconds_per_token > 0


def test_they_add_steps_along_the_longest_path() -> None:
    spikes, hosted = (shape_of_config(CONFIGS["llama"], recipe) for recipe in (SPIKES, HOSTED))
    assert hosted.between_steps == 0
    # a layer: norm 4, encode 2, decode 1, rotary 1, encode 2, softmax 5, encode 2, decode 1, encode 2, decode 1, add 1,
    # norm 4, encode 2, decode 1, gate 1, encode 2, decode 1, add 1; the head: norm 4, encode 2, decode 1
    assert spikes.between_steps == 2 * 34 + 7
    ours, theirs = step_rows(spikes)[0], step_rows(hosted)[0]
    assert ours.latency_steps - theirs.latency_steps == spikes.between_steps


def test_a_plan_counts_what_a_run_does(measured: tuple[ModelShape, ModelWork], tmp_path: Path) -> None:
    shape, work = measured
    assumed = assumed_work(shape, 4)  # tokens of the run saw 4 positions on average
    for name in ("integer_operations", "integer_products", "integer_messages"):
        assert getattr(assumed, name) == pytest.approx(getattr(work, name)), name
