"""A decoder block on Lava: every integer at every port is the executor's, in one go, in parts and token by token."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import FitError, UnsupportedError, UsageError
from kirin_lava.graph.block import Block
from kirin_lava.graph.executor import BlockExecutor, Cache, cached_name
from kirin_lava.graph.ops import Encode, Linear, Mix, Op, Score
from kirin_lava.graph.parts import sums_by_part
from kirin_lava.graph.values import Codes, Float32, Value, codes_in, tensor_in
from kirin_lava.hardware.split import split_block
from kirin_lava.processes.pipeline import plan_block
from kirin_lava.processes.runs import BlockRun
from kirin_lava.processes.runtime import Session, run_job
from kirin_lava.spikes.codes import INTEGER8, OFFSET, SIGNED, signed
from kirin_lava.spikes.steps import StaticStep
from tests.processes.blocks import WIDTH, head_block, llama_block, opt_block, rotary_tables, tokens
from tests.processes.jobs import open_block, run_block, run_blocks

TOKENS = 7


def executor_integers(block: Block, x: Float32) -> tuple[Float32, dict[str, np.ndarray]]:
    """The block's result, and the integers at the ports of its core operations, tokens first."""
    seen: dict[str, np.ndarray] = {}

    def watch(_: Block, op: Op, values: dict[str, Value]) -> None:
        value = values[op.output]
        tensor = value.q if isinstance(value, Codes) else value
        seen[op.output] = (tensor.transpose(1, 2) if tensor.dim() == 4 else tensor)[0].numpy().astype(np.int64)
        if isinstance(op, Mix):  # every part by itself
            parts = sums_by_part(op, codes_in(values, op.input).q, tensor_in(values, cached_name(op.cache)))
            seen[op.output] = parts[:, 0].transpose(0, 1).flatten(1).numpy().astype(np.int64)

    y = BlockExecutor(rotary_tables(), observer=watch).run(block, torch.from_numpy(x)[None], torch.arange(len(x)), Cache())
    return y[0].numpy(), seen


def assert_equals_executor(block: Block, x: Float32, runs: list[BlockRun]) -> None:
    """Results bit for bit, every port of every core operation, and the counts of spikes and outliers."""
    expected, integers = executor_integers(block, x)
    at = 0
    for run in runs:
        stop = at + len(run.result)
        np.testing.assert_array_equal(run.result.view(np.int32), expected[at:stop].view(np.int32))
        for op in block.core_ops():
            caches = [op.cache] if isinstance(op, (Score, Mix)) else []
            for name in [op.input, op.output, *caches]:
                right = integers[name][at:stop]
                got = run.integers[name]
                np.testing.assert_array_equal(got, right[..., :stop] if got.ndim == 3 else right, err_msg=name)
            codes = run.integers[op.input]
            outliers = int(op.code.is_message(codes).sum())
            assert run.outliers[op.name] == outliers
            # codes of positions that are not there yet are silent, so they do not count
            assert run.spikes[op.name] == codes.size - outliers - int(op.code.is_silent(codes).sum())
        at = stop
    assert at == len(x)


def in_parts(block: Block, part: int) -> Block:
    """The block with its probabilities times values split, so many positions in a part."""
    ops = tuple(replace(op, part=part) if isinstance(op, Mix) else op for op in block.ops)
    return Block(block.name, ops, block.output, block.width)


SIGNED_CODES = [OFFSET, SIGNED, signed(16, 12), INTEGER8]
PARTS = [[TOKENS], [4, 1, 2], [1, 1, 1], [3, 4]]
CASES = {
    **{f"llama-{code.name}": (llama_block(code), parts) for code, parts in zip(SIGNED_CODES, cycle(PARTS))},
    **{f"opt-{code.name}": (opt_block(code), parts) for code, parts in zip(SIGNED_CODES, cycle(PARTS[1:]))},
    "relu-on-the-host": (opt_block(OFFSET, fires=False), [1, 1, 1]),
    "split": (split_block(llama_block(SIGNED), {"down": 3, "qkv": 2}), [3, 1]),
    "split-positions": (in_parts(llama_block(SIGNED), 2), [3, 2, 2]),
    "head": (head_block(), [2, 2]),
    "both-directions": (replace(llama_block(OFFSET), causal=False), [TOKENS]),
    "both-directions-opt": (replace(opt_block(SIGNED), causal=False), [5]),
    "both-directions-integers": (replace(llama_block(INTEGER8), causal=False), [4]),
    "both-directions-split": (replace(in_parts(llama_block(SIGNED), 2), causal=False), [5]),
}


