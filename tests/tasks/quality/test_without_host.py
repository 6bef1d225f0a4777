"""Quality of a network without a host: errors of its layers, and whether a checkpoint is the one that it was made from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.block import Model
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.quantize.convert import convert_model
from kirin_lava.tasks.quality.layer_errors import layer_errors
from kirin_lava.tasks.quality.original import require_converted
from tests.small_models import CONFIGS, random_checkpoint, random_rows

RECIPE = replace(load_recipe("kirin-w8a5-12"), host="spikes")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Model]:
    checkpoint = random_checkpoint(tmp_path_factory.mktemp("model") / "hf", "llama")
    return checkpoint, convert_model(checkpoint, random_rows(CONFIGS["llama"], 2, 16), RECIPE)


def test_layers_are_held_against_the_float_ones(made: tuple[Checkpoint, Model]) -> None:
    checkpoint, model = made
    hosted = convert_model(checkpoint, random_rows(CONFIGS["llama"], 2, 16), replace(RECIPE, host="float"))
    rows = random_rows(CONFIGS["llama"], 1, 16)
    ours, theirs = (layer_errors(checkpoint, each, rows) for each in (model, hosted))
    assert [error.segment for error in ours] == [error.segment for error in theirs]
    assert all(abs(a.local_db - b.local_db) < 3 and a.local_db > 15 for a, b in zip(ours, theirs, strict=True))


def test_a_checkpoint_is_known_by_its_integers(made: tuple[Checkpoint, Model], tmp_path: Path) -> None:
    checkpoint, model = made
    copy = Path(shutil.copytree(checkpoint.path, tmp_path / "copy"))
    require_converted(open_checkpoint(str(copy)), model, {"cut": "in another way"}, named=True)
    config = json.loads((copy / "config.json").read_text())
    for change, told in (({"rms_norm_eps": 1e-3}, "an epsilon of 0.001"), ({"rope_theta": 5.0}, "rotary embedding differs")):
        (copy / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UsageError, match=told):
            require_converted(open_checkpoint(str(copy)), model, {}, named=True)
    other = random_checkpoint(tmp_path / "other", "llama", seed=1)
    with pytest.raises(UsageError, match="token embeddings differ"):
        require_converted(other, model, {}, named=True)
