"""`export --dry-run`, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

from kirin_lava.methods.recipe import load_recipe
from kirin_lava.tasks.cost import dry_run
from tests.conftest import Cli
from tests.hardware.known_configs import LONG_CONTEXTS, OPT_125M


def test_a_dry_run_needs_no_weights_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    model = tmp_path / "opt-125m"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(OPT_125M))
    arguments = ("export", "-m", model, "-o", tmp_path / "out", "--dry-run", "--recipe", "fast", "--num-samples", 4)
    printed, as_json = cli(*arguments), cli(*arguments, "--json")
    assert printed.code == as_json.code == 0, printed.err + as_json.err
    plan = dry_run(OPT_125M, load_recipe("fast"), num_samples=4)
    values = json.loads(as_json.out)
    assert values["recipe"] == "fast" and values["export"] == plan.export.to_dict()
    assert values["placement"]["cores"] == len(plan.cost.placement.cores)
    assert f"{plan.cost.shape.weights():,}" in printed.out and "not compiler-verified" in printed.out
    assert "93.75 % fewer" in printed.out and "96.88 % fewer" in printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["opt-125m"]


def test_the_context_is_printed_beside_the_cost_of_another_position(cli: Cli, tmp_path: Path) -> None:
    model = tmp_path / "long"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LONG_CONTEXTS["llama-3.2-1b"]))
    arguments = ("export", "-m", model, "-o", tmp_path / "out", "--dry-run")
    printed, chosen = cli(*arguments), cli(*arguments, "--context", 100, "--json")
    assert "for 4,096 of 131,072 positions" in printed.out and "65,536 bytes, 0.00446 chips" in printed.out
    assert json.loads(chosen.out)["placement"]["context"] == 100
    beyond = cli(*arguments, "--context", 131073)
    assert beyond.code == 5 and "outside 1..131072" in beyond.err
    assert cli(*arguments, "--context", 0).code == 2
    for command in ("export", "report"):
        assert "4096 at most" in " ".join(cli(command, "--help").out.split())
    reported = cli("report", model, "--context", 100, "--json")
    assert json.loads(reported.out)["placement"]["context"] == 100
    assert "4,096, 65.5 kB, 0.00446" in cli("report", model).out
