"""A split fan-in computes the same integers from membranes that are proved to fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.export.serial import block_from_json, block_to_json
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import BlockExecutor, Cache, Executor
from kirin_lava.graph.ops import Decode, Encode, Linear, Mix, Sum
from kirin_lava.hardware.bounds import Arrivals
from kirin_lava.hardware.ranges import PROVED, block_ranges
from kirin_lava.hardware.split import MOST_PARTS, cuts, make_provable, parts_needed, provable_part, split_block, split_linear
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.processes.runtime import run_job
from kirin_lava.quantize.convert import convert_model
from kirin_lava.spikes.codes import INTEGER8, OFFSET, SIGNED, UNSIGNED8, SpikeCode
from kirin_lava.spikes.neurons import Silence
from kirin_lava.spikes.steps import StaticStep, StepRule, TokenBudget
from tests.hardware.lava_jobs import run_linears
from tests.processes.blocks import llama_block
from tests.small_models import CONFIGS, random_checkpoint, random_rows


def wide_block(weight: np.ndarray, enc: SpikeCode = SIGNED, rule: StepRule = TokenBudget(0.1)) -> Block:  # noqa: B008
    ops = (
        Encode("encode", "x", "codes", enc, rule),
        Linear("wide", "codes", "sums", weight, 8, enc),
        Decode("decode", "sums", "codes", "y", np.ones(len(weight), np.float32), None),
    )
    return Block("b", ops, "y", weight.shape[1])


def result(block: Block, x: torch.Tensor) -> torch.Tensor:
    return BlockExecutor(None).run(block, x, torch.arange(x.shape[1]), Cache())


def test_a_layer_made_to_overflow_is_split_until_proved_and_stays_exact() -> None:
    """Weights at their limit, fan-in 8192, every code an outlier."""
    rng = np.random.default_rng(0)
    weight = np.full((2, 8192), 127, np.int8)
    weight[1] = rng.choice([-128, 127], 8192)
    block = wide_block(weight, rule=StaticStep(1.0))
    split, parts = make_provable(block, 1)
    assert parts == {"wide": 16}
    assert all(row.guarantee == PROVED for row in block_ranges(split, 1))
    x = torch.from_numpy(rng.choice([-127.0, 127.0], (1, 3, 8192))).float()
    x[0, 0] = 127.0
    expected = x.double() @ torch.from_numpy(weight).double().T
    assert float(expected.abs().max()) == 127 * 127 * 8192  # beyond the state, and beyond what float32 counts exactly
    with pytest.raises(FitError, match="24-bit state"):
        result(block, x)
    assert torch.equal(result(split, x), expected.float())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("beyond", "parts"), [(0, 1), (1, None)])
def test_what_one_message_reaches_fits_up_to_the_limit_of_the_state(sign: int, beyond: int, parts: int | None) -> None:
    """Rising or falling; one more than the limit no split can mend."""
    far = replace(INTEGER8, code_min=0, code_max=STATE_MAX + beyond)
    linear = Linear("wide", "codes", "sums", np.array([[sign, 0], [0, 0]], np.int8), 8, far)
    assert parts_needed(linear, Arrivals(far)) == parts


def test_what_cannot_be_cut_finely_enough_has_no_parts() -> None:
    """So many parts are allowed; with one input more in each it reaches too far."""
    most = STATE_MAX // (127 * 127)
    for inputs, parts in ((MOST_PARTS * most, MOST_PARTS), (MOST_PARTS * most + 1, None)):
        linear = Linear("wide", "codes", "sums", np.full((1, inputs), 127, np.int8), 4, INTEGER8)
        assert parts_needed(linear, Arrivals(INTEGER8)) == parts


@pytest.mark.parametrize("sign", [1, -1])
def test_what_reaches_far_on_one_side_alone_is_split(sign: int) -> None:
    """Codes that are never negative: all weights of one sign push the membrane to one side."""
    linear = Linear("wide", "codes", "sums", np.full((1, 3000), sign * 100, np.int8), 8, UNSIGNED8)
    seen = Arrivals(UNSIGNED8)
    whole = 3000 * 100 * UNSIGNED8.code_max
    parts = parts_needed(linear, seen)
    assert parts is not None and whole / parts <= STATE_MAX < whole / (parts - 1)
    assert parts == -(-whole // STATE_MAX) == 10


@pytest.mark.parametrize(("beyond", "part"), [(-4, None), (-3, 3), (-1, 2), (0, 1), (1, 0)])
def test_positions_are_shared_as_far_as_one_message_among_spikes_leaves_room(beyond: int, part: int | None) -> None:
    """A cached code of 127 times one probability fills a membrane; every spike beside it needs 7 of its room."""
    block = llama_block()
    mix = next(op for op in block.ops if isinstance(op, Mix))
    code = replace(UNSIGNED8, code_max=STATE_MAX // 127 + beyond * 7)
    assert provable_part(block, replace(mix, code=code), 5) == part
    assert provable_part(block, replace(mix, code=UNSIGNED8), 5) is None


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31), st.sampled_from([OFFSET, SIGNED]))
def test_any_split_gives_the_same(inputs: int, parts: int, seed: int, enc) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    parts = min(parts, inputs)
    block = wide_block(rng.integers(-128, 128, (3, inputs)).astype(np.int8), enc)
    x = torch.from_numpy(rng.standard_t(2, (2, 2, inputs))).float()
    split = split_block(block, {"wide": parts})
    assert sum(isinstance(op, Linear) for op in split.ops) == parts
    assert sum(isinstance(op, Sum) for op in split.ops) == parts - 1
    assert torch.equal(result(block, x), result(split, x))


@given(st.integers(1, 400), st.integers(1, 30))
def test_parts_cover_all_inputs_in_order(inputs: int, parts: int) -> None:
    linear = Linear("l", "a", "b", np.zeros((1, inputs), np.int8), 4, SIGNED)
    if parts > inputs:
        with pytest.raises(FitError, match="cannot be split"):
            cuts(linear, parts)
        return
    edges = cuts(linear, parts)
    assert edges[0][0] == 0 and edges[-1][1] == inputs
    assert all(a < b for a, b in edges)
    assert all(left[1] == right[0] for left, right in pairwise(edges))


def test_a_whole_model_split_gives_the_same_logits_and_counts(tmp_path: Path) -> None:
    """Outlier budgets belong to the whole token, whatever the parts."""
    recipe = load_recipe("kirin-w4a4-8")
    model = convert_model(random_checkpoint(tmp_path, "llama"), random_rows(CONFIGS["llama"]), recipe)
    names = {"attn.qkv": 2, "mlp.gate_up": 3, "mlp.down": 2}
    split = Model(
        model.embedding, tuple(split_block(b, names) for b in model.blocks), model.head, model.rotary, model.max_positions
    )
    tokens = torch.stack(random_rows(CONFIGS["llama"]))
    whole, parts = Counter(), Counter()
    assert torch.equal(Executor(model, observer=whole).forward(tokens), Executor(split, observer=parts).forward(tokens))
    for name in ("spikes", "outliers", "elements", "synaptic_adds", "macs", "dense_macs"):
        assert parts.result().total()[name] == whole.result().total()[name]
    assert all(row.guarantee == PROVED for b in split.blocks for row in block_ranges(b, 64))


def test_a_split_block_is_written_and_read_back() -> None:
    block = split_block(wide_block(np.arange(-8, 8, dtype=np.int8).reshape(2, 8)), {"wide": 3})
    values, arrays = block_to_json(block, lambda op: f"{op.name}.net")
    linears = {f"{op.name}.net": op for op in block.linears()}
    again = block_from_json(values, arrays, lambda name: linears[name], 8)
    assert [type(op) for op in again.ops] == [type(op) for op in block.ops]
    x = torch.arange(8.0).view(1, 1, 8)
    assert torch.equal(result(block, x), result(again, x))


def test_what_fires_is_not_split() -> None:
    phase = Silence(UNSIGNED8, np.array([4]), np.zeros(1, np.int64))
    with pytest.raises(FitError, match="cannot be split"):
        split_linear(Linear("fc1", "a", "b", np.ones((1, 4), np.int8), 4, SIGNED, phase), 2)


@pytest.mark.lava
@pytest.mark.slow
def test_on_lava_a_layer_made_to_overflow_raises_and_its_parts_are_exact() -> None:
    """Fan-in 8192, weights and codes at their limits: whole it is refused, its sixteen parts add up."""
    rng = np.random.default_rng(0)
    weight = np.full((2, 8192), 127, np.int8)
    weight[1] = rng.choice([-128, 127], 8192)
    codes = np.stack([np.full(8192, 127), rng.choice([-127, 127], 8192)])
    block = wide_block(weight, rule=StaticStep(1.0))
    whole = next(block.linears())
    with pytest.raises(FitError, match="24-bit state"):
        run_job(run_linears, [(whole, codes)], timeout=300)
    split, parts = make_provable(block, 1)
    edges = cuts(whole, parts["wide"])
    work = [(op, codes[:, start:stop]) for op, (start, stop) in zip(split.linears(), edges, strict=True)]
    total = np.sum(run_job(run_linears, work, timeout=300), axis=0)
    assert np.array_equal(total, codes @ weight.T.astype(np.int64)) and int(total.max()) > 15 * STATE_MAX
