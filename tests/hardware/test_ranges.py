"""Bounds against every code vector of tiny layers, against the stepped neuron, and what happens where they do not hold."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import MESSAGE_MAX, STATE_MAX
from kirin_lava.graph.block import Block
from kirin_lava.graph.executor import BlockExecutor, Cache, Executor
from kirin_lava.graph.ops import Decode, Encode, Linear, Mix
from kirin_lava.graph.values import Codes, HostContext
from kirin_lava.hardware.bounds import Arrivals, arrivals, code_extremes, payload_extremes
from kirin_lava.hardware.observe import RangeObserver
from kirin_lava.hardware.ranges import CALIBRATED, PROVED, UNFIT, Bound, SegmentRange, block_ranges, model_ranges, require_fit
from kirin_lava.methods.kirin import KirinOptions, Outliers
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.quantize.convert import convert_model
from kirin_lava.spikes.codes import OFFSET, SIGNED, UNSIGNED8, UNSIGNED16, SpikeCode
from kirin_lava.spikes.neurons import READ_OUT, Neuron, Silence
from kirin_lava.spikes.steps import StaticStep, StepRule, TokenBudget
from kirin_lava.spikes.stock.ranges import range_of
from tests.small_models import CONFIGS, random_checkpoint, random_rows


def read_block(weight: np.ndarray, enc: SpikeCode, neuron: Neuron = READ_OUT, rule: StepRule = StaticStep(1.0)) -> Block:  # noqa: B008
    ops = (Encode("encode", "x", "codes", enc, rule), Linear("wide", "codes", "sums", weight, 8, enc, neuron))
    return Block("b", ops, "x", weight.shape[1])


def bound(row: SegmentRange, quantity: str):  # type: ignore[no-untyped-def]
    return next(b for b in row.bounds if b.quantity == quantity)


def run(block: Block, codes: np.ndarray) -> RangeObserver:
    observer = RangeObserver()
    BlockExecutor(None, observer=observer).run(
        block, torch.from_numpy(codes).float().unsqueeze(0), torch.arange(len(codes)), Cache()
    )
    return observer


@pytest.mark.parametrize("budget", [0, 1, 2, None])
@pytest.mark.parametrize("enc", [OFFSET, SIGNED, UNSIGNED8])
def test_extremes_are_those_of_all_code_vectors(enc: SpikeCode, budget: int | None) -> None:
    weight = np.array([[3, -5], [-8, 0], [7, 7], [-1, -2]], np.int8)
    edges = {*enc.code_span(), *enc.code_span(messages=False), -enc.zero, 1}
    vectors = np.array(list(itertools.product(sorted(edges), repeat=2)))
    if budget is not None:
        vectors = vectors[enc.is_message(vectors).sum(1) <= budget]
    sums = vectors @ weight.T.astype(np.int64)
    span = code_extremes(weight, Arrivals(enc, budget))
    assert span.low.tolist() == sums.min(0).tolist() and span.high.tolist() == sums.max(0).tolist()


@pytest.mark.parametrize(("worst", "bits"), [((-5, 4), 1.0), ((-1, 20), -1.0), ((0, 0), math.inf)])
def test_the_margin_is_how_often_the_worst_case_could_double(worst: tuple[int, int], bits: float) -> None:
    bound = Bound("v", (-10, 10), "STATE_MAX", worst, worst, None, 0)
    assert bound.margin_bits == bits and bound.guarantee == (PROVED if bits >= 0 else UNFIT)


@pytest.mark.parametrize(
    ("reached", "word"), [((-10, 10), CALIBRATED), ((-11, 10), UNFIT), ((-10, 11), UNFIT), ((0, 0), CALIBRATED)]
)
def test_a_guarantee_asks_for_both_ends(reached: tuple[int, int], word: str) -> None:
    assert Bound("v", (-10, 10), "STATE_MAX", (-99, 99), (-99, 99), reached, 0).guarantee == word
    assert Bound("v", (-10, 10), "STATE_MAX", reached, reached, None, 0).guarantee == (PROVED if word == CALIBRATED else UNFIT)


@pytest.mark.parametrize("sign", [1, -1])
def test_of_a_stock_layer_the_neuron_nearest_to_a_limit_is_named(sign: int) -> None:
    low, high = np.array([-9, -1]), np.array([1, 3])
    low, high = (low, high) if sign > 0 else (-high, -low)
    assert range_of("v", (-10, 10), (low, high)).neuron == 0
    assert range_of("v", (-10, 10), (low[::-1], high[::-1])).neuron == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_the_neuron_that_comes_nearest_to_the_limit_is_named(sign: int) -> None:
    """Whether it is the highest of those that rise or the lowest of those that fall."""
    weight = np.array([[1, 2], [-3, 1], [40, 2], [1, -7], [9, 9]], np.int8) * np.int8(sign)
    (row,) = block_ranges(read_block(weight, UNSIGNED8), 1)
    assert [bound(row, state).neuron for state in ("u", "v", "membrane")] == [2, 2, 2]


@given(
    st.sampled_from([OFFSET, SIGNED, UNSIGNED16]),
    st.integers(0, 2**31),
    st.floats(0, 0.5),
)
def test_no_state_leaves_its_worst_case(enc: SpikeCode, seed: int, ratio: float) -> None:
    """Real values through the encoder, stepped through the neuron: u, v and the membrane stay inside, in every step."""
    rng = np.random.default_rng(seed)
    inputs = int(rng.integers(1, 40))
    weight = rng.integers(-64, 57, (3, inputs)).astype(np.int8)
    op = Encode("e", "x", "codes", enc, TokenBudget(ratio))
    decode = Decode("d", "y", "codes", "z", None, None)
    block = Block("b", (op, Linear("l", "codes", "y", weight, 8, enc), decode), "z", inputs)
    x = rng.standard_t(2, (5, inputs)) ** 2 if enc is UNSIGNED16 else rng.standard_t(2, (5, inputs))
    value = op.compute({"x": torch.from_numpy(x).float()}, HostContext(torch.arange(5)))
    assert isinstance(value, Codes)
    codes = value.q.numpy().astype(np.int64)
    seen = arrivals(block, "codes", enc, inputs)
    states, final = payload_extremes(weight, seen), code_extremes(weight, seen)
    neuron = READ_OUT.stepped((5, 3), enc.window, enc.gains())
    raster = sum(enc.raster(codes))
    assert isinstance(raster, np.ndarray)
    for step in range(enc.window):
        if step == enc.window - 1:  # before the window's end takes the states away
            neuron.u += raster[..., step] @ weight.T.astype(np.int64)
            neuron.v += neuron.u
        else:
            neuron.step(raster[..., step] @ weight.T.astype(np.int64))
        for state in (neuron.u, neuron.v):
            assert (states.low <= state).all() and (state <= states.high).all()
    sums = codes @ weight.T.astype(np.int64)
    assert (final.low <= sums).all() and (sums <= final.high).all()


def test_small_models_are_proved_and_observation_stays_inside(tmp_path: Path) -> None:
    for kind in ("llama", "opt"):
        model = convert_model(random_checkpoint(tmp_path / kind, kind), random_rows(CONFIGS[kind]), load_recipe("kirin-w4a4-8"))
        observer = RangeObserver()
        Executor(model, observer=observer).forward(torch.stack(random_rows(CONFIGS[kind], seed=5)))
        rows = model_ranges(model, observer)
        require_fit(rows)
        assert all((row.context, row.kind in ("score", "mix")) in ((0, False), (64, True)) for row in rows)
        assert [row.segment for row in rows] == [op.name for b in (*model.blocks, model.head) for op in b.core_ops()]
        for row in rows:
            assert row.guarantee == PROVED and row.advice == ""
            for b in row.bounds:
                assert b.any_codes[0] <= b.worst[0] and b.worst[1] <= b.any_codes[1] and b.margin_bits >= 0
                if b.calibrated is not None:
                    assert b.worst[0] <= b.calibrated[0] and b.calibrated[1] <= b.worst[1]
            seen = row.calibrated["membrane"]
            assert len(seen.low) == (4 if row.kind == "score" else row.neurons)
            assert (row.worst["membrane"].low <= seen.low).all() and (seen.high <= row.worst["membrane"].high).all()
        assert json.loads(json.dumps([row.to_dict() for row in rows]))[0]["guarantee"] == PROVED


def test_a_segment_beyond_the_state_is_calibrated_step_by_step() -> None:
    """Fan-in 8192, weights at their limit: not proved; on gentle codes calibrated, exactly as the neuron steps."""
    rng = np.random.default_rng(0)
    weight = np.where(rng.random((4, 8192)) < 0.5, -128, 127).astype(np.int8)
    codes = rng.integers(-9, 9, (3, 8192))
    block = read_block(weight, OFFSET)
    (row,) = block_ranges(block, 1, run(block, codes))
    assert row.guarantee == CALIBRATED
    assert row.advice == "split its fan-in of 8192 over 16 read segments"
    raster = sum(OFFSET.raster(codes))
    assert isinstance(raster, np.ndarray)
    u = np.cumsum(np.einsum("nk,bkt->bnt", weight.astype(np.int64), raster), axis=-1)
    v = np.cumsum(u, axis=-1)
    for name, state in (("u", u), ("v", v)):
        assert row.calibrated[name].low.tolist() == state.min((0, 2)).tolist()
        assert row.calibrated[name].high.tolist() == state.max((0, 2)).tolist()
        assert bound(row, name).guarantee == CALIBRATED
    assert bound(row, "offset").guarantee == PROVED


def test_everything_that_does_not_fit_is_listed_at_once() -> None:
    weight = np.full((2, 8192), 127, np.int8)
    block = read_block(weight, SIGNED)
    with pytest.raises(FitError) as caught:
        require_fit(block_ranges(block, 1))
    text = str(caught.value)
    assert text.startswith("3 quantities do not fit Loihi 2:\n")
    for quantity in ("u", "v", "membrane"):
        assert f"b wide: {quantity} of neuron 0 reaches -132128768..132128768 in the worst case, STATE_MAX holds" in text
    assert text.count("split its fan-in of 8192 over 16 read segments") == 3


def test_an_overflow_on_text_does_not_fit() -> None:
    weight = np.full((1, 8192), 127, np.int8)
    block = read_block(weight, SIGNED)
    observer = RangeObserver()
    codes = torch.full((1, 1, 8192), 7.0)  # 7 * 127 * 8192 is below the state
    BlockExecutor(None, observer=observer).run(block, codes, torch.arange(1), Cache())
    assert block_ranges(block, 1, observer)[0].guarantee == CALIBRATED
    with pytest.raises(FitError, match="24-bit state"):
        BlockExecutor(None, observer=observer).run(block, codes * 2, torch.arange(1), Cache())


def test_firing_neurons_carry_their_shift_bias_and_threshold() -> None:
    weight = np.array([[5, -3]], np.int8)
    phase = Silence(UNSIGNED16, np.array([40]), np.array([-7]), 3)
    (row,) = block_ranges(read_block(weight, OFFSET, phase), 1)
    assert row.kind == "fire" and row.guarantee == PROVED
    assert bound(row, "stored weight").worst == (-24, 40)
    assert bound(row, "threshold").worst == (0, 15 * 40 - 20)
    assert bound(row, "offset").worst == (-7 - 8 * 8 * 2,) * 2
    assert bound(row, "membrane").worst == (-7 - 8 * 8 * 127, -7 + 8 * 8 * 127)


def test_what_a_firing_neuron_was_seen_to_hold_is_in_the_units_of_its_membrane() -> None:
    """The sums of codes with their zero points, in stored weights; at the window's end with the lift of the neuron, too."""
    weight = np.array([[5, -3]], np.int8)
    phase = Silence(UNSIGNED16, np.array([40]), np.array([-7]), 3)
    block, observer = read_block(weight, OFFSET, phase), RangeObserver()
    BlockExecutor(None, observer=observer).run(block, torch.tensor([[[4.0, -2.0], [-6.0, 1.0]]]), torch.arange(2), Cache())
    (row,) = block_ranges(block, 1, observer)
    sums = [5 * 4 + 3 * 2, -5 * 6 - 3]
    assert bound(row, "v").calibrated == (8 * (min(sums) + 8 * 2), 8 * (max(sums) + 8 * 2))
    assert bound(row, "membrane").calibrated == (8 * min(sums) - 7, 8 * max(sums) - 7)
    assert bound(row, "v").worst == (8 * (5 * -119 - 3 * 135), 8 * (5 * 135 + 3 * 119))
    too_wide = replace(phase, exponent=5)
    (row,) = block_ranges(read_block(weight, OFFSET, too_wide), 1)
    assert row.guarantee == UNFIT and bound(row, "stored weight").guarantee == UNFIT


