"""The benchmark of the executor: both networks go through the same tokens, and every second time beside a busy process."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.executor import load, measure, table
from kirin_lava.graph.executor import Cache
from kirin_lava.methods.recipe import load_recipe
from tests.hf_models import save_model


def test_both_networks_compute_the_same_tokens_quiet_and_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = load(str(save_model(tmp_path / "hf", "llama")), load_recipe("fast"), 40)
    processes: list[subprocess.Popen[bytes]] = []
    seen: list[tuple[str, int, bool]] = []

    def note(network: str, tokens: Tensor) -> None:
        seen.append((network, tokens.shape[1], any(process.poll() is None for process in processes)))

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, command: list[str]) -> None:
            super().__init__(command)
            processes.append(self)

    forward, handle = pair.executor.forward, pair.original.register_forward_pre_hook(lambda _, given: note("float32", given[0]))

    def watched(tokens: Tensor, cache: Cache | None = None, last_only: bool = False) -> Tensor:
        note("executor", tokens)
        return forward(tokens, cache, last_only)

    monkeypatch.setattr(pair.executor, "forward", watched)
    monkeypatch.setattr(subprocess, "Popen", Watched)
    threads = torch.get_num_threads()
    try:
        found = measure(pair, prefill=[12, 99], decode=2, behind=[5, 50], rounds=1, threads=1)
    finally:
        torch.set_num_threads(threads)
        handle.remove()
    assert [(r.phase, r.threads) for r in found] == [("prefill 12", 1), ("prefill 40", 1), ("decode behind 5", 1)]
    both = [[("float32", n, busy), ("executor", n, busy)] for n in (12, 40) for _ in range(2) for busy in (False, True)]
    steps = [
        [(network, 5, False), (network, 1, busy), (network, 1, busy)]
        for _ in range(2)
        for busy in (False, True)
        for network in ("float32", "executor")
    ]
    assert seen == [entry for run in (*both, *steps) for entry in run]
    assert processes and all(process.poll() is not None for process in processes)
    assert len(table(found).rows) == 3
