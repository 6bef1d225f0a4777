"""Integer softmax, norms and gates against float64: at most one code of 15 bits off; and tables, whose every entry counts."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.nonlinear import CODE, exact_of, gates, norms, softmaxes
from kirin_lava.base.errors import UsageError
from kirin_lava.base.integers import to_real
from kirin_lava.graph.ops.integer.functions import Multiplier, exp2_weights, gate_fraction, gated, multiplier_of, probabilities
from kirin_lava.spikes.tables import FORMULAS, Formula, Table, check_table, formula_named, table


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("fraction", [12, 18, 22])
def test_gates_are_off_by_less_than_a_code(fraction: int) -> None:
    for found in gates(fraction, every=97):
        assert 0 < found.error <= 1, found


def test_a_multiplier_has_a_mantissa_of_24_bits_however_near_a_power_of_two() -> None:
    for exponent in (-40, -1, 0, 1, 30):
        power, low, high = 2.0**exponent, 1 << 23, (1 << 24) - 1
        assert multiplier_of(power) == multiplier_of(power * (1 - 2.0**-30)) == Multiplier(low, 23 - exponent)
        assert multiplier_of(power * (1 - 2.0**-24)) == Multiplier(high, 24 - exponent)
        assert multiplier_of(3 * power) == Multiplier(3 * low >> 1, 22 - exponent)


def test_norms_are_off_by_less_than_a_code() -> None:
    for found in norms(4, widths=(8, 576, 8192)):
        assert 0 < found.error <= 0.1, found


def test_softmax_is_off_by_less_than_a_code_on_rows_of_8192() -> None:
    for found in softmaxes(4, lengths=(1, 17, 8192)):
        assert 0 < found.error <= 0.1, found


def test_a_softmax_hides_what_comes_later_and_bears_any_distance() -> None:
    u = torch.tensor([[5, -(2**46), 2**46, 0]])
    visible = torch.tensor([[True, True, False, True]])
    for exponent in (-80, -40, 0, 40, 80):
        weights = exp2_weights(u, torch.tensor([[2**23]]), multiplier_of(2.0**exponent), table("exp2"), visible)
        got = probabilities(weights, torch.tensor(2**23), table("reciprocal"), 0).double() / 2**23
        exact = torch.softmax(torch.where(visible, u.double(), -torch.inf) * 2.0 ** (exponent + 23) * np.log(2), -1)
        assert (got - exact).abs().max() < CODE / 8, exponent
        assert got[0, 2] == 0


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.name)
def test_a_table_holds_its_function_between_its_entries(formula: Formula) -> None:
    q = torch.arange(0, formula.ranges[-1].stop, 61)
    y = to_real(table(formula.name)(q), formula.output_bits)
    assert (y - exact_of(formula, to_real(q, formula.input_bits))).abs().max() < CODE / 2
    outside = torch.tensor([-1, formula.ranges[-1].stop, 2**40])
    assert table(formula.name)(outside).tolist() == [0, 0, 0]


def test_all_tables_together_take_a_ninth_of_the_published_silu() -> None:
    assert sum(table(formula.name).bytes for formula in FORMULAS) < 118_000 / 9
    one = table("silu")
    assert one.bytes == -(-508 * (21 + 16) // 8) and one.bits == (21, 16)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh"])
def test_what_is_nearly_nothing_keeps_its_sign_and_nothing_is_nothing(name: str) -> None:
    x = torch.tensor([0, 1 << 9, -(1 << 9), 1 << 12, -(1 << 12)])
    y = to_real(gated(x, 22, table(name)), gate_fraction(22))
    exact = F.silu(to_real(x, 22)) if name == "silu" else F.gelu(to_real(x, 22))
    assert y[0] == 0 and bool((y[1:].sign() == exact[1:].sign()).all())
    assert ((y[1:] - exact[1:]) / exact[1:]).abs().max() < 0.02


@pytest.mark.parametrize("what", ["value", "slope"])
@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.name)
def test_an_entry_that_is_off_by_one_is_found(formula: Formula, what: str) -> None:
    check_table(table(formula.name), "here")
    arrays = {name: getattr(table(formula.name), name).copy() for name in ("value", "slope")}
    entry = formula.entries // 3
    arrays[what][entry] += 1
    with pytest.raises(UsageError, match=rf"here: {what}\[{entry}\] of table {formula.name} is .*its formula gives .*damaged"):
        check_table(Table(formula.name, **arrays), "here")
    arrays[what] = arrays[what][:-1]
    with pytest.raises(UsageError, match="entries instead of"):
        check_table(Table(formula.name, **arrays), "here")


@pytest.mark.parametrize(("name", "shape", "digest"), [
    ("exp2", (256, (24, 17), 1 << 20), "e435cb59ad927a01"),
    ("reciprocal", (256, (24, 17), 1 << 24), "e5ae1b7fe9aebf9e"),
    ("root", (512, (24, 16), 3 << 22), "f94eb1eccae23103"),
    ("silu", (508, (21, 16), 1 << 22), "7b005870736cbfa2"),
    ("gelu", (380, (20, 16), 1 << 21), "cf5d39811cfc3c6d"),
])  # fmt: skip
def test_tables_are_those_of_every_bundle_there_is(name: str, shape: tuple[int, tuple[int, int], int], digest: str) -> None:
    """Bundles hold their entries, and a bundle whose entries are others is refused as damaged."""
    one, formula = table(name), formula_named(name)
    assert (formula.entries, one.bits, formula.ranges[-1].stop) == shape
    entries = one.value.astype("<i4").tobytes() + one.slope.astype("<i4").tobytes()
    assert hashlib.sha256(entries).hexdigest().startswith(digest)


def test_tables_are_named() -> None:
    with pytest.raises(UsageError, match="unknown table 'cosh': known are exp2"):
        formula_named("cosh")
