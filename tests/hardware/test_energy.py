"""Work, counts and joules: by hand, conserved, and from profiles that are checked to the last entry."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Executor
from kirin_lava.hardware import profile as profiles
from kirin_lava.hardware.energy import energy_table, paper_view, verdict
from kirin_lava.hardware.networks import NETWORKS
from kirin_lava.hardware.profile import PRICES, Price, Profile, load_profile, profile_names
from kirin_lava.hardware.shapes import shape_of_model
from kirin_lava.hardware.work import ModelWork, SegmentWork, assumed_density, assumed_work, measured_work
from kirin_lava.methods.kirin import KIRIN
from kirin_lava.methods.method import Paper
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.quantize.convert import convert_model
from kirin_lava.spikes.codes import INTEGER8, OFFSET, SIGNED, UNSIGNED16, SpikeCode
from kirin_lava.spikes.steps import TokenBudget
from kirin_lava.tasks.cost import cost_of
from tests.small_models import CONFIGS, random_checkpoint, random_rows

PROFILE_FOLDER = Path(profiles.__file__).parent / "profiles"

# 10 inputs: 6 spikes, 1 outlier, 3 silent; 4 neurons, T = 8; 5 of 40 synapses are zero
SEGMENT = SegmentWork(
    block="b",
    name="l",
    kind="read",
    encoding="signed",
    window=8,
    weight_bits=4,
    bits=8,
    fed_on_chip=False,
    states_touched=2,
    written=0,
    elements=10,
    spikes=6,
    outliers=1,
    neurons=4,
    dense_macs=40,
    synaptic_adds=21,
    macs=3,
    neuron_updates=32,
    comparisons=0,
    ramp_adds=0,
    readouts=4,
    rate_spikes=500,
    rate_adds=1800,
)


def test_a_message_costs_its_bits() -> None:
    """12 bits: 28 with the place in place of 24 on link and way, and two MACs of 8 bits; spikes of T = 16 have 5."""
    counts = {
        name: {
            column.network: column.counts
            for column in energy_table(work_of(replace(SEGMENT, encoding=name)), flat_profile()).columns
        }
        for name in ("signed", "signed-m12", "signed-16-m12")
    }
    narrow, wide, long = counts.values()
    assert narrow["ours"]["host_bit"] == 10 * 4 + 24 + 4 * 24 and narrow["ours"]["message_out"] == 1
    assert wide["ours"]["host_bit"] == 10 * 4 + 28 + 4 * 24 and wide["ours"]["message_out"] == pytest.approx(28 / 24)
    assert long["integer"]["host_bit"] == 10 * 5 + 28 + 4 * 24
    for network in ("ours", "integer"):
        assert wide[network]["mac_4x8"] == 2 * narrow[network]["mac_4x8"] > 0


def work_of(*segments: SegmentWork) -> ModelWork:
    return ModelWork("by hand", 1, segments, host_operations=100, code_operations=30)


def flat_profile(value: float = 1.0, events_only: bool = False, **special: float | None) -> Profile:
    """Every price the same, hops 2."""

    def price(number: float | None) -> Price:
        return Price(number, "unknown" if number is None else "published", "test")

    prices = {name: price(special.get(name, value)) for name in PRICES}
    return Profile("flat", "flat", "all alike", events_only, price(2.0), price(0.5), prices)


def test_counts_of_the_four_networks_by_hand() -> None:
    table = energy_table(work_of(SEGMENT), flat_profile())
    counts = {network: table.column(network).counts for network in NETWORKS}
    assert counts["fp16"] == {
        "mac_fp16": 40,
        "weight_bit": 640,
        "state_bit": 64,
        "dense_bit_hop": 160,
        "host_bit": 16 * 14,
        "host_operation": 70,
    }
    assert counts["integer"] == {
        "mac_4x4": 36,
        "mac_4x8": 4,
        "weight_bit": 160,
        "state_bit": 96,
        "dense_bit_hop": 4 * 10 + 24,
        "host_bit": 64 + 24 * 4,
        "host_operation": 100,
    }
    assert counts["rate"] == {
        "synaptic_add": 1800,
        "weight_bit": 8 * 1800,
        "neuron_update": 1024,
        "membrane_add": 1024,
        "compare": 1024,
        "state_bit": 48 * 1024,
        "spike_out": 500,
        "spike_hop": 500,
        "host_bit": 80 + 96,
        "host_operation": 100,
    }
    assert counts["ours"] == {
        "synaptic_add": 21,
        "mac_4x8": 3,
        "weight_bit": 8 * 24,
        "neuron_update": 32,
        "membrane_add": 32,
        "state_bit": 96 * 32,
        "spike_out": 6,
        "spike_hop": 6,
        "message_out": 1,
        "message_hop": 1,
        "host_bit": 64 + 96,
        "host_operation": 100,
    }


def test_joules_are_counts_times_prices() -> None:
    table = energy_table(work_of(SEGMENT, replace(SEGMENT, name="m")), flat_profile(3.0), chips=2, seconds_per_token=0.25)
    for column in table.columns:
        assert column.joules is not None and column.segments is not None and column.total is not None
        operations = sum(number * (2 if name.endswith("_hop") else 1) for name, number in column.counts.items())
        assert column.total == pytest.approx(3e-12 * operations)
        assert column.total == pytest.approx(sum(column.joules.values()))
        assert sum(column.segments.values()) + column.joules["host"] == pytest.approx(column.total)
        assert column.unpriced == ()
    assert table.column("ours").static_joules == pytest.approx(0.5 * 2 * 0.25)
    assert table.column("integer").static_joules is None


def test_events_alone_carry_the_integer_twin_as_messages() -> None:
    counts = energy_table(work_of(SEGMENT), flat_profile(events_only=True)).column("integer").counts
    assert counts["message_out"] == counts["message_hop"] == 7 and "dense_bit_hop" not in counts
    assert counts["mac_4x4"] == 21 and counts["mac_4x8"] == 3 and counts["neuron_update"] == 4


def test_what_fires_on_chip_does_not_cross_to_the_host() -> None:
    chained = replace(SEGMENT, fed_on_chip=True, readouts=0, kind="fire", comparisons=20, ramp_adds=16)
    for network in NETWORKS:
        counts = energy_table(work_of(chained), flat_profile()).column(network).counts
        assert "host_bit" not in counts
    assert energy_table(work_of(chained), flat_profile()).column("ours").counts["compare"] == 36


def test_a_missing_price_of_compute_takes_the_column_away_others_are_listed() -> None:
    table = energy_table(work_of(SEGMENT), flat_profile(mac_fp16=None, spike_hop=None))
    assert table.column("fp16").total is None and table.column("fp16").joules is None
    ours = table.column("ours")
    assert ours.unpriced == ("spike_hop",) and ours.total is not None
    text = verdict(table)
    assert (
        "FP16 network cannot run on this platform" in text and "Not priced, for want of a public number: hops of spikes" in text
    )


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_the_verdict_names_the_cheaper_of_spikes_and_integers(add: float, mac: float) -> None:
    table = energy_table(work_of(SEGMENT), flat_profile(0.0, synaptic_add=add, mac_4x4=mac, mac_fp16=1e6))
    ours, twin = 21 * add, 36 * mac
    text = verdict(table)
    assert ("The integer twin wins" in text) == (twin < ours)
    winner = "ours takes the least" if ours <= twin else "the bit-matched integer twin takes the least"
    assert text.startswith(f"Under flat, {winner} energy per token")
    assert f"bit-matched integer twin takes {twin / ours:.2f} times ours" in text


@pytest.mark.parametrize("words", [1, 3])
def test_every_state_of_a_neuron_is_read_and_written(words: int) -> None:
    """A neuron of another method may have more or fewer states than two."""
    counts = energy_table(work_of(replace(SEGMENT, states_touched=words)), flat_profile()).column("ours").counts
    assert counts["state_bit"] == 2 * words * 24 * 32


def test_a_method_without_claims_gets_none() -> None:
    for paper in (None, Paper("Something", "unpublished")):
        view = paper_view(work_of(SEGMENT), paper)
        assert view.claimed_energy_reduction is None and view.claimed_step_reduction is None
        assert view.step_reduction == 1 - 8 / 256


def test_the_papers_way_of_counting() -> None:
    view = paper_view(work_of(SEGMENT), KIRIN.paper)
    ours = 21 * 0.9 + 3 * 4.6
    assert view.against_dense == pytest.approx(1 - ours / (40 * 4.6))
    assert view.against_rate == pytest.approx(1 - ours / (1800 * 0.9))
    assert (view.claimed_energy_reduction, view.claimed_step_reduction) == (0.8466, 0.9375)
    assert view.step_reduction == 1 - 8 / 256


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_measured_work_is_the_average_of_a_run(tmp_path: Path, kind: str) -> None:
    model = convert_model(random_checkpoint(tmp_path, kind), random_rows(CONFIGS[kind]), load_recipe("kirin-w4a4-8"))
    counter = Counter()
    Executor(model, observer=counter).forward(torch.stack(random_rows(CONFIGS[kind], rows=3, length=9)))
    stats, shape = counter.result(), shape_of_model(model)
    work = measured_work(stats, shape)
    assert work.context == 5  # of 1 to 9 positions
    total = stats.total()
    for name in ("spikes", "outliers", "synaptic_adds", "macs", "dense_macs", "neuron_updates", "comparisons", "readouts"):
        assert sum(getattr(s, name) for s in work.segments) == pytest.approx(total[f"{name}_per_token"])
    assert work.host_operations == pytest.approx(total["host_float_operations_per_token"])
    assert 0 < work.code_operations < work.host_operations
    assert {s.name: s.written for s in work.segments}["attn.mix"] == sum(s.cached() for s in shape.segments) / 4
    cost = json.loads(json.dumps(cost_of(shape, work).to_dict()))
    assert [table["profile"]["name"] for table in cost["energy"]] == profile_names()
    assert cost["physical_fit_verified"] is False and "27 tokens" in cost["work"]["source"]
    with pytest.raises(UsageError, match="another model"):
        measured_work(stats, replace(shape, segments=shape.segments[1:]))
    with pytest.raises(UsageError, match="nothing was counted"):
        measured_work(replace(stats, tokens=0), shape)


@pytest.mark.parametrize("enc", [OFFSET, SIGNED, INTEGER8])
def test_assumed_densities_are_those_of_normal_values(enc: SpikeCode) -> None:
    """The encoder on 400 tokens of 1000 normal values."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 400, 1000))).float()
    q = TokenBudget(0.1).encode(enc, x, 1, 0, "e", True).q.numpy().astype(np.int64)
    density = assumed_density(enc, 0.1, 1000)
    outliers, silent = enc.is_message(q).mean(), enc.is_silent(q).mean()
    assert density.outliers == pytest.approx(outliers, abs=0.02)
    assert density.spikes == pytest.approx(1 - outliers - silent, abs=0.02)
    largest = np.abs(q).max(-1, keepdims=True)
    assert density.rate == pytest.approx((np.abs(q) * 127 / largest).mean(), rel=0.05)


