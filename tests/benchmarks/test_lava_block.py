"""The block benchmark: it compares before it measures, and finds what differs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.block_jobs import Built
from benchmarks.lava_block import compare, first_block, main
from kirin_lava.graph.executor import BlockExecutor, Cache
from kirin_lava.models.checkpoint import open_checkpoint
from tests.hf_models import save_model

SMALL: dict[str, Any] = {
    "num_hidden_layers": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
TOKENS = 3


@pytest.mark.lava
@pytest.mark.slow
def test_both_networks_are_exact_and_the_naive_one_is_larger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_model(tmp_path / "hf", **SMALL)
    command = ["--model", str(model), "--recipe", "fast", "--tokens", str(TOKENS), "--singles", "1", "--rounds", "1"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert re.search(r"integers +0 mismatches in [1-9]\d+ compared with the executor", out)
    sizes = {name: int(re.search(rf"{name} +(\d+) +\d+ +[\d.]+ ", out).group(1)) for name in ("ours", "naive")}  # type: ignore[union-attr]
    assert 0 < sizes["ours"] < sizes["naive"]
    assert re.search(r"naive / ours +\d+\.\d x", out)


def test_a_wrong_integer_is_counted(tmp_path: Path) -> None:
    block, x, rotary = first_block(open_checkpoint(str(save_model(tmp_path / "hf", **SMALL))), "fast", TOKENS)
    y = BlockExecutor(rotary).run(block, torch.from_numpy(x)[None], torch.arange(TOKENS), Cache())[0].numpy()
    right = Built(y, {}, 1, 1, 8, 6)
    assert compare(block, x, rotary, [right]) == (y.size, 0)
    other = y.copy()
    other[1, 2] = np.nextafter(other[1, 2], np.float32(np.inf))
    assert compare(block, x, rotary, [right, replace(right, result=other)]) == (2 * y.size, 1)
    sums = np.zeros((TOKENS, 16), np.int64)
    compared, wrong = compare(block, x, rotary, [replace(right, integers={"attn.o.sums": sums})])
    assert compared == y.size + sums.size and 0 < wrong <= sums.size
