"""Calibration: second moments of what is sent, the outputs of the layer on the way, and the same bits for any threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kirin_lava.methods.recipe import load_recipe
from kirin_lava.models import float_model
from kirin_lava.models.layout import Dense, FloatOp
from kirin_lava.quantize import calibrate as module
from kirin_lava.quantize.calibrate import calibrate
from kirin_lava.quantize.convert import rotary_of
from kirin_lava.quantize.sites import Sites
from tests.small_models import random_checkpoint

RECIPE = load_recipe("kirin-w4a4-8")


def test_moments_are_those_of_what_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several batches of rows, the last one short, and several parts of a matrix, whose width no part divides. The first
    token of a row counts for half as many as there are, and never for less than one."""
    monkeypatch.setattr(module, "_TOKENS", 20)
    monkeypatch.setattr(module, "_PART", 20)
    monkeypatch.setattr(module, "_FIRST", 0.5)
    checkpoint = random_checkpoint(tmp_path, "llama")
    block = checkpoint.family.block(checkpoint.config, 0, checkpoint.load)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(1, length, 32, generator=generator) for length in (9, 14, 3, 11, 6)]
    rotary, sites = rotary_of(checkpoint), Sites(block, RECIPE)
    sums = {op.name: torch.zeros(op.weight.shape[1], op.weight.shape[1], dtype=torch.float64) for op in block.denses()}
    totals = {name: torch.zeros(len(matrix), dtype=torch.float64) for name, matrix in sums.items()}

    def watch(op: FloatOp, values: dict[str, Tensor]) -> None:
        if isinstance(op, Dense):
            sent = sites.coding(op).sent(values[op.input]).flatten(0, -2).double()
            more = max(len(sent) / 2, 1) - 1
            sums[op.name] += sent.T @ sent + more * torch.outer(sent[0], sent[0])
            totals[op.name] += sent.sum(0) + more * sent[0]

    with torch.no_grad():
        wanted = [float_model.run_block(block, x, rotary, watch) for x in rows]
    found, count = [], 43 + 3.5 + 6 + 0.5 + 4.5 + 2
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            calibration, outputs = calibrate(block, rows, rotary, RECIPE)
        finally:
            torch.set_num_threads(1)
        assert all(torch.equal(a, b) for a, b in zip(outputs, wanted, strict=True))
        found.append(calibration.moments)
        means = calibration.means
    for name, exact in sums.items():
        total = totals[name]
        assert torch.allclose(means[name].double(), total / count, rtol=1e-5, atol=1e-6)
        exact -= torch.outer(total, total) / count
        assert torch.allclose(found[0][name].double(), exact, rtol=1e-5, atol=1e-4)
        assert torch.equal(found[0][name], found[0][name].T)
        assert torch.equal(found[0][name], found[1][name]) and torch.equal(found[0][name], found[2][name])
