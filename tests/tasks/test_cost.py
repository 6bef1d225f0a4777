"""The dry run: large models from their config alone, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.tasks.cost import dry_run
from tests.hardware.known_configs import LLAMA_2_7B, OPT_2_7B
from tests.small_models import CONFIGS

PROGRAM = """
import json, sys
from kirin_lava.tasks.cost import dry_run
from kirin_lava.base.memory import peak_memory
from kirin_lava.methods.recipe import load_recipe
values = dry_run(json.load(sys.stdin), load_recipe("kirin-w4a4-8")).to_dict()
values["placement"].pop("core_columns")
values["peak"] = peak_memory()
json.dump(values, sys.stdout)
"""


@pytest.mark.parametrize(("config", "chips"), [(LLAMA_2_7B, 420), (OPT_2_7B, 170)], ids=["llama-2-7b", "opt-2.7b"])
def test_a_large_model_in_little_memory(config: dict[str, object], chips: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=json.dumps(config), capture_output=True, text=True, check=True)
    values = json.loads(done.stdout)
    assert values["peak"] < 1e9
    assert values["feasibility"] == "model-feasible, not compiler-verified"
    assert values["placement"]["chips"] > chips and values["placement"]["cores"] > 100 * chips
    assert [row["latency_steps"] for row in values["steps"]] == [192 * 16 + 1, 192 * 8 + 1, 192 * 256 + 1]
    assert values["work"]["source"].startswith("assumed")
    assert 0.5 * values["model"]["weights"] < values["export"]["bundle_bytes"] < values["export"]["weight_bytes"]
    assert values["export"]["peak_memory_bytes"] > 6e8


def test_a_shorter_context_takes_fewer_cores() -> None:
    recipe = load_recipe("fast")
    short, long = (dry_run(LLAMA_2_7B, recipe, context=context, profiles=["horowitz-45nm"]) for context in (128, 4096))
    assert short.cost.placement.chips < long.cost.placement.chips
    assert [table.profile.name for table in short.cost.energy] == ["horowitz-45nm"]
    assert short.export == long.export


def test_what_cannot_be_is_refused() -> None:
    recipe = load_recipe("fast")
    with pytest.raises(FitError, match=r"outside 1\.\.64"):
        dry_run(CONFIGS["llama"], recipe, context=65)
    with pytest.raises(UsageError, match="no energy profile"):
        dry_run(CONFIGS["llama"], recipe, profiles=["loihi2"])
