"""The integer stage's own arithmetic against the executor's: every operation and every step rule, at the ends of what a message
holds and in between. Whatever is changed in one of the two alone is found here, and by `verify --level block`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import FitError
from kirin_lava.base.integers import MESSAGE_LIMIT, bit_length, fraction_of, shifted
from kirin_lava.graph.ops.integer import (
    IntegerAdd,
    IntegerCappedSoftmax,
    IntegerDecode,
    IntegerEncode,
    IntegerGate,
    IntegerGelu,
    IntegerGeluGate,
    IntegerNorm,
    IntegerOp,
    IntegerRelu,
    IntegerRotary,
    IntegerSoftCap,
    IntegerSoftmax,
    IntegerSum,
    IntegerZeroPoints,
)
from kirin_lava.graph.ops.integer.functions import multiplier_of
from kirin_lava.graph.values import Codes, HostContext, Value
from kirin_lava.processes.integer_stage import numbers
from kirin_lava.processes.integer_stage.operations import answer
from kirin_lava.spikes.codes import (
    HALVES16,
    INTEGER8,
    OFFSET,
    REFINED,
    SIGNED16,
    UNSIGNED16,
    Channels,
    SpikeCode,
    integer,
    levels,
    offset,
    planes,
)
from kirin_lava.spikes.steps import (
    FixedStep,
    MinMax,
    PlaneRow,
    PlaneStep,
    RowBudget,
    StaticStep,
    StepRule,
    TokenBudget,
)
from kirin_lava.spikes.tables import FORMULAS, Formula, table

WIDTH, HEADS, POSITIONS = 24, 4, 9
TOP = MESSAGE_LIMIT - 1


def tokens(width: int = WIDTH, most: int = TOP) -> list[Tensor]:
    """(1, 1, width) each: nothing, all alike, one alone, both ends, and random ones of every size."""
    generator = torch.Generator().manual_seed(width)
    made = [torch.zeros(width), torch.full((width,), most), torch.full((width,), -most), torch.zeros(width)]
    made[3][0] = -most
    made.append(torch.tensor([most, -most] * (width // 2)))
    for bits in range(0, most.bit_length(), 2):
        made.append((torch.randn(width, generator=generator) * 2**bits).clamp(-most, most))
    return [x.to(torch.int64).view(1, 1, width) for x in made]


def outcome(compute: Callable[[], Value]) -> tuple[Value | None, str | None]:
    """A result, or why there is none."""
    try:
        return compute(), None
    except FitError as error:
        return None, str(error)


def both(op: IntegerOp, values: dict[str, Value], context: HostContext | None = None) -> None:
    """The stage answers what the executor computes, or both refuse for the same reason."""
    context = context or HostContext(torch.tensor([0]))
    expected, refused = outcome(lambda: op.compute(values, context))
    got, mine = outcome(lambda: answer(op, values, context))
    assert mine == refused
    if isinstance(expected, Codes):
        assert isinstance(got, Codes)
        torch.testing.assert_close(got.q, expected.q, rtol=0, atol=0)
        torch.testing.assert_close(got.step, expected.step, rtol=0, atol=0)
        assert (got.zero is None) == (expected.zero is None)
        if got.zero is not None and expected.zero is not None:
            torch.testing.assert_close(got.zero, expected.zero, rtol=0, atol=0)
    elif expected is not None:
        assert isinstance(got, Tensor) and isinstance(expected, Tensor)
        torch.testing.assert_close(got, expected, rtol=0, atol=0, check_dtype=False)


def ints(x: Tensor) -> np.ndarray:
    return x.to(torch.int32).numpy()


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("eps_shift", [-20, 3, 40])
def test_norms(groups: int, center: bool, eps_shift: int) -> None:
    gain = torch.linspace(-(2**23), 2**24 - 1, WIDTH // groups)
    bias = ints(gain / 2**5) if center else None
    op = IntegerNorm("n", "x", "y", 9, 15, ints(gain), 20, bias, 2**23 + 5, eps_shift, center, groups, table("root"))
    for x in tokens():
        both(op, {"x": x})


@pytest.mark.parametrize("op", [IntegerAdd("a", "x", "z", "y", 5, 9, 6), IntegerSum("s", "x", "z", "y")], ids=["add", "sum"])
def test_sums_of_two(op: IntegerOp) -> None:
    for x, z in zip(tokens(), reversed(tokens()), strict=True):
        both(op, {"x": x, "z": z})


@pytest.mark.parametrize("fraction", [2, 11, 20])
def test_gates_and_halves(fraction: int) -> None:
    for x in tokens():
        both(IntegerGate("g", "x", "y", fraction, 2 * fraction - 22, table("silu")), {"x": x})
        both(IntegerRelu("r", "x", "y", fraction), {"x": x})
        for name in ("gelu", "gelu_tanh"):
            both(IntegerGeluGate("g", "x", "y", fraction, 2 * fraction - 22, table(name)), {"x": x})
            both(IntegerGelu("g", "x", "y", fraction, fraction - 1, table(name)), {"x": x})


@pytest.mark.parametrize("fraction", [-9, 0, 12, 22])
@pytest.mark.parametrize("cap", [0.3, 30.0, 5e3])
def test_soft_caps(fraction: int, cap: float) -> None:
    factors = IntegerSoftCap.factors(multiplier_of(cap), multiplier_of(1 / cap), fraction, fraction_of(cap, 0))
    op = IntegerSoftCap("c", "x", "y", fraction, fraction_of(cap, 0), *factors, table("tanh"))
    for x in tokens():
        both(op, {"x": x})


def test_turns() -> None:
    angle = torch.linspace(0, 6.2, POSITIONS * (WIDTH // HEADS)).view(POSITIONS, -1)
    turns = (angle.cos() * 2**22).int(), (angle.sin() * 2**22).int()
    for position, x in enumerate(tokens()[:POSITIONS]):
        both(IntegerRotary("r", "x", "y", HEADS, 8, 7), {"x": x}, HostContext(torch.tensor([position]), turns))


CASES: list[tuple[SpikeCode, StepRule, int]] = [
    *((code, TokenBudget(ratio), 4) for code in (OFFSET, SIGNED16, offset(12), INTEGER8, integer(16)) for ratio in (0.0, 0.1)),
    (integer(16), TokenBudget(0.1, reach=2**16), 1),
    (OFFSET, TokenBudget(0.5), 1),
    (SIGNED16, StaticStep(0.37, 0.1), 1),
    (SIGNED16, StaticStep(3.1e5), 1),
    (HALVES16, FixedStep(0.25, 8), 4),
    (integer(16), FixedStep(3.0, 2), 1),
    (planes(8, 0), PlaneStep(0.25, 8), 1),
    (planes(8, 4), PlaneStep(1.5, 8), 1),
    (planes(16, 8), PlaneStep(2.0**-9, 8), 4),
]


@pytest.mark.parametrize(("code", "rule", "groups"), CASES, ids=lambda case: str(getattr(case, "name", case)))
def test_codes_of_tokens(code: SpikeCode, rule: StepRule, groups: int) -> None:
    for fraction in (3, 12):
        for x in tokens():
            both(IntegerEncode("e", "x", "y", code, rule, groups, fraction=fraction), {"x": x})


@pytest.mark.parametrize("refinement", [0, 1])
@pytest.mark.parametrize("centred", [False, True])
def test_asymmetric_codes(refinement: int, centred: bool) -> None:
    fine = Channels(WIDTH, tuple(range(0, WIDTH, 3)))
    code = (REFINED[refinement] if centred else levels(refinement)).bound(fine)
    for groups in (1, 4) if centred else (1,):
        for x in [*tokens(), torch.arange(WIDTH).view(1, 1, -1) - 7]:
            both(IntegerEncode("e", "x", "y", code, MinMax(refinement, centred), groups, fraction=6), {"x": x})


@pytest.mark.parametrize(
    ("code", "rule"),
    [(UNSIGNED16, RowBudget(0.1)), (UNSIGNED16, RowBudget(0.0)), (INTEGER8, RowBudget(0.0)), (planes(8, 4), PlaneRow(1.5, 8))],
    ids=["few messages", "no messages", "messages alone", "planes"],
)
def test_codes_of_probabilities(code: SpikeCode, rule: StepRule) -> None:
    for x in tokens(HEADS * POSITIONS):
        row = x.abs().view(1, HEADS, 1, POSITIONS)
        context = HostContext(torch.tensor([POSITIONS - 1]))
        both(IntegerEncode("e", "x", "y", code, rule, HEADS, fraction=11), {"x": row}, context)


def test_zero_points() -> None:
    rows = ints(torch.linspace(-900, 900, 2 * WIDTH))
    zero = torch.tensor([[[5.0, 30.0]]])
    for x in tokens():
        codes = Codes(torch.zeros(1, 1, WIDTH), torch.ones(1, 1, 1), zero=zero)
        both(IntegerZeroPoints("z", "x", "c", "y", rows), {"x": x, "c": codes})


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("scaled", [False, True])
def test_decoding(groups: int, scaled: bool) -> None:
    mantissa = ints(torch.linspace(-(2**15) + 1, 2**15 - 1, WIDTH)) if scaled else None
    shift = ints(torch.linspace(30, 70, WIDTH)) if scaled else None
    op = IntegerDecode("d", "x", "c", "y", 12, 3, mantissa, shift, ints(torch.linspace(-99, 99, WIDTH)))
    for x in [*tokens(), *tokens(most=2**40)]:
        step = torch.linspace(1, 2**24 - 1, groups).round().view(1, 1, -1) * 2.0**-12
        both(op, {"x": x, "c": Codes(torch.zeros(1, 1, WIDTH), step)})


@pytest.mark.parametrize("shift", [-30, 20, 44, 90])
@pytest.mark.parametrize("capped", [False, True])
def test_softmax(shift: int, capped: bool) -> None:
    op = IntegerSoftmax("p", "x", "q", "k", "v", "y", HEADS, 2, 2**23 + 1, shift, 8, 9, 10, table("exp2"), table("reciprocal"))
    if capped:
        cap = multiplier_of(50.0 / math.log(2))
        op = IntegerCappedSoftmax(**vars(op), cap_mantissa=cap.mantissa, cap_shift=cap.shift, tanh=table("tanh"))
    generator = torch.Generator().manual_seed(shift)
    steps = {
        name: torch.randint(1, 2**24, (1, 2, POSITIONS), generator=generator).float() * 2.0**-fraction
        for name, fraction in (("k", 9), ("v", 10))
    }
    query = Codes(torch.zeros(1, 1, WIDTH), torch.tensor([[[1.0, 7.0, 2.0**23, 2.0**24 - 1]]]) * 2.0**-8)
    for x in tokens(HEADS * POSITIONS):
        context = HostContext(torch.tensor([POSITIONS - 1]), steps=steps)
        both(op, {"x": x.view(1, HEADS, 1, POSITIONS), "q": query}, context)


def test_numbers_are_those_of_the_tensors() -> None:
    x = torch.tensor([0, 1, -1, 2, -2, 3, 7, -7, 2**40 + 1, -(2**40) - 1, 2**61, -(2**61)])
    for bits in (*range(-1, 63), 64, 70):
        if bits >= 0:
            assert [numbers.scaled(n, bits) for n in x.tolist()] == shifted(x, bits).tolist(), bits
    assert [n.bit_length() for n in x.abs().tolist()] == bit_length(x.abs()).tolist()
    assert numbers.scaled(5, -3) == 40 and numbers.cut(-5, 1) == -3 and numbers.cut(5, -1) == 10


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.name)
def test_tables(formula: Formula) -> None:
    name = formula.name
    q = torch.arange(-3, formula.ranges[-1].stop + 3, 997)
    assert [numbers.look_up(table(name), n) for n in q.tolist()] == table(name)(q).tolist()
