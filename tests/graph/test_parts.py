"""Probabilities times values in parts of the positions: the same integers, from membranes that fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.export.serial import block_from_json, block_to_json
from kirin_lava.graph.attention import all_score_sums, mix_sums, one_head, score_sums
from kirin_lava.graph.block import Block
from kirin_lava.graph.cache import Cache
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import BlockExecutor, Executor
from kirin_lava.graph.ops import Decode, Mix, Score, synapses_of
from kirin_lava.graph.parts import sums_by_part
from kirin_lava.graph.stages import phases_of
from kirin_lava.graph.values import Codes
from kirin_lava.hardware.shapes import shape_of_model
from kirin_lava.hardware.work import measured_work
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.quantize.convert import convert_model
from kirin_lava.spikes.codes import HALVES16, INTEGER8, UNSIGNED16, SpikeCode, planes, signed
from tests.processes.blocks import llama_block, rotary_tables
from tests.processes.blocks import tokens as block_tokens
from tests.small_models import CONFIGS, random_checkpoint, random_rows

HEADS, KV_HEADS, WIDTH = 4, 2, 3


def split(block: Block, part: int | None) -> Block:
    """The block with its `Mix` in parts."""
    ops = tuple(replace(op, part=part) if isinstance(op, Mix) else op for op in block.ops)
    return Block(block.name, ops, block.output, block.width)


def mix(part: int | None) -> Mix:
    return Mix("mix", "p", "v", "mixed", HEADS, KV_HEADS, UNSIGNED16, part)


@pytest.mark.parametrize(("part", "parts"), [(None, 1), (1, 7), (3, 3), (7, 1), (9, 1)])
def test_each_part_sums_its_own_positions(part: int | None, parts: int) -> None:
    rng = np.random.default_rng(0)
    codes, cached = rng.integers(0, 256, (2, HEADS, 5, 7)), rng.integers(-127, 128, (2, KV_HEADS, 7, WIDTH))
    found = sums_by_part(mix(part), torch.from_numpy(codes), torch.from_numpy(cached)).numpy()
    assert mix(part).parts(7) == len(found) == parts
    repeated = cached.repeat(HEADS // KV_HEADS, axis=1)
    for i, sums in enumerate(found):
        few = slice(i * (part or 7), (i + 1) * (part or 7))
        expected = np.einsum("bhlj,bhjd->blhd", codes[..., few], repeated[:, :, few])
        assert np.array_equal(sums, expected.reshape(2, 5, -1))


@pytest.mark.parametrize("changed", ["scale", "bias"])
def test_an_attention_whose_heads_differ_is_not_computed_by_head(changed: str) -> None:
    block = llama_block()
    stage = next(stage for phase in phases_of(block) for stage in phase.stages if isinstance(stage[0], Score))
    assert one_head(stage) is not None
    last = stage[-1]
    assert isinstance(last, Decode)
    ones = np.ones(64, np.float32)
    other = replace(last, scale=ones) if changed == "scale" else replace(last, bias=ones)
    assert one_head((*stage[:-1], other)) is None


def runmix_sums(part: int | None, positions: int) -> Tensor:
    """The last token's sums, all codes as large as they come."""
    op = Mix("mix", "p", "v", "mixed", 1, 1, UNSIGNED16, part)
    codes = Codes(torch.full((1, 1, 1, positions), 255.0), torch.ones(1, 1, 1))
    return mix_sums(op, codes, torch.full((1, 1, 2, positions), 127.0))


def test_the_whole_may_pass_the_state_but_no_part_of_it() -> None:
    fits = STATE_MAX // (255 * 127)
    assert runmix_sums(None, fits).tolist() == [[[fits * 255 * 127] * 2]]
    with pytest.raises(FitError, match=r"mix: a membrane reaches .*24-bit state"):
        runmix_sums(None, fits + 1)
    assert runmix_sums(fits, 10 * fits).tolist() == [[[10 * fits * 255 * 127] * 2]]
    with pytest.raises(FitError, match="mix: a membrane reaches"):
        runmix_sums(fits + 1, 10 * fits)