def test_fired_codes_bring_no_messages() -> None:
    phase = Silence(UNSIGNED8, np.array([4, 4]), np.zeros(2, np.int64))
    first = Linear("first", "codes", "fired", np.eye(2, dtype=np.int8), 4, SIGNED, phase)
    second = Linear("second", "fired", "sums", np.array([[7, -8]], np.int8), 4, UNSIGNED8)
    block = Block("b", (Encode("e", "x", "codes", SIGNED, StaticStep(1.0)), first, second), "x", 2)
    row = block_ranges(block, 1)[1]
    assert bound(row, "payload").worst == (0, 0)
    assert bound(row, "v").worst == (-56, 49)


def test_attention_is_bounded_by_the_context(tmp_path: Path) -> None:
    recipe = replace(load_recipe("kirin-w4a4-8"), options=KirinOptions("offset", outliers=Outliers(0.1)))
    block = convert_model(random_checkpoint(tmp_path, "llama"), random_rows(CONFIGS["llama"]), recipe).blocks[0]
    rows = {row.segment: row for row in block_ranges(block, 4096)}
    assert rows["attn.score"].guarantee == PROVED
    mix = rows["attn.mix"]
    outliers, spikes = 409, 4096 - 409
    assert bound(mix, "v").worst[1] == 127 * (outliers * 255 + spikes * 15)
    assert mix.guarantee == UNFIT
    positions = int(mix.advice.split()[3])
    assert mix.advice.startswith("proved up to") and 1000 < positions < 4096
    for context, fits in ((positions, True), (positions + 1, False)):
        row = next(row for row in block_ranges(block, context) if row.segment == "attn.mix")
        assert (row.guarantee == PROVED) == fits
    assert isinstance(next(op for op in block.ops if op.name == "attn.mix"), Mix)
    assert bound(mix, "v").worst[1] > STATE_MAX


