"""Table neurons on Lava: the executor's answer at both ends of every cell; one entry off by one is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import VerificationError
from kirin_lava.spikes.tables import FORMULAS, Table, formula_named, table
from kirin_lava.tasks.verify.result import Verification
from kirin_lava.tasks.verify.tables import arguments_of, compare_tables

NAMES = [formula.name for formula in FORMULAS]


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_is_asked_at_both_ends(name: str) -> None:
    asked = set(arguments_of(name).ravel().tolist())
    for part in formula_named(name).ranges:
        for cell in range(part.count):
            edge = part.start + (cell << part.shift)
            assert {edge - 1, edge, edge + 1, edge + (1 << part.shift) - 1} <= asked


@pytest.mark.lava
def test_native_neurons_are_the_executors_and_an_entry_off_by_one_is_found() -> None:
    def off(name: str, what: str) -> Table:
        right = table(name)
        entries = getattr(right, what).copy()
        entries[len(entries) // 2] += 1
        return replace(right, **{what: entries})

    found = Verification("segment", ("native",))
    compare_tables([*(table(name) for name in NAMES), off("exp2", "value"), off("silu", "slope")], found, 300)
    assert [row.mismatches for row in found.rows[: len(NAMES)]] == [0] * len(NAMES)
    assert all(row.mismatches > 0 for row in found.rows[len(NAMES) :])
    assert all(row.compared == arguments_of(row.name.removeprefix("table ")).size for row in found.rows)
    with pytest.raises(VerificationError, match=r"integers differ; first: table exp2, native, window \d+, neuron \d+"):
        found.require()


def test_a_table_answers_by_value_and_slope() -> None:
    exp2 = table("exp2")
    q = torch.tensor([0, 1, 4095, 4096, 2**20 - 1])
    slope = exp2.slope.astype(np.int64)
    by_hand = [
        int(exp2.value[0]),
        int(exp2.value[0]) + int(np.floor((2 * slope[0] + 4096) / 8192)),
        int(exp2.value[0]) + int(np.floor((2 * slope[0] * 4095 + 4096) / 8192)),
        int(exp2.value[1]),
        int(exp2.value[255]) + int(np.floor((2 * slope[255] * 4095 + 4096) / 8192)),
    ]
    assert exp2(q).tolist() == by_hand
    assert abs(by_hand[0] - 2**24) <= 8 and abs(by_hand[-1] - 2**23) <= 32
