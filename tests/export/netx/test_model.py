"""Decoders that run on their `.net` files: logits and tokens are the reference's, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import BackendError
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.bundle_write import BundleWriter
from kirin_lava.export.netx.model import StockModel
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.graph.ops import Linear, Op
from kirin_lava.models.sources.folder import SafetensorsFolder
from kirin_lava.quantize.record import probe_block
from kirin_lava.spikes.neurons import Silence
from kirin_lava.tasks.generate import generate
from tests.conftest import Cli
from tests.export.small_bundles import small_bundle

PROMPT = torch.tensor([0, 70, 83])


def require_equal_logits(bundle: Bundle, decoder: StockModel, tokens: int) -> None:
    """A prompt at once, then token by token."""
    executor, cache = Executor(bundle.model()), Cache()
    ids = PROMPT
    for _ in range(tokens):
        expected = executor.forward(ids.unsqueeze(0), cache)[0]
        got = decoder.step(ids, every=True)
        assert torch.equal(got.view(torch.int32), expected.view(torch.int32))
        ids = expected[-1:].argmax(-1)
    expected = executor.forward(ids.unsqueeze(0), cache)[0]
    assert torch.equal(decoder.step(ids), expected[-1])


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "recipe"), [("llama", "fast"), ("opt", "kirin-w4a4-8")])
def test_logits_are_those_of_the_executor(tmp_path: Path, kind: str, recipe: str) -> None:
    bundle = Bundle(small_bundle(tmp_path, kind, recipe))
    fired = [op.name for op in bundle.block("blocks.0").linears() if op.fires is not None]
    assert fired == (["mlp.fc1"] if kind == "opt" else [])
    with StockModel(bundle, timeout=300) as decoder:
        assert decoder.host_fires == ()
        require_equal_logits(bundle, decoder, 3)


@pytest.mark.lava
@pytest.mark.slow
def test_a_fire_phase_that_stock_neurons_cannot_hold_is_computed_on_the_host(tmp_path: Path) -> None:
    source = Bundle(small_bundle(tmp_path, "opt", "fast"))
    model = source.model()
    rng = np.random.default_rng(0)

    def wider(op: Op) -> Op:
        """Ramps and offsets that fit 24 bits, but not the 17 that stock neurons have."""
        if not isinstance(op, Linear) or not isinstance(op.neuron, Silence):
            return op
        ramp = np.full_like(op.neuron.ramp, 300_000)
        neuron = replace(op.neuron, ramp=ramp, offset=rng.integers(-5 * ramp, 5 * ramp + 1), exponent=0)
        return replace(op, neuron=neuron)

    block = model.blocks[0]
    blocks = [replace(block, ops=tuple(wider(op) for op in block.ops)), model.head]
    frame = {"embedding": model.embedding, "rotary": None, "max_positions": model.max_positions, "facts": model.facts}
    rows = [torch.randn(1, 16, block.width, generator=torch.Generator().manual_seed(1))]
    with BundleWriter(tmp_path / "wide", {"blocks": [b.name for b in blocks]}) as writer:
        for item in blocks:
            writer.write_block(item, probe_block(item, rows, None))
        writer.finish(frame, source.manifest["source"], source.recipe, SafetensorsFolder(source.path).save)
        writer.publish()
    bundle = Bundle(tmp_path / "wide")
    with StockModel(bundle, timeout=300) as decoder:
        assert decoder.host_fires == ("blocks.0.mlp.fc1",)
        require_equal_logits(bundle, decoder, 1)


@pytest.mark.lava
@pytest.mark.slow
def test_run_gives_the_same_text_on_stock_files(tmp_path: Path, cli: Cli) -> None:
    bundle = small_bundle(tmp_path, "llama", "fast")
    runs = [cli("run", bundle, "--prompt", "A b", "--max-new-tokens", 4, "--backend", b) for b in ("reference", "stock")]
    assert [run.code for run in runs] == [0, 0], runs[1].err
    assert runs[0].out == runs[1].out and len(runs[0].out) >= len("A b\n")
    assert "tokens by the stock backend" in runs[1].err


def test_without_a_board_nothing_is_loaded(tmp_path: Path, cli: Cli) -> None:
    """Exit 6 in one sentence, before it matters that there is no bundle. Nothing more of Loihi 2 was ever seen."""
    ran = cli("run", tmp_path, "--backend", "loihi2")
    assert ran.code == 6 and ran.out == ""
    assert ran.err.startswith("error: ") and ran.err.count("\n") == 1
    with pytest.raises(BackendError):
        generate(tmp_path / "nowhere", backend="loihi2")