@pytest.fixture(scope="module")
def all_runs() -> dict[str, list[BlockRun]]:
    """Every case on Lava, in one job."""
    work = [(block, tokens(1, sum(parts)), parts) for block, parts in CASES.values()]
    return dict(zip(CASES, run_job(run_blocks, work, rotary_tables(), timeout=600), strict=True))


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_port_equals_the_executor(name: str, all_runs: dict[str, list[BlockRun]]) -> None:
    block, parts = CASES[name]
    assert_equals_executor(block, tokens(1, sum(parts)), all_runs[name])


@pytest.mark.lava
def test_a_second_sequence_knows_nothing_of_the_first() -> None:
    block, x = llama_block(), tokens(2, 5)
    first, second = run_job(run_block, block, x, 6, rotary_tables(), [5], 3, timeout=300)
    assert_equals_executor(block, x, [first])
    assert_equals_executor(block, x[:3], [second])


@pytest.mark.lava
def test_a_block_that_is_not_causal_takes_one_sequence_after_the_other() -> None:
    block, x = replace(llama_block(), causal=False), tokens(2, 5)
    first, second = run_job(run_block, block, x, 6, rotary_tables(), [5], 3, timeout=300)
    assert_equals_executor(block, x, [first])
    assert_equals_executor(block, x[:3], [second])


@pytest.mark.lava
def test_live_network_refuses_what_does_not_fit_and_goes_on() -> None:
    block, x = llama_block(), tokens(3, 4)
    with Session(open_block, block, 3, rotary_tables(), timeout=300) as session:
        first = session.call("run", x[:2])
        with pytest.raises(UsageError, match="4 positions do not fit a network built for 3"):
            session.call("run", x[2:])
        third = session.call("run", x[2:3])
        assert len(session.call("run", x[:0]).result) == 0
    assert_equals_executor(block, x[:3], [first, third])


@pytest.mark.lava
def test_broken_input_and_overflow_are_raised_by_name() -> None:
    broken = tokens(4, 2)
    broken[1, 3] = np.nan
    with pytest.raises(FitError, match="NaN or infinite"):
        run_job(run_block, head_block(), broken, 2, None, [2], timeout=300)

    wide = replace(SIGNED, code_max=2**22)
    ops = [replace(op, code=wide) if isinstance(op, (Encode, Linear)) else op for op in head_block().ops]
    ops = [replace(op, rule=StaticStep(1e-6)) if isinstance(op, Encode) else op for op in ops]
    heavy = Block("heavy", tuple(ops), "logits", WIDTH)
    with pytest.raises(FitError, match=r"logits: neuron \d+ reaches -?\d+ in step \d+, beyond the 24-bit state"):
        run_job(run_block, heavy, tokens(4, 2), 2, None, [2], timeout=300)


def test_plan_of_a_llama_block() -> None:
    plan = plan_block(llama_block(), 9)
    assert [core.name for core in plan.cores] == ["qkv", "score", "mix", "o", "gate_up", "down"]
    assert [stage.index for stage in plan.stages] == [0, 1, 2, 3, 4, 5, 6]
    assert [stage.row for stage in plan.stages] == [None, "k.codes", "v.codes", None, None, None, None]
    freight = {stage.index: {item.name: item.kind for item in stage.arrives} for stage in plan.stages}
    assert freight[1] == {"x": "real", "qkv.in": "steps"}
    assert freight[2] == {"x": "real", "q.codes": "steps", "k.codes": "steps", "v.codes": "codes"}
    assert freight[5] == {"middle": "real", "gate_up.in": "steps"}
    assert plan.widths["scores"] == plan.widths["p.codes"] == 4 * 9
    assert plan.latency == 6 and plan.period == 8


def test_neurons_that_fire_leave_out_a_host_stage() -> None:
    plan = plan_block(opt_block(OFFSET), 4)
    names = [core.name for core in plan.cores]
    skipped = names.index("fc2")
    assert skipped not in [stage.index for stage in plan.stages] and plan.is_fired(skipped)
    assert plan.stages[-1].gap == 2 and plan.period == 16
    assert {item.name: item.kind for item in plan.stages[-1].arrives} == {"middle": "real", "fc1.codes": "steps"}


def test_what_is_no_pipeline_is_refused() -> None:
    block = opt_block()
    without_consumer = Block("b", tuple(op for op in block.ops if not re.match("fc2|residual2", op.name)), "middle", WIDTH)
    with pytest.raises(UnsupportedError, match="fc1 fires must feed"):
        plan_block(without_consumer, 4)
    with pytest.raises(UnsupportedError, match="no core operation"):
        plan_block(Block("b", (block.ops[0],), "n1", WIDTH), 4)
