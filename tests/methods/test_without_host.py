"""Every method without a host: the recipe entry belongs to none, and Lava's own integer arithmetic agrees at every port."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.ops.op import HOST
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.tasks.verify import verify
from tests.exports import export
from tests.hf_models import save_model


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), [("opt", "fas-w8a8"), ("llama", "spikellm-kv8"), ("opt", "spikellm-w4a4-t4")])
def test_blocks_are_exact(family: str, name: str, tmp_path: Path) -> None:
    recipe, out = replace(load_recipe(name), name=f"{name}, no host", host="spikes"), tmp_path / "out"
    model = str(save_model(tmp_path / "model", family, num_hidden_layers=1))
    export(model, out, recipe, num_samples=2, verify_with="none")
    assert HOST not in {op["place"] for block in Bundle(out).manifest["blocks"] for op in block["ops"]}
    blocks = verify(out, "block", tokens=3)
    assert blocks.compared > 500 and not blocks.mismatches
