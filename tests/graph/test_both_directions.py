"""Blocks that are not causal: every token attends to the whole sequence, in any pieces, on any number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.export.serial import block_from_json, block_to_json
from kirin_lava.graph.block import Block
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import BlockExecutor, Cache, Observer, cached_name
from kirin_lava.graph.ops import Linear, Mix, Op, Score
from kirin_lava.graph.values import Codes, Value
from kirin_lava.models import float_model
from kirin_lava.models.float_model import Arithmetic
from kirin_lava.models.layout import Attention, FloatBlock
from kirin_lava.processes.pipeline import plan_block
from kirin_lava.spikes.codes import OFFSET, SIGNED, UNSIGNED16
from kirin_lava.spikes.steps import RowBudget, message_budget
from tests.processes.blocks import HEADS, KV_HEADS, integer_form, integer_tables, llama_block, opt_block, rotary_tables, tokens

BOTH = {
    "llama": replace(llama_block(OFFSET), causal=False),
    "opt": replace(opt_block(SIGNED), causal=False),
}
LENGTH = 9


def run(block: Block, x: np.ndarray, observer: Observer | None = None) -> Tensor:
    tables = rotary_tables() if block.fraction is None else integer_tables()
    executor = BlockExecutor(tables, observer=observer)
    return executor.run(block, torch.from_numpy(x)[None], torch.arange(len(x)), Cache())


def seen(block: Block, x: np.ndarray) -> dict[str, Tensor]:
    """Integers of every value, and cached codes."""
    found: dict[str, Tensor] = {}

    def watch(_: Block, op: Op, values: dict[str, Value]) -> None:
        value = values[op.output]
        found[op.output] = value.q if isinstance(value, Codes) else value
        if isinstance(op, (Score, Mix)):
            cached = values[cached_name(op.cache)]
            assert isinstance(cached, Tensor)
            found[op.cache] = cached

    run(block, x, watch)
    return found


def test_sums_are_those_of_all_positions() -> None:
    found = seen(BOTH["llama"], tokens(1, LENGTH))
    query = found["q.codes"].view(1, LENGTH, HEADS, -1).double()
    key = found["k.codes"].repeat_interleave(HEADS // KV_HEADS, 1).double()
    assert torch.equal(found["scores"].double(), torch.einsum("blhd,bhjd->bhlj", query, key))
    assert bool((found["p.codes"] != 0).any(-1).all()) and int((found["p.codes"].triu(1) != 0).sum()) > 20
    value = found["v.codes"].repeat_interleave(HEADS // KV_HEADS, 1).double()
    mixed = torch.einsum("bhlj,bhjd->blhd", found["p.codes"].double(), value).flatten(2)
    assert torch.equal(found["mixed"].double(), mixed)


@pytest.mark.parametrize("name", BOTH)
def test_the_first_token_depends_on_the_last(name: str) -> None:
    x = tokens(2, LENGTH)
    other = x.copy()
    other[-1] *= -1
    first, second = run(BOTH[name], x), run(BOTH[name], other)
    assert not torch.equal(first[:, 0], second[:, 0])
    causal = replace(BOTH[name], causal=True)
    assert torch.equal(run(causal, x)[:, 0], run(causal, other)[:, 0])


def test_the_last_token_of_a_causal_block_sees_the_same() -> None:
    """Its row of scores, and the codes of its probabilities, are those of a block in both directions."""
    x = tokens(3, LENGTH)
    both, causal = seen(BOTH["llama"], x), seen(replace(BOTH["llama"], causal=True), x)
    for name in ("scores", "p", "p.codes"):
        assert torch.equal(both[name][:, :, -1], causal[name][:, :, -1])
    assert torch.equal(both["mixed"][:, -1], causal["mixed"][:, -1])


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", BOTH)
def test_pieces_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of tokens, in parts of an attention, head by head: the same bits as all at once."""
    x = tokens(4, 30)
    for block in (BOTH[name], integer_form(BOTH[name], x)[0]):
        inputs = x if block.fraction is None else integer_form(BOTH[name], x)[1]
        whole = run(block, inputs, lambda *_: None)
        monkeypatch.setattr("kirin_lava.graph.executor._PIECE", 8)
        monkeypatch.setattr("kirin_lava.graph.executor._FEW_TOKENS", 2)
        monkeypatch.setattr("kirin_lava.graph.attention._ATTENTION_ELEMENTS", 64)
        monkeypatch.setattr("kirin_lava.graph.attention._ATTENTION_ROWS", 2)
        assert torch.equal(run(block, inputs), whole)
        monkeypatch.undo()


