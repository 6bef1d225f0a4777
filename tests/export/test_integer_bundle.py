"""A bundle without a host: what it computes comes back, no operation says host, and no entry of a table changes in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import load_arrays, save_arrays, save_json
from kirin_lava.base.readers import file_sha256
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.manifest import EMBEDDING, FORMAT, MANIFEST, sealed
from kirin_lava.graph.executor import Executor
from kirin_lava.graph.ops.integer import IntegerGate
from kirin_lava.tasks.verify import verify
from tests.export.small_bundles import small_bundle


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("spikes"), "llama", "kirin-spikes")


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "copy"))


def reseal(bundle: Path, name: str) -> None:
    """A manifest for what a file holds now, as whoever changed it might write it."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][name] = file_sha256(bundle / name)
    save_json(bundle / MANIFEST, sealed(manifest))


def test_between_the_embedding_and_the_logits_no_operation_says_host(pristine: Path) -> None:
    opened = Bundle(pristine)
    assert opened.complete and opened.manifest["format"] == FORMAT == 3
    places = {op["place"] for block in opened.manifest["blocks"] for op in block["ops"]}
    assert places == {"neurocore", "neurocore with custom neuron"}
    assert opened.recipe.spiking_host and Bundle(pristine).frame()[0].tokens.dtype == np.int32


def test_a_recipe_with_a_host_says_host_and_keeps_its_digest(tmp_path: Path) -> None:
    opened = Bundle(small_bundle(tmp_path, "llama", "fast"))
    assert "host" in {op["place"] for block in opened.manifest["blocks"] for op in block["ops"]}
    assert "host" not in opened.manifest["recipe"] and "fraction" not in opened.manifest


def test_it_computes_the_same_when_it_is_read(pristine: Path) -> None:
    model = Bundle(pristine).model()
    logits = Executor(model).forward(torch.arange(5, 25)[None])
    again = Executor(Bundle(pristine).model()).forward(torch.arange(5, 25)[None])
    assert torch.equal(logits, again) and bool(logits.isfinite().all())
    gate = next(op for op in model.blocks[0].ops if isinstance(op, IntegerGate))
    assert gate.silu.name == "silu"


def test_tables_are_stored_once_a_block(pristine: Path) -> None:
    names = [name for name in load_arrays(pristine / "host/blocks.0.safetensors") if name.startswith("table.")]
    assert sorted(names) == sorted(
        f"table.{t}.{part}" for t in ("exp2", "reciprocal", "root", "silu") for part in ("slope", "value")
    )


@pytest.mark.parametrize("table", ["exp2", "reciprocal", "root", "silu"])
def test_a_table_entry_off_by_one_is_found_by_verify(bundle: Path, table: str) -> None:
    name = "host/blocks.0.safetensors"
    assert verify(bundle, backend="reference").mismatches == 0
    arrays = {key: value.copy() for key, value in load_arrays(bundle / name).items()}
    arrays[f"table.{table}.value"][100] += 1
    save_arrays(bundle / name, arrays)
    assert Bundle(bundle).damaged_files() == [name]
    reseal(bundle, name)
    with pytest.raises(UsageError, match=rf"value\[100\] of table {table} is \d+, its formula gives \d+"):
        verify(bundle, backend="reference")


def test_units_that_do_not_meet_between_blocks(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["fraction"] += 1
    save_json(bundle / MANIFEST, sealed(manifest))
    with pytest.raises(UsageError, match=r"blocks.0 takes units of 2\^-\(\d+\), the embedding has 2\^-\(\d+\)"):
        Bundle(bundle).model()


def test_an_embedding_beyond_a_message(bundle: Path) -> None:
    arrays = {key: value.copy() for key, value in load_arrays(bundle / EMBEDDING).items()}
    arrays["tokens"][3, 1] = -(1 << 23)
    save_arrays(bundle / EMBEDDING, arrays)
    reseal(bundle, EMBEDDING)
    with pytest.raises(UsageError, match="tokens holds numbers of more than 24 bits"):
        Bundle(bundle).model()
