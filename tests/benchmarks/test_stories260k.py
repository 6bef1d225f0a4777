"""The quality benchmark: what it promises, and what it writes for the help."""

from __future__ import annotations

import json

import torch

from benchmarks.stories260k import OTHERS, RECIPES, RECOVER, measured
from kirin_lava.methods.known import KIRIN
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.methods.recipes import MEASURED, recipe_digest, recipe_names
from kirin_lava.tasks.quality.contenders import Comparison, Contender

LIMITS = {"kirin-w4a4-8": 1.12, "kirin-w4a5-12": 1.09, "kirin-w8a5-12": 1.02, "fast": 1.02}
LIMIT_RECOVERED = 1.09
LIMIT_OUTLIERS = 0.1


def test_the_numbers_of_the_help_keep_what_is_promised() -> None:
    runs = json.loads(MEASURED.read_text())["runs"]
    ratios = {(run["recipe"], run["recover"]): run["perplexity_ratio"] for run in runs}
    assert all(ratios[name, "none"] <= limit for name, limit in LIMITS.items())
    assert ratios["kirin-w4a4-8", "distill"] <= LIMIT_RECOVERED
    kirin = [run for run in runs if load_recipe(run["recipe"]).method is KIRIN]
    assert len(kirin) > 5 and all(run["outlier_share"] <= LIMIT_OUTLIERS for run in kirin)


def test_every_run_is_written_under_its_recipe_and_model() -> None:
    names = [*RECIPES, f"{RECIPES[0]}, {RECOVER}"]
    ours = [Contender(n, "kirin", 1 + i / 8, 0.1, 0.9, outlier_share=i / 99, seconds=float(i)) for i, n in enumerate(names)]
    found = Comparison("m", "t", "p", 5, 9, 4.2, (*ours, Contender("w8a8", "rival", 1.0, 0.1, 0.9)))
    others = Comparison("n", "u", "p", 6, 9, 4.2, tuple(Contender(n, "fas", 1.5, 0.1, 0.9) for n in OTHERS))
    values = json.loads(json.dumps(measured(found, others)))
    runs, beside = values["runs"][: len(ours)], values["runs"][len(ours) :]
    assert values["threads"] == torch.get_num_threads()
    assert {(run["model"], run["text"], run["rows"]) for run in runs} == {("m", "t", 5)}
    assert [(run["model"], run["text"], run["rows"], run["recipe"]) for run in beside] == [("n", "u", 6, n) for n in OTHERS]
    assert [(run["recipe"], run["recover"]) for run in runs] == [*((name, "none") for name in RECIPES), (RECIPES[0], "distill")]
    assert [run["perplexity_ratio"] for run in runs] == [row.perplexity_ratio for row in ours]
    assert [run["outlier_share"] for run in runs] == [row.outlier_share for row in ours]
    assert all(run["digest"] == recipe_digest(run["recipe"]) for run in values["runs"])
    assert sorted({run["recipe"] for run in values["runs"]}) == recipe_names()
