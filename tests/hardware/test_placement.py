"""Packing never exceeds a limit, loses nothing, and is the same every time; traffic follows from it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kirin_lava.base import loihi2
from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.hardware.placement import Placement, control_lines, place
from kirin_lava.hardware.shapes import ModelShape, Segment
from kirin_lava.hardware.traffic import traffic
from kirin_lava.hardware.work import assumed_work
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.quantize.without_weights import shape_of_config
from kirin_lava.spikes.neurons import Silence
from tests.hardware.known_configs import LLAMA_2_7B, OPT_1_3B, OPT_125M
from tests.small_models import CONFIGS


def linear(inputs: int, outputs: int, bits: int = 4, name: str = "l", **more: object) -> Segment:
    kind = "fire" if more.get("fires") else "read"
    if kind == "fire":
        more = {"state_words": Silence.state_words, **more}
    return Segment("b", name, kind, inputs, outputs, bits, 4, "offset", 0.1, **more)  # type: ignore[arg-type]


def attention(heads: int, kv_heads: int, width: int) -> list[Segment]:
    common = {"heads": heads, "kv_heads": kv_heads}
    return [
        Segment("b", "score", "score", width, heads, 8, 8, "offset", 0.1, **common),  # type: ignore[arg-type]
        Segment("b", "mix", "mix", 0, heads * width, 8, 8, "unsigned-16", 0.1, **common),  # type: ignore[arg-type]
    ]


def shape_of(*segments: Segment, positions: int = 4096) -> ModelShape:
    return ModelShape("test", 1, 8, 8, positions, 0, segments, ())


def check(placement: Placement, shape: ModelShape) -> None:
    """Every limit holds and every neuron has a place."""
    for core in placement.cores:
        assert 0 < core.neurons <= loihi2.NEURONS_PER_CORE
        assert core.synapse_bytes <= loihi2.SYNAPSE_MEMORY_BYTES
        assert core.total_bytes <= loihi2.CORE_MEMORY_BYTES
        assert sum(core.tasks.values()) == core.neurons
        assert 0 < core.utilisation <= 1
    assert placement.chips * loihi2.USABLE_CORES_PER_CHIP >= len(placement.cores)
    cores_of: dict[tuple[str, str], dict[int, int]] = {}
    for index, core in enumerate(placement.cores):
        for task, neurons in core.tasks.items():
            cores_of.setdefault(task, {})[index] = neurons
    for placed, segment in zip(placement.segments, shape.segments, strict=True):
        found = cores_of[segment.block, segment.name]
        assert sum(found.values()) == placed.neurons == segment.neurons(placement.context) * placed.fan_in_parts
        assert placed.cores == len(found) and sum(placed.neurons_by_chip) == placed.neurons
        assert set(placed.chips) == {index // loihi2.USABLE_CORES_PER_CHIP for index in found}


@st.composite
def shapes(draw: st.DrawFn) -> tuple[ModelShape, int]:
    segments: list[Segment] = []
    for i in range(draw(st.integers(1, 4))):
        fires = draw(st.sampled_from([None, "unsigned-16", "signed"]))
        bits = draw(st.sampled_from([4, 8]))
        segments.append(linear(draw(st.integers(1, 9000)), draw(st.integers(1, 9000)), bits, f"l{i}", fires=fires))
    kv_heads = draw(st.integers(1, 4))
    segments += attention(kv_heads * draw(st.integers(1, 3)), kv_heads, draw(st.integers(1, 128)))
    context = draw(st.integers(1, 4096))
    return shape_of(*segments), context


@given(shapes())
def test_no_limit_is_exceeded_and_nothing_is_lost(case: tuple[ModelShape, int]) -> None:
    shape, context = case
    placement = place(shape, context)
    check(placement, shape)
    assert placement.to_dict() == place(shape, context).to_dict()


def test_cores_are_filled_first_fit_in_order() -> None:
    """Fan-in 1024 at 4 bits: 512 bytes a neuron, 256 neurons a core."""
    shape = shape_of(linear(1024, 600, name="a"), linear(1024, 100, name="b"), linear(1024, 200, name="c"))
    cores = place(shape, 1).cores
    a, b, c = (("b", name) for name in "abc")
    assert [core.tasks for core in cores] == [{a: 256}, {a: 256}, {a: 88, b: 100}, {c: 200}]
    assert cores[0].synapse_bytes == loihi2.SYNAPSE_MEMORY_BYTES and cores[0].utilisation == 1
    assert cores[2].axons_in == 2048 and cores[2].axons_out == 188


@pytest.mark.parametrize(("cores", "chips"), [(1, 1), (119, 1), (120, 1), (121, 2), (240, 2), (241, 3)])
def test_a_chip_is_begun_when_the_last_one_is_full(cores: int, chips: int) -> None:
    """Fan-in 1024 at 4 bits: 256 neurons a core, 120 cores a chip."""
    placement = place(shape_of(linear(1024, 256 * cores)), 1)
    assert len(placement.cores) == cores
    assert placement.chips == chips == placement.to_dict()["chips"] == len(placement.segments[0].chips)


def test_wide_and_narrow_fan_ins_meet_other_limits() -> None:
    narrow = place(shape_of(linear(8, 9000)), 1)
    assert [core.neurons for core in narrow.cores] == [8192, 808]
    wide = place(shape_of(linear(100_000, 3)), 1)  # input lines alone take 400 kB
    assert repr(wide.segments[0].fan_in_parts) == "3" and wide.segments[0].neurons == 9
    check(wide, shape_of(linear(100_000, 3)))
    assert wide.segments[0].core_copies == 1.0 and narrow.segments[0].core_copies == 2.0
    assert place(shape_of(linear(1024, 600)), 1).segments[0].core_copies == 3.0
    assert place(shape_of(linear(60_000, 3)), 1).segments[0].fan_in_parts == 2
    for inputs in (60_000, 100_000):
        with pytest.raises(FitError, match="read their membranes out"):
            place(shape_of(linear(inputs, 3, fires="unsigned-16")), 1)


def test_fire_segments_bring_control_lines() -> None:
    segment = linear(10, 4, 8, fires="unsigned-16")
    assert control_lines(segment) == 6 + 14
    placement = place(shape_of(segment), 1)
    (core,) = placement.cores
    assert [p.outlier_lines for p in placement.segments] == [0 if segment.outlier_share == 0 else 10]
    quiet = place(shape_of(replace(segment, outlier_share=0.0)), 1)
    assert [p.outlier_lines for p in quiet.segments] == [0]
    assert core.axons_in == 10 + 20 and core.synapse_bytes == 4 * (10 + 20)
    assert core.state_bytes == 4 * 6 * 3


def test_caches_grow_with_the_context() -> None:
    """Every query head holds a copy of its group's keys and values."""
    shape = shape_of(*attention(4, 2, 16))
    for context in (1, 100, 4096):
        placed = {p.name: p for p in place(shape, context).segments}
        assert placed["score"].cache_bytes == placed["mix"].cache_bytes == 4 * 16 * context
        assert placed["score"].neurons == 4 * context and placed["mix"].neurons == 64
        assert placed["score"].lines == 64 and placed["mix"].lines == 4 * context
    with pytest.raises(FitError, match=r"1\.\.4096"):
        place(shape, 4097)


