"""The float twin, layer by layer: against transformers, against the integers that it becomes, and under a gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from kirin_lava.graph.executor import BlockExecutor, Cache
from kirin_lava.graph.values import rotary_tables
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.models import float_model as twin
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.float_model import Arithmetic
from kirin_lava.models.layout import Attention, Dense, FloatBlock, FloatOp
from kirin_lava.quantize.convert import convert_model
from tests.hf_models import random_model
from tests.small_models import CONFIGS, random_checkpoint, random_rows

IDS = torch.tensor([[0, 7, 99, 4, 257, 31, 8, 8, 120, 55, 2, 3], [0, 200, 1, 1, 66, 5, 4, 3, 2, 9, 77, 251]])
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("mistral", {}),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 16}),
    ("opt", {}),
    ("opt", {"do_layer_norm_before": False}),
]


def rotary_of(checkpoint: Checkpoint) -> tuple[Tensor, Tensor] | None:
    frequencies = checkpoint.family.rotary(checkpoint.config)
    return None if frequencies is None else rotary_tables(frequencies, checkpoint.dimensions.max_positions)


def layer(checkpoint: Checkpoint, index: int) -> FloatBlock:
    return checkpoint.family.block(checkpoint.config, index, checkpoint.load)


@pytest.mark.parametrize(
    ("kind", "changes"), KINDS, ids=[f"{kind}{'-post' if c.get('do_layer_norm_before') is False else ''}" for kind, c in KINDS]
)
def test_every_layer_equals_that_of_transformers(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    random_model(kind, **changes).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        expected = model(IDS, output_hidden_states=True).hidden_states
    x = twin.embed(checkpoint.family.embedding(checkpoint.config, checkpoint.load), IDS)
    for index in range(checkpoint.dimensions.layers):
        torch.testing.assert_close(x, expected[index], rtol=1e-4, atol=1e-4)
        x = twin.run_block(layer(checkpoint, index), x, rotary_of(checkpoint))
    assert not torch.equal(x, expected[0])


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_integers_stay_near_their_twin(tmp_path: Path, kind: str) -> None:
    """With 8-bit weights the executor follows the twin, layer by layer, for the same inputs."""
    checkpoint = random_checkpoint(tmp_path, kind)
    model = convert_model(checkpoint, random_rows(CONFIGS[kind], rows=4), load_recipe("kirin-w8a5-12"))
    executor = BlockExecutor(model.rotary)
    x = twin.embed(checkpoint.family.embedding(checkpoint.config, checkpoint.load), random_rows(CONFIGS[kind], rows=1)[0][None])
    for index, block in enumerate(model.blocks):
        with torch.no_grad():
            expected = twin.run_block(layer(checkpoint, index), x, rotary_of(checkpoint))
        y = executor.run(block, x, torch.arange(x.shape[1]), Cache())
        error = (y - expected).norm() / (expected - x).norm()
        assert 1e-4 < float(error) < 0.25
        x = expected


def test_gradients_reach_every_weight(tmp_path: Path) -> None:
    for kind in ("llama", "opt"):
        checkpoint = random_checkpoint(tmp_path / kind, kind)
        block = layer(checkpoint, 0)
        for op in block.denses():
            op.weight.requires_grad_()
        twin.run_block(block, torch.randn(1, 5, 32), rotary_of(checkpoint)).square().sum().backward()
        assert all(op.weight.grad is not None and op.weight.grad.abs().sum() > 0 for op in block.denses())


def test_the_observer_sees_every_operation_before_it_runs(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, "llama")
    block, seen = layer(checkpoint, 0), []

    def watch(op: FloatOp, values: dict[str, Tensor]) -> None:
        assert op.output not in values
        seen.append(op)

    twin.run_block(block, torch.randn(1, 3, 32), rotary_of(checkpoint), watch)
    assert seen == list(block.ops)


def test_other_arithmetic_takes_the_place_of_what_becomes_spikes(tmp_path: Path) -> None:
    class Silent(Arithmetic):
        def weight(self, op: Dense) -> Tensor:
            return super().weight(op) * (op.name != "mlp.down")

        def attend(self, op: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            assert q.shape == (1, op.heads, 3, op.head_dim) and k.shape == v.shape == (1, op.kv_heads, 3, op.head_dim)
            return torch.zeros_like(q)

    checkpoint = random_checkpoint(tmp_path, "llama")
    x = torch.randn(1, 3, 32)
    block, rotary = layer(checkpoint, 0), rotary_of(checkpoint)
    assert torch.equal(twin.run_block(block, x, rotary, arithmetic=Silent()), x)  # nothing but the residual is left
    assert not torch.equal(twin.run_block(block, x, rotary), x)


def test_the_one_attention_is_the_library_s(tmp_path: Path) -> None:
    """Whether its sites are watched, and whether probabilities come in units of value steps, changes no more than rounding."""
    seen: list[str] = []

    class Watched(Arithmetic):
        watches_attention = True

        def sent(self, op: Dense | Attention, side: str, x: Tensor) -> Tensor:
            seen.append(side)
            return x

    class InSteps(Watched):
        def value_steps(self, op: Attention, v: Tensor) -> Tensor:
            return v.abs().amax(-1) / 127

    checkpoint = random_checkpoint(tmp_path, "llama")
    x, block, rotary = torch.randn(2, 9, 32), layer(checkpoint, 0), rotary_of(checkpoint)
    expected = twin.run_block(block, x, rotary)
    for arithmetic in (Watched(), InSteps()):
        torch.testing.assert_close(twin.run_block(block, x, rotary, arithmetic=arithmetic), expected, rtol=1e-4, atol=1e-5)
    assert set(seen) == {"input", "q", "k", "v", "p"}
