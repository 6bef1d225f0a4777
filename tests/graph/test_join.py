"""Parts of a fan-in in one product: the same bits, and only where no state could have overflowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.block import Block
from kirin_lava.graph.executor import BlockExecutor, Cache, Executor
from kirin_lava.graph.join import Joined, join_parts
from kirin_lava.graph.ops import Add, Decode, Encode, Linear, Op, Slice, Sum
from kirin_lava.hardware.split import split_block
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.quantize.convert import convert_model
from kirin_lava.spikes.codes import SpikeCode, code_named
from kirin_lava.spikes.steps import TokenBudget
from tests.small_models import CONFIGS, random_checkpoint, random_rows

CODES = [code_named(name) for name in ("signed", "signed-m12", "signed-16-m16", "offset-m16")]
OUTPUTS, INPUTS = 7, 600


def block_of(code: SpikeCode, parts: int = 5, seed: int = 0, low: int = -128) -> Block:
    """One segment, split, between a door in and a door out."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(low, 128, (OUTPUTS, INPUTS)).astype(np.int8)
    scale, bias = rng.random(OUTPUTS).astype(np.float32), rng.random(OUTPUTS).astype(np.float32)
    ops = (
        Encode("encode", "x", "codes", code, TokenBudget(0.5)),
        Linear("dense", "codes", "sums", weight, 8, code),
        Decode("decode", "sums", "codes", "y", scale, bias),
    )
    return split_block(Block("b", ops, "y", INPUTS), {"dense": parts})


class Ignore:
    def __call__(self, block: Block, op: Op, values: dict[str, Any]) -> None:
        pass


def both(block: Block, x: torch.Tensor) -> list[torch.Tensor]:
    """Joined, and part by part as an observer sees it."""
    return [BlockExecutor(None, observer=o).run(block, x, torch.arange(x.shape[1]), Cache()) for o in (None, Ignore())]


@pytest.mark.parametrize("code", CODES, ids=[code.name for code in CODES])
@pytest.mark.parametrize("low", [-128, 100])
@pytest.mark.parametrize("length", [1, 20])
def test_the_result_is_that_of_the_parts(code: SpikeCode, low: int, length: int) -> None:
    """Also where the whole sum is far beyond 2^24, as with weights from 100 up."""
    x = torch.rand(1, length, INPUTS, generator=torch.Generator().manual_seed(1))
    x[..., ::2] += 300.0  # messages
    block = block_of(code, 300 if code.largest > 10_000 else 20, low=low)
    joined = [op for op in join_parts(block).ops if isinstance(op, Linear)]
    assert len(joined) == 1 and isinstance(joined[0], Joined) and joined[0].weight.shape == (OUTPUTS, INPUTS)
    assert torch.equal(*both(block, x))
    if low == 100 and code.largest > 1000:
        with pytest.raises(FitError, match=r"dense: a membrane reaches .* beyond the 24-bit state"):
            both(block_of(code, 1, low=low), x)


def test_parts_that_could_overflow_stay_and_are_watched() -> None:
    code = code_named("signed-16-m16")
    block = block_of(code, 2, low=100)
    assert join_parts(block).ops == block.ops
    with pytest.raises(FitError, match=r"dense.part0: a membrane reaches .* beyond the 24-bit state"):
        both(block, torch.tensor([300.0, 1.0]).repeat(INPUTS // 2)[None, None])


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
def test_a_part_that_messages_within_their_budget_cannot_overflow_is_joined(ratio: float) -> None:
    """The most that a part can reach, tried: its largest weights meet the largest messages, as many as there may be."""
    code = code_named("signed-m12")
    whole = block_of(code, 1)
    budget = max(1, int(ratio * INPUTS))
    encode = replace(whole.ops[0], rule=TokenBudget(ratio))  # type: ignore[type-var]
    for parts in range(2, 100):
        block = split_block(replace(whole, ops=(encode, *whole.ops[1:])), {"dense": parts})
        joined = len(join_parts(block).ops) == 3
        most = 0
        for op in block.linears():
            size = np.sort(np.abs(op.weight.astype(np.int64)), 1)
            codes = np.full(size.shape[1], 7)
            codes[max(0, len(codes) - budget) :] = 2047
            most = max(most, int((size @ codes).max()))
        assert joined == (most <= STATE_MAX)
        if joined:
            return
    raise AssertionError("never joined")


def changed(block: Block, index: int, **changes: Any) -> Block:
    ops = list(block.ops)
    ops[index] = replace(ops[index], **changes)  # type: ignore[type-var]
    return replace(block, ops=tuple(ops))


def test_what_is_no_fan_in_in_parts_stays() -> None:
    block = block_of(CODES[0], 3)
    kinds = [type(op) for op in block.ops]
    assert kinds == [Encode, Slice, Linear, Slice, Linear, Sum, Slice, Linear, Sum, Decode]
    assert len(join_parts(block).ops) == 3
    odd = [
        changed(block, 3, start=100, stop=300),  # a range twice, another one never
        changed(block, 8, other="dense.part1.sums"),  # one part twice
        replace(block, ops=(*block.ops[:-1], replace(block.ops[-1], input="dense.part1.total"))),  # type: ignore[type-var]
        replace(block, ops=(*block.ops, Decode("more", "dense.part0.sums", "codes", "z", None, None))),
        replace(block, ops=(*block.ops, Add("more", "y", "y", "z"), Decode("again", "sums", "codes", "w", None, None))),
    ]
    for other in odd:
        assert join_parts(other).ops == other.ops


def test_a_model_with_wide_messages_gives_the_same_logits(tmp_path: Path) -> None:
    recipe = load_recipe("fast")
    model = convert_model(random_checkpoint(tmp_path, "llama"), random_rows(CONFIGS["llama"]), recipe)
    blocks = tuple(split_block(block, {op.name: 3 for op in block.linears()}) for block in model.blocks)
    tokens = torch.stack(random_rows(CONFIGS["llama"], length=9))
    expected = Executor(model).forward(tokens)
    for observer in (None, Ignore()):
        assert torch.equal(Executor(replace(model, blocks=blocks), observer=observer).forward(tokens), expected)