def test_a_split_block_gives_the_same_bits_and_is_written_and_read_back() -> None:
    whole, x = llama_block(), torch.from_numpy(block_tokens(1, 9))[None]
    block = split(whole, 2)
    values, arrays = block_to_json(block, lambda op: f"{op.name}.net")
    entry = next(op for op in values["ops"] if op["kind"] == "Mix")
    assert entry["part"] == 2
    assert "part" not in next(op for op in block_to_json(whole, lambda op: "")[0]["ops"] if op["kind"] == "Mix")
    linears = {f"{op.name}.net": op for op in block.linears()}
    again = block_from_json(values, arrays, lambda name: linears[name], 12)
    assert next(op.part for op in again.ops if isinstance(op, Mix)) == 2
    results = [BlockExecutor(rotary_tables()).run(b, x, torch.arange(9), Cache()) for b in (whole, block, again)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    entry["part"] = 0
    with pytest.raises(UsageError, match="positions of a part is 0"):
        block_from_json(values, arrays, lambda name: linears[name], 12).check("here")


def test_a_split_model_counts_its_neurons_and_additions(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = convert_model(random_checkpoint(tmp_path, "llama"), random_rows(CONFIGS["llama"]), load_recipe("fast"))
    parted = replace(model, blocks=tuple(split(block, 5) for block in model.blocks))
    text = torch.stack(random_rows(CONFIGS["llama"], rows=1, length=12))
    whole, parts = Counter(), Counter()
    assert torch.equal(Executor(model, observer=whole).forward(text), Executor(parted, observer=parts).forward(text))
    seen = [1] * 5 + [2] * 5 + [3] * 2  # parts of the tokens at positions 0..11
    before, after = (next(row for row in c.result().core if row.kind == "mix") for c in (whole, parts))
    assert before.neurons == before.readouts == 12 * 32 and after.neurons == after.readouts == sum(seen) * 32
    assert replace(after, neurons=before.neurons, readouts=before.readouts, neuron_updates=before.neuron_updates) == before
    added = next(row for row in parts.result().host if row.op == "attn.mix.sum")
    assert added.float_operations == (sum(seen) - 12) * 32
    work = measured_work(parts.result(), shape_of_model(parted))
    assert next(row.parts for row in work.segments if row.kind == "mix") == sum(seen) / 12
    assert not [row for row in whole.result().host if row.op == "attn.mix.sum"]


@pytest.mark.parametrize(("largest", "synapses"), [
    (127, (127,)), (128, (1, 128)), (383, (1, 128)), (384, (2, 128)), (25_727, (100, 128)), (25_728, (101, 128)),
])  # fmt: skip
def test_digits_of_a_cached_code_reach_as_far_as_it_does(largest: int, synapses: tuple[int, ...]) -> None:
    """In base 256 with a low digit of -128 to 127."""
    assert synapses_of(replace(HALVES16, code_min=-largest, code_max=largest)) == synapses


@pytest.mark.parametrize("kept", [INTEGER8, HALVES16], ids=lambda code: code.name)
@pytest.mark.parametrize("code", [signed(8, 8), planes(8, 4)], ids=lambda code: code.name)
@pytest.mark.parametrize(("length", "columns"), [(1, 9), (2, 9), (4, 4)])
def test_products_of_an_attention_equal_integers(code: SpikeCode, kept: SpikeCode, length: int, columns: int) -> None:
    """Codes and cached codes at their ends, so that sums are odd and beyond what float32 counts."""
    rng, width = np.random.default_rng(length), 65
    query = rng.choice([code.code_min, code.code_max, 5], (2, length, HEADS * width))
    cached = rng.choice([-kept.largest, kept.largest, 1], (2, KV_HEADS, width, columns))
    if not (code.by_plane or kept is HALVES16):
        query[..., ::2] = 0  # their sums are held by one membrane
    heads = query.reshape(2, length, HEADS, width).transpose(0, 2, 1, 3)
    expected = heads @ cached.repeat(HEADS // KV_HEADS, 1)
    op = Score("score", "q", "k", "y", HEADS, KV_HEADS, code)
    given = Codes(torch.from_numpy(query).float(), torch.ones(2, length, HEADS))
    keys = torch.from_numpy(cached).float()
    assert np.array_equal(all_score_sums(op, given, keys, kept).numpy(), expected)
    for i in range(length):
        expected[:, :, i, columns - length + i + 1 :] = 0
    assert np.array_equal(score_sums(op, given, keys, kept).numpy(), expected)


@pytest.mark.parametrize("kept", [INTEGER8, HALVES16], ids=lambda code: code.name)
def test_values_are_mixed_exactly(kept: SpikeCode) -> None:
    rng, columns, length = np.random.default_rng(0), 700, 3
    codes = rng.integers(0, 256, (2, HEADS, length, columns))
    codes[0, 0, 0] = 0
    codes[0, 0, 0, :2] = 255, 3
    cached = rng.choice([-kept.largest, kept.largest, 1], (2, KV_HEADS, 5, columns))
    expected = np.einsum("bhlj,bhdj->blhd", codes, cached.repeat(HEADS // KV_HEADS, 1)).reshape(2, length, -1)
    given = Codes(torch.from_numpy(codes).float(), torch.ones(2, length, HEADS))
    op = mix(None if kept is INTEGER8 else 200)  # of more positions halves fill a membrane
    assert np.array_equal(mix_sums(op, given, torch.from_numpy(cached).float(), kept).numpy(), expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_score_beyond_the_state_is_found_where_one_membrane_holds_it(sign: int) -> None:
    op = Score("score", "q", "k", "y", 1, 1, signed(8, 16))
    keys = torch.full((1, 1, 3, 1), 127.0)
    for last in (517, 519):  # 127 * 66,051 fits
        query = Codes(sign * torch.tensor([[[32767.0, 32767.0, last]]]), torch.ones(1, 1, 1))
        if last == 517:
            assert all_score_sums(op, query, keys).item() == sign * 127 * (2 * 32767 + last)
            continue
        with pytest.raises(FitError, match=r"score: .*beyond the 24-bit state"):
            all_score_sums(op, query, keys)


def test_planes_over_more_positions_than_a_step_may_sum_are_refused() -> None:
    code, most = planes(8, 0), STATE_MAX // 127
    op = Mix("mix", "p", "v", "mixed", 1, 1, code)
    for positions, part, fits in (
        (most, None, True),
        (most + 1, None, False),
        (most + 1, most, True),
        (most + 2, most + 1, False),
    ):
        codes = Codes(torch.zeros(1, 1, 1, positions), torch.ones(1, 1, 1))
        cached = torch.zeros(1, 1, 1, positions)
        if fits:
            assert not mix_sums(replace(op, part=part), codes, cached).any()
            continue
        with pytest.raises(FitError, match=f"mix: sums over {part or positions} positions are not proved to fit"):
            mix_sums(replace(op, part=part), codes, cached)