def test_a_sequence_is_taken_at_once() -> None:
    x = torch.from_numpy(tokens(5, 4))[None]
    executor, cache = BlockExecutor(rotary_tables()), Cache()
    executor.run(BOTH["llama"], x, torch.arange(4), cache)
    with pytest.raises(UsageError, match="llama is not causal: it takes a sequence at once, not from position 4 on"):
        executor.run(BOTH["llama"], x, torch.arange(4, 8), cache)


@pytest.mark.parametrize("start", [None, 7])
def test_the_budget_of_a_row_counts_what_it_sees(start: int | None) -> None:
    """Of 8 positions a ratio of 0.25 lets two be messages: for every row, or for the last one of a causal prompt."""
    x = torch.tensor([[[[8.0, 4, 2, 1, 1, 1, 1, 1]] * (3 if start is None else 1)]])
    codes = RowBudget(0.25).encode(UNSIGNED16, x, 1, start, "p", True)
    assert message_budget(0.25, 8) == 2
    scale = codes.step[0, :, 0]
    assert torch.equal(scale, torch.full_like(scale, float(scale[0])))
    assert float(scale[0]) == float(RowBudget(0.25).encode(UNSIGNED16, x[:, :, -1:], 1, 7, "p", True).step.squeeze())


def test_counts_are_those_of_all_positions() -> None:
    counter, block = Counter(), BOTH["llama"]
    run(block, tokens(6, LENGTH), counter)
    causal = Counter()
    run(replace(block, causal=True), tokens(6, LENGTH), causal)
    rows, before = ({row.op: row for row in c.result().core} for c in (counter, causal))
    assert rows["score"].neurons == HEADS * LENGTH**2 and before["score"].neurons == HEADS * LENGTH * (LENGTH + 1) // 2
    assert rows["mix"].elements == HEADS * LENGTH**2 and rows["mix"].dense_macs == rows["score"].dense_macs
    assert rows["qkv"] == before["qkv"]
    found = seen(block, tokens(6, LENGTH))
    existing = (found["k.codes"] != 0).sum(2).double().repeat_interleave(HEADS // KV_HEADS, 1)
    q = found["q.codes"].view(1, LENGTH, HEADS, -1)
    adds = (OFFSET.spike_count(q) * existing[:, None]).sum()
    assert rows["score"].synaptic_adds == int(adds) > before["score"].synaptic_adds
    p = next(row for row in counter.result().codes if row.value == "p.codes")
    assert p.elements == sum(p.histogram.values()) == HEADS * LENGTH**2


def test_a_file_says_it() -> None:
    nets = {op.name: op for op in BOTH["llama"].linears()}
    for causal in (True, False):
        block = replace(BOTH["llama"], causal=causal)
        values, arrays = block_to_json(block, lambda op: op.name)
        assert values.get("causal", "not written") == ("not written" if causal else False)
        read = block_from_json(values, arrays, nets.__getitem__, block.width)
        assert read.causal is causal
        values["causal"] = 1
        with pytest.raises(UsageError, match="causal: expected bool, found int"):
            block_from_json(values, arrays, nets.__getitem__, block.width)


def test_float_attention_looks_both_ways() -> None:
    """The library's kernel and the form that is watched agree."""
    op = Attention("attn", "x", "x", "x", "y", 2, 2, 4, causal=False)

    class Watched(Arithmetic):
        watches_attention = True

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 8, generator=generator)
    block = FloatBlock("b", (op,), "y")
    assert not block.causal
    plain, watched = (float_model.run_block(block, x, arithmetic=a) for a in (float_model.FLOAT, Watched()))
    torch.testing.assert_close(plain, watched)
    heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
    expected = (heads @ heads.transpose(-1, -2) / 2).softmax(-1) @ heads
    torch.testing.assert_close(plain, expected.transpose(1, 2).flatten(2))
    mixed = FloatBlock("b", (op, replace(op, name="other", output="z", causal=True)), "z")
    with pytest.raises(UnsupportedError, match="causal attention beside one that is not"):
        _ = mixed.causal


def test_the_plan_of_a_sequence() -> None:
    plan = plan_block(BOTH["llama"], 9)
    assert [stage.index for stage in plan.stages if stage.holds] == [1]
    assert [plan.wait(index, 5) for index in range(4)] == [0, 5, 5, 5]
    assert not any(stage.holds for stage in plan_block(llama_block(), 9).stages)
    block = BOTH["llama"]
    ops = list(block.ops)
    late = [op for op in ops if op.name == "v.encode"]
    ops.remove(late[0])
    ops.insert(next(i for i, op in enumerate(ops) if isinstance(op, Score)) + 1, late[0])
    with pytest.raises(UnsupportedError, match="score attends to the whole sequence; its values must be there"):
        plan_block(replace(block, ops=tuple(ops)), 9)
    assert all(isinstance(op, Linear) for op in block.linears())
