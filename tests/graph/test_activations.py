"""GELU, alone and as a gate, and soft caps: what they are called after, in float32 and in integers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.integers import fraction_of, to_fixed, to_real
from kirin_lava.graph import port
from kirin_lava.graph.ops import Gelu, GeluGate, SoftCap
from kirin_lava.graph.ops.integer import IntegerGelu, IntegerGeluGate, IntegerOp, IntegerSoftCap
from kirin_lava.graph.ops.integer.functions import capped_scores, multiplier_of, tanh_of
from kirin_lava.graph.port import Inputs, Port
from kirin_lava.graph.values import HostContext
from kirin_lava.spikes.tables import table

X = torch.cat([torch.linspace(-12, 12, 20_001), torch.tensor([-1e9, -300.0, 0.0, 1e-8, 300.0, 1e9])])
HERE = HostContext(torch.arange(1))


def result(op: Gelu | GeluGate | SoftCap | IntegerOp, x: Tensor) -> Tensor:
    y = op.compute({"x": x[None, None]}, HERE)
    assert isinstance(y, Tensor)
    return y[0, 0]


@pytest.mark.parametrize(("exact", "form"), [(True, "none"), (False, "tanh")])
def test_gelu_is_that_of_torch(exact: bool, form: str) -> None:
    expected = F.gelu(X.double(), approximate=form)
    got = result(Gelu("g", "x", "y", exact), X)
    torch.testing.assert_close(got.double(), expected, rtol=2e-6, atol=4e-7)
    up = torch.linspace(-3, 3, len(X))
    gated = result(GeluGate("g", "x", "y", exact), torch.cat([X, up]))
    assert torch.equal(gated, got * up)
    op = Gelu("g", "x", "y", exact)
    assert torch.equal(op.float_form({"x": X}, None), F.gelu(X, approximate=form))  # type: ignore[arg-type]
    assert Gelu("g", "x", "y", True).operations() == 39 and Gelu("g", "x", "y", False).operations() == 26


@pytest.mark.parametrize("cap", [0.25, 30.0, 50.0])
def test_soft_cap_is_that_of_torch(cap: float) -> None:
    op = SoftCap("c", "x", "y", cap)
    got = result(op, X)
    torch.testing.assert_close(got.double(), cap * (X.double() / cap).tanh(), rtol=0, atol=3e-7 * cap)
    assert float(got.abs().max()) <= cap and got[X == 0] == 0
    torch.testing.assert_close(op.float_form({"x": X}, None), got, rtol=0, atol=1e-6 * cap)  # type: ignore[arg-type]


@pytest.mark.parametrize("op", [Gelu("g", "x", "y", True), GeluGate("g", "x", "y", False), SoftCap("c", "x", "y", 2.0)])
def test_ports(op: Gelu | GeluGate | SoftCap) -> None:
    width = 4 if isinstance(op, GeluGate) else 8
    assert op.port(Inputs({"x": Port(port.REAL, 8)}, None, "here")) == Port(port.REAL, width)
    if isinstance(op, GeluGate):
        with pytest.raises(UsageError, match="a value of width 7 has no 2 halves"):
            op.port(Inputs({"x": Port(port.REAL, 7)}, None, "here"))
    if isinstance(op, SoftCap):
        with pytest.raises(UsageError, match=r"cap is -2\.0, not a positive number"):
            replace(op, cap=-2.0).port(Inputs({"x": Port(port.REAL, 8)}, None, "here"))


@pytest.mark.parametrize("exact", [True, False])
def test_gelu_in_integers_is_that_of_float(exact: bool) -> None:
    found = table("gelu" if exact else "gelu_tanh")
    x = X[X.abs() < 100]
    whole = to_fixed(x, 14)
    y = result(IntegerGelu("g", "x", "y", 14, 16, found), whole)
    expected = F.gelu(to_real(whole, 14), approximate="none" if exact else "tanh")
    torch.testing.assert_close(to_real(y, 16), expected, rtol=0, atol=2.0**-15)
    up = torch.full_like(whole, 3 << 13)  # 1.5
    gated = result(IntegerGeluGate("g", "x", "y", 14, 14, found), torch.cat([whole, up]))
    torch.testing.assert_close(to_real(gated, 14), 1.5 * expected, rtol=0, atol=2.0**-14)


@pytest.mark.parametrize("cap", [0.25, 30.0])
def test_a_soft_cap_in_integers_is_that_of_float(cap: float) -> None:
    unit = fraction_of(cap, headroom=0)
    factors = IntegerSoftCap.factors(multiplier_of(cap), multiplier_of(1 / cap), 14, unit)
    whole = to_fixed(X[X.abs() < 400], 14)
    y = to_real(result(IntegerSoftCap("c", "x", "y", 14, unit, *factors, table("tanh")), whole), unit)
    torch.testing.assert_close(y, cap * (to_real(whole, 14) / cap).tanh(), rtol=0, atol=cap * 2.0**-16)


def test_tanh_stays_where_its_table_ends() -> None:
    edge = 8 << 18
    ends = tanh_of(torch.tensor([0, edge - 1, edge, 2**40]), table("tanh")).tolist()
    assert ends[0] == 0 and ends[1] == ends[2] == ends[3] == round(2**22 * math.tanh(8))


def test_scores_of_any_size_are_capped() -> None:
    """tanh of `u * row * factor`, for steps of few and of 24 bits, and scores far beyond the cap."""
    u = torch.tensor([[0, 5, -5, 2**20, -(2**46), 2**46]])
    for row in (1, 2**12 + 3, 2**24 - 1):
        for exponent in (-70, -40, -24, 0):
            got = capped_scores(u, torch.tensor([[row]]), multiplier_of(1.3 * 2.0**exponent), table("tanh"))
            expected = (u.double() * row * 1.3 * 2.0**exponent).tanh()
            torch.testing.assert_close(to_real(got, 22), expected, rtol=0, atol=2.0**-16)


def test_tables_of_another_function_are_refused() -> None:
    inputs = Inputs({"x": Port(port.FIXED, 8, fraction=14)}, None, "here")
    with pytest.raises(UsageError, match="it takes the table gelu or gelu_tanh, not 'silu'"):
        IntegerGelu("g", "x", "y", 14, 14, table("silu")).port(inputs)
    with pytest.raises(UsageError, match="it takes the table gelu or gelu_tanh, not 'tanh'"):
        IntegerGeluGate("g", "x", "y", 14, 14, table("tanh")).port(inputs)
    with pytest.raises(UsageError, match="it takes the table tanh, not 'gelu'"):
        IntegerSoftCap("c", "x", "y", 14, 14, 1, 1, 1, 1, table("gelu")).port(inputs)
    with pytest.raises(UsageError, match="a factor is 0, not a positive number of 24 bits"):
        IntegerSoftCap("c", "x", "y", 14, 14, 1, 1, 0, 1, table("tanh")).port(inputs)
