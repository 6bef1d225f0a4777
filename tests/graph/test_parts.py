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
from kirin_lava.graph.attention import mix_sums, one_head
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
from kirin_lava.spikes.codes import HALVES16, UNSIGNED16
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
