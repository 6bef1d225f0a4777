"""A block without a host on Lava: its stages have ports of integers, and every integer is the executor's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import FitError
from kirin_lava.base.integers import MESSAGE_LIMIT
from kirin_lava.graph.block import Block
from kirin_lava.graph.executor import BlockExecutor, Cache
from kirin_lava.graph.ops import Mix, Op, Score
from kirin_lava.graph.ops.op import HOST
from kirin_lava.graph.values import Codes, Value
from kirin_lava.hardware.split import split_block
from kirin_lava.processes.pipeline import plan_block
from kirin_lava.processes.runtime import run_job
from kirin_lava.spikes.codes import OFFSET, SIGNED
from tests.processes.blocks import head_block, integer_form, integer_tables, llama_block, opt_block, tokens
from tests.processes.jobs import run_block, run_blocks

CASES: dict[str, tuple[Block, list[int]]] = {
    "llama": (llama_block(OFFSET), [3, 2]),
    "opt": (opt_block(SIGNED), [2, 1, 1]),
    "relu": (opt_block(OFFSET, fires=False), [3]),
    "split": (split_block(llama_block(SIGNED), {"down": 3, "qkv": 2}), [3]),
    "head": (head_block(), [2, 1]),
    "both-directions": (replace(llama_block(OFFSET), causal=False), [4]),
}


def executed(block: Block, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Result and integers at the ports of core operations."""
    seen: dict[str, np.ndarray] = {}

    def watch(_: Block, op: Op, values: dict[str, Value]) -> None:
        value = values[op.output]
        tensor = value.q if isinstance(value, Codes) else value
        seen[op.output] = (tensor.transpose(1, 2) if tensor.dim() == 4 else tensor)[0].numpy().astype(np.int64)

    y = BlockExecutor(integer_tables(), observer=watch).run(block, torch.from_numpy(x)[None], torch.arange(len(x)), Cache())
    return y[0].numpy(), seen


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[Block, np.ndarray, Any]]:
    """Every case on Lava, in one job."""
    made = {name: (*integer_form(block, tokens(1, sum(parts))), parts) for name, (block, parts) in CASES.items()}
    found = run_job(run_blocks, list(made.values()), integer_tables(), timeout=600)
    return {name: (block, x, run) for (name, (block, x, _)), run in zip(made.items(), found, strict=True)}


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_integer_equals_the_executor(name: str, runs: dict[str, tuple[Block, np.ndarray, Any]]) -> None:
    block, x, parts = runs[name]
    assert all(op.place != HOST for op in block.ops)
    expected, integers = executed(block, x)
    at = 0
    for run in parts:
        stop = at + len(run.result)
        assert run.result.dtype == np.int32
        np.testing.assert_array_equal(run.result, expected[at:stop])
        for op in block.core_ops():
            for value in [op.input, op.output, *([op.cache] if isinstance(op, (Score, Mix)) else [])]:
                right, got = integers[value][at:stop], run.integers[value]
                np.testing.assert_array_equal(got, right[..., :stop] if got.ndim == 3 else right, err_msg=value)
        at = stop
    assert at == len(x)


@pytest.mark.lava
def test_an_overflow_on_the_way_is_told_by_its_operation() -> None:
    block, x = integer_form(llama_block(), tokens(1, 2))
    x[1, 3] = MESSAGE_LIMIT - 1
    with pytest.raises(FitError, match=r"host stage \d: residual1: \d+ in units of .* does not fit a message of 24 bits"):
        run_job(run_block, block, x, 2, integer_tables(), [2], timeout=300)


def test_what_travels_between_stages_is_known_by_kind() -> None:
    plan = plan_block(integer_form(llama_block(), tokens(1, 2))[0], 9)
    kinds = {item.kind for stage in plan.stages for item in stage.leaves}
    assert kinds == {"fixed", "steps", "codes"}