def test_bounds_as_plain_values() -> None:
    weight = np.array([[5, -3], [0, 0]], np.int8)
    block = read_block(weight, OFFSET)
    (row,) = block_ranges(block, 9, run(block, np.array([[4, -2], [-6, 1]])))
    values = row.to_dict()
    bounds = {entry.pop("quantity"): entry for entry in values.pop("bounds")}
    assert values == {
        "block": "b", "segment": "wide", "kind": "read", "neurons": 2, "context": 0, "guarantee": PROVED, "advice": "",
    }  # fmt: skip
    assert list(bounds) == ["stored weight", "payload", "u", "v", "membrane", "offset"]
    v = (5 * -119 - 3 * 135, 5 * 135 + 3 * 119)
    assert bounds["v"] == {
        "limit": [-STATE_MAX, STATE_MAX], "limit_name": "STATE_MAX", "any_codes": list(v), "worst": list(v),
        "calibrated": [5 * -6 - 3 + 2 * 8, 5 * 4 + 3 * 2 + 2 * 8], "neuron": 0,
        "margin_bits": math.log2(STATE_MAX / max(-v[0], v[1])), "guarantee": PROVED,
    }  # fmt: skip
    assert bounds["stored weight"]["limit"] == [-128, 127] and bounds["stored weight"]["worst"] == [-3, 5]
    assert (
        bounds["stored weight"]["limit_name"] == "WEIGHT_MIN..WEIGHT_MAX" and bounds["payload"]["limit_name"] == "MESSAGE_MAX"
    )
    assert bounds["payload"]["limit"] == [-MESSAGE_MAX, MESSAGE_MAX] and bounds["payload"]["worst"] == [-119, 135]
    assert bounds["offset"]["worst"] == [-8 * 2, 0] and bounds["membrane"]["worst"] == [-8 * 127, 8 * 127]
    assert bounds["membrane"]["calibrated"] == [-33, 26]
    (still,) = block_ranges(read_block(0 * weight, OFFSET), 1)
    assert bound(still, "v").to_dict()["margin_bits"] is None