def test_a_position_costs_its_share_of_a_chip() -> None:
    """Four heads keep 16 bytes each of a key and of a value, and no more than the rounding of a core comes on top."""
    placement = place(shape_of(*attention(4, 2, 16)), 2048)
    core = loihi2.USABLE_CORES_PER_CHIP * loihi2.SYNAPSE_MEMORY_BYTES
    assert 1 <= placement.chips_per_position / (2 * 4 * 16 / core) <= 1.5


@pytest.mark.parametrize(("config", "least"), [(OPT_125M, 3), (OPT_1_3B, 39), (LLAMA_2_7B, 206)])
def test_known_models_need_at_least_the_chips_of_their_weights(config: dict[str, object], least: int) -> None:
    """The weights of all layers at 4 bits alone, without a head, take `least` chips."""
    shape = shape_of_config(config, load_recipe("kirin-w4a4-8"))
    placement = place(shape, 1)
    check(placement, shape)
    layers = sum(s.inputs * s.outputs for s in shape.segments if s.block != "head" and not s.heads) / 2
    per_chip = loihi2.USABLE_CORES_PER_CHIP * loihi2.SYNAPSE_MEMORY_BYTES
    assert -(-layers // per_chip) == least <= placement.chips
    total = sum(p.synapse_bytes + p.cache_bytes for p in placement.segments)
    assert placement.chips <= 1.1 * total / per_chip + 1  # and the packing wastes little


def test_traffic_by_hand() -> None:
    """A firing segment on one chip feeds one that lies on two."""
    first = linear(4, 2, name="first", fires="unsigned-16")
    second = replace(linear(65_536 // 2, 4 * 121, 4, "second"), fed_by="first", encoding="unsigned-16", outlier_share=0.0)
    shape = shape_of(first, second)
    placement = place(shape, 1)
    assert [p.chips for p in placement.segments] == [(0,), (0, 1)]
    work = assumed_work(shape, 1)
    rows = traffic(work, placement).segments
    a, b = work.segments
    assert rows[0].from_host_events == a.spikes + a.outliers and rows[0].between_chips_events == 0
    assert rows[0].from_host_bits == 32 * a.spikes + 64 * a.outliers
    assert rows[1].from_host_events == 0 and rows[1].between_chips_events == b.spikes
    assert rows[1].on_chip_events == b.spikes * placement.segments[1].cores
    assert rows[0].to_host_bits == 0 and rows[1].to_host_bits == 64 * 484
    with pytest.raises(UsageError, match="another model"):
        traffic(assumed_work(shape_of(first), 1), placement)


def test_a_placement_is_plain_values() -> None:
    shape = shape_of_config(CONFIGS["opt"], load_recipe("kirin-w4a4-8"))
    values = json.loads(json.dumps(place(shape).to_dict()))
    assert values["physical_fit_verified"] is False and values["context"] == 64
    assert len(values["core_columns"]["utilisation"]) == values["cores"] and values["chips"] == 1


@pytest.mark.parametrize(("recipe", "facts", "sums"), [
    ("kirin-w4a4-8", (1, 1, 8960, 8192, 0), (1064, 896, 1064, 17152, 34568)),
    ("kirin-spikes", (1, 2, 8960, 8192, 2632), (3704, 6160, 3704, 29510, 110126)),
])  # fmt: skip
def test_a_small_model_byte_by_byte(recipe: str, facts: tuple[int, ...], sums: tuple[int, ...]) -> None:
    """Of 64 positions: chips, cores, bytes of weights and of caches, neurons between segments; and the cores' columns, added.

    Between segments every number has a neuron; 8 neurons send cosines and sines."""
    values = place(shape_of_config(CONFIGS["llama"], load_recipe(recipe)), 64).to_dict()
    between = values.get("between", {"neurons": 0, "table_bytes": 0, "constant_bytes": 0, "rotary_bytes": 0})
    assert tuple(values[name] for name in ("chips", "cores", "synapse_bytes", "cache_bytes")) == facts[:4]
    assert between["neurons"] == facts[4]
    columns = values["core_columns"]
    names = ("neurons", "axons_in", "axons_out", "synapse_bytes", "total_bytes")
    assert tuple(sum(columns[name]) for name in names) == sums and values["neurons"] == sums[0]
    stored = between["table_bytes"] + between["constant_bytes"] + between["rotary_bytes"]
    assert sums[3] == facts[2] + facts[3] + stored
    if stored:
        assert between == {
            "neurons": 2632, "tables": {"exp2": 1312, "reciprocal": 1312, "root": 2560, "silu": 2350}, "table_bytes": 7534,
            "constant_bytes": 3288, "rotary_bytes": 1536, "cores": 2,
        }  # fmt: skip
    rows = [row for row in values["segments"] if row["block"] == "blocks.1"]
    assert [
        (row["name"], row["neurons"], row["fan_in"], row["lines"], row["synapse_bytes"], row["cache_bytes"]) for row in rows
    ] == [
        ("attn.qkv", 64, 32, 32, 1024, 0),
        ("attn.score", 256, 8, 32, 0, 2048),
        ("attn.mix", 32, 64, 256, 0, 2048),
        ("attn.o", 32, 32, 32, 512, 0),
        ("mlp.gate_up", 96, 32, 32, 1536, 0),
        ("mlp.down", 32, 48, 48, 768, 0),
    ]
    for row in values["segments"]:
        assert row["cores"] == len(row["chips"]) == row["fan_in_parts"] == 1 and row["neurons_by_chip"] == (row["neurons"],)
        assert row["core_copies"] == 1.0 and row["control_lines"] == 0
        assert row["outlier_lines"] == row["lines"], "any of them may carry a message"