@given(st.sampled_from([OFFSET, SIGNED, UNSIGNED16, INTEGER8]), st.floats(0, 0.5), st.integers(1, 10**5), st.booleans())
def test_assumed_densities_are_shares(enc: SpikeCode, share: float, width: int, fired: bool) -> None:
    density = assumed_density(enc, share, width, fired and enc is UNSIGNED16)
    assert density.spikes >= 0 and density.outliers >= 0 and density.spikes + density.outliers <= 1 + 1e-9
    assert 0 < density.rate <= 255


def test_assumed_work_is_conserved(tmp_path: Path) -> None:
    model = convert_model(random_checkpoint(tmp_path, "opt"), random_rows(CONFIGS["opt"]), load_recipe("kirin-w4a4-8"))
    for segment in assumed_work(shape_of_model(model), 20).segments:
        assert segment.spikes + segment.outliers <= segment.elements * (1 + 1e-9)
        assert segment.synaptic_adds + segment.macs <= segment.dense_macs * (1 + 1e-9)
        assert (segment.comparisons > 0) == (segment.kind == "fire") == (segment.readouts == 0)


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles_price_everything_and_say_where_from(name: str) -> None:
    profile = load_profile(name)
    assert set(profile.prices) == set(PRICES) and profile.about
    table = energy_table(work_of(SEGMENT), profile, chips=1, seconds_per_token=1e-3)
    assert all(table.column(network).total for network in ("integer", "rate", "ours"))
    assert json.loads(json.dumps(table.to_dict()))["verdict"] == verdict(table)
    assert "Loihi 2" not in profile.title


