"""All methods in one table: what applies has its costs and its twin, what does not stands there with the reason."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from kirin_lava.base.errors import FitError, UnsupportedError, UsageError
from kirin_lava.methods.known import METHODS
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.tasks.quality.compare import compare
from kirin_lava.tasks.quality.contenders import TWIN, Failed
from kirin_lava.tasks.quality.methods import MethodTable, representatives
from kirin_lava.tasks.quality.rivals import RIVALS
from tests.hf_models import save_model


def test_every_method_is_represented() -> None:
    assert {load_recipe(name).method.name for name in representatives()} == {method.name for method in METHODS}


def test_costs_twins_and_reasons_stand_in_one_table(tmp_path: Path) -> None:
    table = compare(str(save_model(tmp_path / "model")), ["fast", "fas-w8a8"], max_rows=2, window=32, methods=True)
    assert isinstance(table, MethodTable)
    table.require()  # what does not apply is no error
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(table.to_csv()))}
    assert list(rows) == ["fast", "fast, twin", *RIVALS, "fas-w8a8"]
    assert "FAS converts: opt" in rows["fas-w8a8"]["reason"] and not rows["fas-w8a8"]["kl"]
    ours, twin = rows["fast"], rows["fast, twin"]
    assert twin["method"] == TWIN and twin["kl"] == ours["kl"] and ours["integers_verified"] == "0"
    priced = [name for name in ours if name.startswith("joules, ")]
    assert len(priced) >= 4 and all(float(ours[name]) > 0 and ours[name] != twin[name] for name in priced)
    assert not any(rows["w8a8"][name] for name in priced) and float(ours["float_operations"]) > 0
    pytest.importorskip("matplotlib")
    drawn = table.svg()
    assert drawn == table.svg() and drawn.count("fast") >= 1 and "w8a8" not in drawn
    assert drawn != table.svg(priced[1].removeprefix("joules, "))
    with pytest.raises(UsageError, match="nothing to draw by the prices 'of yesterday'; there are: "):
        table.svg("of yesterday")


@pytest.mark.lava
def test_what_lava_compared_is_counted(tmp_path: Path) -> None:
    table = compare(str(save_model(tmp_path / "model")), ["fast"], max_rows=1, window=16, verify=True)
    assert (table.contenders[0].integers_verified or 0) > 10_000


def test_a_recipe_that_fails_for_another_reason_is_an_error() -> None:
    missing, broken = Failed("a", UnsupportedError("not for this family")), Failed("b", FitError("v reaches 2^30"))
    MethodTable("m", "t", "rows", 1, 1, 2.0, (), failed=(missing,)).require()
    with pytest.raises(FitError, match="left out: b: v reaches"):
        MethodTable("m", "t", "rows", 1, 1, 2.0, (), failed=(missing, broken)).require()
