"""The dry run: large models from their config alone, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.loihi2 import USABLE_CORES_PER_CHIP
from kirin_lava.hardware.placement import place, planned_context
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.quantize.without_weights import shape_of_config
from kirin_lava.tasks.cost import dry_run
from tests.hardware.known_configs import LLAMA_2_7B, LONG_CONTEXTS, OPT_2_7B
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


@pytest.mark.parametrize(("config", "chips"), [(LLAMA_2_7B, 250), (OPT_2_7B, 120)], ids=["llama-2-7b", "opt-2.7b"])
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


@pytest.mark.parametrize("name", LONG_CONTEXTS)
def test_no_plan_holds_anything_over_all_positions(name: str) -> None:
    config = LONG_CONTEXTS[name]
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=json.dumps(config), capture_output=True, text=True, check=True)
    values = json.loads(done.stdout)
    placement = values["placement"]
    print(
        f"{name}: {time.monotonic() - start:.1f} s, {values['peak'] / 1e9:.2f} GB, {placement['chips']} chips for "
        f"{placement['context']} of {config['max_position_embeddings']} positions"
    )
    assert values["peak"] < 1e9
    assert placement["context"] == 4096 == values["work"]["context"]
    heads, width = config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]
    width = config.get("head_dim", width)
    assert placement["cache_bytes_per_position"] == 2 * config["num_hidden_layers"] * heads * width  # 8-bit keys and values
    assert placement["chips"] < 1000


def test_further_positions_cost_what_is_said() -> None:
    shape = shape_of_config(LONG_CONTEXTS["llama-3.2-1b"], load_recipe("fast"))
    for context in (1000, 4096, 16384):
        near, far = (place(shape, n * context) for n in (1, 2))
        cores = (len(far.cores) - len(near.cores)) / context
        assert cores / USABLE_CORES_PER_CHIP == pytest.approx(near.chips_per_position, rel=0.03)
        assert far.cache_bytes - near.cache_bytes == context * near.to_dict()["cache_bytes_per_position"]


def test_a_context_is_the_model_s_own_up_to_a_limit() -> None:
    assert [planned_context(n, None) for n in (64, 4096, 1_024_000)] == [64, 4096, 4096]
    assert planned_context(1_024_000, 100_000) == 100_000
    recipe = load_recipe("fast")
    assert dry_run(CONFIGS["llama"], recipe).cost.placement.context == 64
    tables = [dry_run({**CONFIGS["llama"], "max_position_embeddings": n}, recipe).export for n in (4096, 2**20)]
    assert tables[1].bundle_bytes - tables[0].bundle_bytes == 2 * 4 * 8 * (2**20 - 4096)  # cos and sin of heads of 8


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