def test_there_is_a_profile_of_each_kind() -> None:
    assert profile_names() == ["horowitz-45nm", "loihi1-fitted", "loihi1-simulated", "yan-22nm"]


def shipped() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((PROFILE_FOLDER / "yan-22nm.yaml").read_text())
    return values


def test_a_users_file_is_read_like_a_shipped_one(tmp_path: Path) -> None:
    values = shipped()
    values["prices"]["spike_hop"] = {"value": 0.25, "kind": "estimated", "source": "a better network"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    profile = load_profile(str(path))
    assert profile.name == "mine" and profile.prices["spike_hop"] == Price(0.25, "estimated", "a better network")


BAD: list[tuple[list[str], object, str]] = [
    (["prices", "spike_hop", "value"], -1, "spike_hop: value is -1, not a number from 0 up"),
    (["prices", "spike_hop", "value"], float("nan"), "not a number from 0 up"),
    (["prices", "spike_hop", "value"], float("inf"), "not a number from 0 up"),
    (["prices", "spike_hop", "value"], True, "not a number"),
    (["prices", "spike_hop", "value"], "3 pJ", "not a number"),
    (["prices", "spike_hop", "value"], None, "not a number"),
    (["prices", "spike_hop", "source"], "", "say where the number is from"),
    (["prices", "spike_hop", "kind"], "guessed", "choose one of published"),
    (["prices", "spike_hop", "kind"], "unknown", "write null"),
    (["prices", "spike_hop", "kind"], "included", "write 0"),
    (["prices", "spike_hop", "note"], "x", "unknown entry note"),
    (["prices", "laser"], {}, "prices: unknown entry laser"),
    (["prices"], [1], "expected entries, found list"),
    (["title"], "", "title is ''"),
    (["events_only"], "no", "events_only is 'no', not true or false"),
    (["hops", "value"], [4], "hops: value is"),
    (["static"], 1, "unknown entry static"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_a_wrong_entry_is_named(path: list[str], value: object, message: str) -> None:
    values = copy.deepcopy(shipped())
    place: Any = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(UsageError, match="mine") as caught:
        Profile.from_dict(values, "mine")
    assert message in str(caught.value)


def test_missing_entries_and_files_are_named(tmp_path: Path) -> None:
    values = shipped()
    del values["prices"]["mac_4x4"], values["prices"]["compare"]
    with pytest.raises(UsageError, match="prices: missing entries mac_4x4, compare"):
        Profile.from_dict(values, "mine")
    with pytest.raises(UsageError, match="no energy profile 'loihi2': use one of horowitz-45nm"):
        load_profile("loihi2")
    broken = tmp_path / "broken.yaml"
    broken.write_text("title: [")
    with pytest.raises(UsageError, match="cannot be read as YAML"):
        load_profile(str(broken))