def test_the_weakest_bound_is_that_of_its_segment() -> None:
    (row,) = block_ranges(read_block(np.array([[1, 1]], np.int8), OFFSET), 1)
    proved = row.bounds[0]
    calibrated = replace(proved, worst=(-999, 999), calibrated=(0, 1))
    unfit = replace(calibrated, calibrated=None)
    words = [replace(row, bounds=bounds).guarantee for bounds in ((proved,), (proved, calibrated), (calibrated, unfit, proved))]
    assert words == [PROVED, CALIBRATED, UNFIT]


def test_the_way_out_is_that_of_what_does_not_fit() -> None:
    fires = Silence(UNSIGNED16, np.array([40]), np.array([0]), 5)
    far = replace(OFFSET, code_min=0, code_max=STATE_MAX)
    wide = np.full((1, 8192), 127, np.int8)
    for weight, code, neuron, advice in (
        (np.array([[5, -3]], np.int8), OFFSET, fires, "use a recipe with 4-bit weights"),
        (wide, SIGNED, replace(fires, exponent=0), "lower the shift of its fire phase, or read its membranes out on the host"),
        (np.array([[2]], np.int8), far, READ_OUT, "use a recipe with fewer outliers, narrower messages or narrower weights"),
        (wide[:, :600], SIGNED, READ_OUT, "split its fan-in of 600 over 2 read segments"),
        (wide[:, :500], SIGNED, READ_OUT, ""),
    ):
        (row,) = block_ranges(read_block(weight, code, neuron), 1)
        assert row.advice == advice and (row.guarantee == PROVED) == (advice == "")


def test_a_model_is_bounded_for_its_longest_sequence_or_as_long_as_is_asked(tmp_path: Path) -> None:
    model = convert_model(random_checkpoint(tmp_path, "llama"), random_rows(CONFIGS["llama"]), load_recipe("kirin-w4a4-8"))
    for context, rows in ((64, model_ranges(model)), (5, model_ranges(model, context=5))):
        assert {row.context for row in rows} == {0, context}
        mix = next(row for row in rows if row.kind == "mix")
        assert bound(mix, "v").any_codes == (-127 * 255 * context, 127 * 255 * context)
        score = next(row for row in rows if row.kind == "score")
        assert score.neurons == 4 and len(score.worst["v"].low) == 1
