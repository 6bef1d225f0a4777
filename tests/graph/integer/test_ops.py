"""What integer operations say of themselves, number by number, and what their ports refuse, at both ends of what they allow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.ops.integer import (
    IntegerAdd,
    IntegerDecode,
    IntegerEncode,
    IntegerGate,
    IntegerNorm,
    IntegerOp,
    IntegerRelu,
    IntegerRotary,
    IntegerSlice,
    IntegerSoftmax,
    IntegerSum,
    IntegerZeroPoints,
)
from kirin_lava.graph.ops.integer.doors import MOST_SHIFT
from kirin_lava.graph.ops.integer.functions import NORM_BITS, gate_fraction
from kirin_lava.graph.ops.integer.norm import GAIN_LIMIT, MOST_NUMBERS
from kirin_lava.graph.port import CODES, FIXED, SUMS, Inputs, Port
from kirin_lava.graph.values import ROTARY_BITS, Codes, HostContext
from kirin_lava.spikes.codes import INTEGER8, OFFSET, SIGNED
from kirin_lava.spikes.steps import StepRule, TokenBudget
from kirin_lava.spikes.tables import table

WIDTH, HEADS, KV_HEADS, WORD = 24, 4, 2, 62


def ints(width: int, value: int = 3) -> Any:
    return np.full(width, value, np.int32)


NORM = IntegerNorm("n", "x", "y", 9, 15, ints(WIDTH), 20, None, 5, 3, False, 1, table("root"))
LAYER = replace(NORM, bias=ints(WIDTH), center=True)
DECODE = IntegerDecode("d", "sums", "codes", "y", 12, 3, ints(WIDTH), ints(WIDTH, 30), ints(WIDTH))
PLAIN = replace(DECODE, mantissa=None, shift=None, bias=None)
SOFTMAX = IntegerSoftmax(
    "p", "scores", "query", "k", "v", "y", HEADS, KV_HEADS, 5, 40, 8, 9, 10, table("exp2"), table("reciprocal")
)
ENCODE = IntegerEncode("e", "x", "y", OFFSET, TokenBudget(0.1), fraction=9)
ROTARY = IntegerRotary("r", "x", "y", HEADS, 9, 7)
GATE = IntegerGate("g", "x", "y", 9, 8, table("silu"))
ADD = IntegerAdd("a", "x", "other", "y", 9, 5, 6)

# operations of a number of the result, products among them, steps, bytes of constants, tables
SAYS: list[tuple[IntegerOp, tuple[int, int, int, int, tuple[str, ...]]]] = [
    (NORM, (9, 3, 4, 3, ("root",))),
    (replace(NORM, center=True), (12, 3, 4, 3, ("root",))),
    (replace(NORM, bias=ints(WIDTH)), (10, 3, 4, 6, ("root",))),
    (LAYER, (13, 3, 4, 6, ("root",))),
    (PLAIN, (1, 2, 1, 0, ())),
    (replace(PLAIN, bias=ints(WIDTH)), (2, 2, 1, 3, ())),
    (replace(DECODE, bias=None), (3, 2, 1, 3, ())),
    (DECODE, (4, 2, 1, 6, ())),
    (ENCODE, (8, 2, 2, 0, ())),
    (SOFTMAX, (20, 5, 5, 0, ("exp2", "reciprocal"))),
    (ROTARY, (4, 2, 1, 0, ())),
    (GATE, (11, 2, 1, 0, ("silu",))),
    (IntegerRelu("r", "x", "y", 9), (1, 0, 1, 0, ())),
    (ADD, (3, 0, 1, 0, ())),
    (IntegerSlice("s", "x", "y", 2, 5), (0, 0, 0, 0, ())),
    (IntegerSum("s", "sums", "sums", "y"), (1, 0, 1, 0, ())),
    (IntegerZeroPoints("z", "sums", "codes", "y", ints(2 * WIDTH)), (4, 2, 1, 0, ())),
]


@pytest.mark.parametrize(("op", "says"), SAYS, ids=lambda case: getattr(case, "name", None))
def test_work_and_room_of_every_operation(op: IntegerOp, says: tuple[int, int, int, int, tuple[str, ...]]) -> None:
    names = tuple(each.name for each in op.tables())
    assert (op.operations(), op.products, op.steps, op.constant_bytes(), names) == says


def ports(**changed: Port) -> dict[str, Port]:
    found = {
        "x": Port(FIXED, WIDTH, fraction=9),
        "other": Port(FIXED, WIDTH, fraction=5),
        "sums": Port(SUMS, WIDTH),
        "codes": Port(CODES, WIDTH, 1, OFFSET, fraction=12),
        "scores": Port(SUMS, HEADS, by_position=True),
        "query": Port(CODES, WIDTH, HEADS, SIGNED, fraction=8),
        "k": Port(CODES, WIDTH // 2, KV_HEADS, INTEGER8, cached=True, fraction=9),
        "v": Port(CODES, WIDTH // 2, KV_HEADS, INTEGER8, cached=True, fraction=10),
    }
    return {**found, **changed}


def port(op: IntegerOp, head_dim: int | None = WIDTH // HEADS, **changed: Port) -> Port:
    return op.port(Inputs(ports(**changed), head_dim, "here"))


def fixed(width: int, fraction: int) -> Port:
    return Port(FIXED, width, fraction=fraction)


def test_ports_say_what_is_written() -> None:
    assert port(NORM) == port(LAYER) == fixed(WIDTH, 15) and port(DECODE) == port(PLAIN) == fixed(WIDTH, 3)
    assert port(replace(LAYER, gain=ints(6), bias=ints(6), groups=4)) == fixed(WIDTH, 15)
    assert port(ROTARY) == port(ROTARY, None) == fixed(WIDTH, 7) and port(GATE) == fixed(WIDTH // 2, 8)
    assert port(ADD) == fixed(WIDTH, 6) and port(IntegerRelu("r", "x", "y", 9)) == fixed(WIDTH, 9)
    assert port(SOFTMAX) == Port(FIXED, HEADS, by_position=True, fraction=9) and SOFTMAX.fraction == 9
    bits = ENCODE.rule.step_bits(OFFSET, 9)
    assert port(ENCODE) == Port(CODES, WIDTH, 1, OFFSET, fraction=9 + bits)


# an operation by the bits that it shifts a number by, down, and how many bits it allows
SHIFTS: list[tuple[str, Callable[[int], IntegerOp], int, int]] = [
    ("norm", lambda bits: replace(NORM, fraction=NORM_BITS + 20 - bits), 0, WORD),
    ("rotary", lambda bits: replace(ROTARY, fraction=ROTARY_BITS + 9 - bits), 0, WORD),
    ("gate", lambda bits: replace(GATE, fraction=gate_fraction(9) + 9 - bits), 0, WORD),
    ("plain decode", lambda bits: replace(PLAIN, fraction=12 - bits), 0, WORD),
    ("decode", lambda bits: replace(DECODE, shift=np.array([30, bits] * (WIDTH // 2), np.int32)), 0, 1 << 20),
]


@pytest.mark.parametrize(("make", "least", "most"), [case[1:] for case in SHIFTS], ids=[case[0] for case in SHIFTS])
def test_shifts_that_keep_every_bit_are_allowed_and_no_others(make: Callable[[int], IntegerOp], least: int, most: int) -> None:
    for bits in (least, most):
        port(make(bits))
    for bits in (least - 1, most + 1):
        with pytest.raises(UsageError, match=f"here: a (product|sum) is shifted by {bits} bits, not by {least} to {most}"):
            port(make(bits))


@pytest.mark.parametrize("which", ["input_fraction", "other_fraction"])
def test_a_residual_sum_shifts_both_of_its_terms_as_far_as_they_go(which: str) -> None:
    def made(bits: int) -> None:
        op = replace(ADD, input_fraction=6, other_fraction=6, fraction=6)
        op = replace(op, **cast(Any, {which: 6 + bits}))
        port(op, x=fixed(WIDTH, op.input_fraction), other=fixed(WIDTH, op.other_fraction))

    made(WORD)
    made(-MOST_SHIFT)
    for bits in (WORD + 1, -MOST_SHIFT - 1):
        with pytest.raises(UsageError, match=f"here: a term is shifted by {bits} bits, not by -38 to 62"):
            made(bits)


@pytest.mark.parametrize("bits", [-MOST_SHIFT - 1, -MOST_SHIFT, MOST_SHIFT, MOST_SHIFT + 1])
def test_a_step_finer_or_coarser_than_its_value_has_ends(bits: int) -> None:
    class Odd(TokenBudget):
        def step_bits(self, code: object, fraction: int) -> int:
            return bits

    op = replace(ENCODE, rule=cast(StepRule, Odd(0.1)))
    if abs(bits) <= MOST_SHIFT:
        assert port(op).fraction == 9 + bits
        return
    with pytest.raises(UsageError, match=f"here: x is shifted by {bits} bits, not by -38 to 38"):
        port(op)


REFUSED: list[tuple[IntegerOp, dict[str, Port], str]] = [
    (replace(NORM, gain=ints(WIDTH, GAIN_LIMIT)), {}, "a gain or eps has more than 24 bits"),
    (replace(NORM, gain=ints(WIDTH, -GAIN_LIMIT)), {}, "a gain or eps has more than 24 bits"),
    (replace(NORM, eps_mantissa=0), {}, "a gain or eps has more than 24 bits"),
    (replace(NORM, eps_mantissa=GAIN_LIMIT + 1), {}, "a gain or eps has more than 24 bits"),
    (replace(NORM, gain=ints(WIDTH - 1)), {}, "gain has 23 values instead of 24"),
    (replace(LAYER, bias=ints(WIDTH - 1)), {}, "bias has 23 values instead of 24"),
    (replace(NORM, groups=5), {}, "a value of width 24 has no 5 groups"),
    (replace(NORM, root=table("exp2")), {}, "it takes the table root, not 'exp2'"),
    (replace(NORM, gain=ints(4), groups=4), {}, "gain has 4 values instead of 6"),
    (NORM, {"x": fixed(WIDTH, 8)}, r"value 'x' has units of 2\^-\(8\) instead of 2\^-\(9\)"),
    (replace(ROTARY, heads=5), {}, "a value of width 24 has no 5 heads"),
    (replace(ROTARY, heads=2), {}, "rotary tables: 6 instead of 12"),
    (GATE, {"x": fixed(WIDTH - 1, 9)}, "a value of width 23 has no 2 halves"),
    (replace(GATE, silu=table("gelu")), {}, "it takes the table silu, not 'gelu'"),
    (ADD, {"other": fixed(WIDTH - 1, 5)}, "other: 23 instead of 24"),
    (ADD, {"other": fixed(WIDTH, 6)}, r"value 'other' has units of 2\^-\(6\) instead of 2\^-\(5\)"),
    (replace(DECODE, shift=None), {}, "mantissas and shifts belong together"),
    (replace(DECODE, mantissa=None), {}, "mantissas and shifts belong together"),
    (replace(DECODE, mantissa=ints(WIDTH, 1 << 15)), {}, "a mantissa has more than 15 bits"),
    (replace(DECODE, mantissa=ints(WIDTH, -1 << 15)), {}, "a mantissa has more than 15 bits"),
    (replace(DECODE, mantissa=ints(5)), {}, "mantissa has 5 values instead of 24"),
    (replace(DECODE, shift=ints(5)), {}, "shift has 5 values instead of 24"),
    (replace(DECODE, bias=ints(5)), {}, "bias has 5 values instead of 24"),
    (DECODE, {"sums": Port(SUMS, WIDTH, zero_points=1)}, "zero points that are still in the sums: 1 instead of 0"),
    (DECODE, {"codes": Port(CODES, 25, 5, OFFSET, fraction=12)}, "a value of width 24 has no 5 groups"),
    (DECODE, {"codes": Port(CODES, WIDTH, 1, OFFSET, fraction=11)}, "value 'codes' has units"),
    (SOFTMAX, {"scores": Port(SUMS, HEADS + 1, by_position=True)}, "heads: 5 instead of 4"),
    (SOFTMAX, {"scores": Port(SUMS, HEADS)}, "value 'scores' holds sums, which this operation does not read"),
    (replace(SOFTMAX, kv_heads=3), {}, "4 heads over 3 key/value heads"),
    (replace(SOFTMAX, factor_mantissa=0), {}, "its factor is 0, not a positive number of 24 bits"),
    (replace(SOFTMAX, factor_mantissa=(1 << 24) + 1), {}, "its factor is 16777217"),
    (replace(SOFTMAX, exp2=table("root")), {}, "it takes the table exp2, not 'root'"),
    (replace(SOFTMAX, reciprocal=table("root")), {}, "it takes the table reciprocal, not 'root'"),
    *(
        (SOFTMAX, {name: replace(ports()[name], groups=1)}, f"steps of {what}: 1 instead of {heads}")
        for name, what, heads in (("query", "the query", HEADS), ("k", "k", KV_HEADS), ("v", "v", KV_HEADS))
    ),
    *((SOFTMAX, {name: replace(ports()[name], fraction=1)}, f"value '{name}' has units") for name in ("query", "k", "v")),
    *((SOFTMAX, {name: replace(ports()[name], cached=False)}, f"value '{name}' is not cached") for name in ("k", "v")),
    (replace(ENCODE, fraction=8), {}, "value 'x' has units"),
]


@pytest.mark.parametrize(("op", "changed", "message"), REFUSED, ids=lambda case: case if isinstance(case, str) else None)
def test_a_damaged_operation_is_refused(op: IntegerOp, changed: dict[str, Port], message: str) -> None:
    with pytest.raises(UsageError, match=f"^here: {message}.*; the bundle is damaged, export again"):
        op.port(Inputs(ports(**changed), WIDTH // HEADS, "here"))


def test_the_last_that_is_allowed() -> None:
    port(replace(NORM, gain=ints(WIDTH, 1 - GAIN_LIMIT), eps_mantissa=GAIN_LIMIT))
    port(replace(DECODE, mantissa=ints(WIDTH, 1 - (1 << 15))))
    port(replace(SOFTMAX, factor_mantissa=1 << 24))
    for width in (MOST_NUMBERS, MOST_NUMBERS + 1):
        op = replace(NORM, gain=ints(width))
        if width == MOST_NUMBERS:
            port(op, x=fixed(width, 9))
            continue
        with pytest.raises(UsageError, match="rows of 131073 numbers are more than 131072"):
            port(op, x=fixed(width, 9))


def test_the_factor_of_a_sum_for_people() -> None:
    """A sum times its step times this is the value: mantissa * 2^-(shift + fraction - step_fraction)."""
    op = replace(DECODE, mantissa=np.array([3, -5], np.int32), shift=np.array([10, 13], np.int32), step_fraction=12, fraction=9)
    scale = op.scale
    assert scale is not None and scale.dtype == np.float32
    assert scale.tolist() == [3 * 2.0 ** -(10 + 9 - 12), -5 * 2.0 ** -(13 + 9 - 12)]
    assert PLAIN.scale is None


def test_gates_are_finer_than_their_input_by_ten_bits_up_to_22() -> None:
    assert [gate_fraction(fraction) for fraction in (-3, 0, 11, 12, 13, 40)] == [7, 10, 21, 22, 22, 22]


@pytest.mark.parametrize(("op", "read"), [
    (NORM, {"x": "all"}), (ADD, {"x": "all", "other": "all"}), (DECODE, {"sums": "all", "codes": "steps"}),
    (SOFTMAX, {"scores": "all", "query": "steps", "k": "steps", "v": "steps"}),
], ids=lambda case: getattr(case, "name", None))  # fmt: skip
def test_what_is_read(op: IntegerOp, read: dict[str, str]) -> None:
    assert op.reads() == read


def test_steps_are_whole_numbers_of_their_units_and_back() -> None:
    from kirin_lava.graph.ops.integer.op import real_step, whole_step

    step = torch.tensor([3.0, 2.0**24 - 1]) * 2.0**-12
    assert whole_step(step, 12).tolist() == [3, 2**24 - 1] and whole_step(step, 13).tolist() == [6, 2**25 - 2]
    assert torch.equal(real_step(whole_step(step, 12), 12), step)


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_a_token_sees_no_later_one_unless_all_see_all(length: int) -> None:
    start, generator = 4, torch.Generator().manual_seed(length)
    v = torch.randint(-9000, 9000, (1, HEADS, length, start + length), generator=generator)
    steps = {
        name: torch.randint(1, 2**20, (1, KV_HEADS, start + length), generator=generator) * 2.0**-fraction
        for name, fraction in (("k", 9), ("v", 10))
    }
    query = torch.randint(1, 2**8, (1, length, HEADS), generator=generator) * 2.0**-8

    def result(first: int, stop: int, columns: int, causal: bool = True) -> torch.Tensor:
        seen = {name: step[..., :columns] for name, step in steps.items()}
        context = HostContext(torch.arange(start + first, start + stop), steps=seen, causal=causal)
        codes = Codes(torch.empty(0), query[:, first:stop])
        return cast(torch.Tensor, SOFTMAX.compute({"scores": v[:, :, first:stop, :columns], "query": codes}, context))

    together, whole = result(0, length, start + length), result(0, length, start + length, causal=False)
    for i in range(length):
        seen = start + i + 1
        assert torch.equal(together[:, :, i : i + 1, :seen], result(i, i + 1, seen)), i
        assert not together[:, :, i, seen:].any()
        assert torch.equal(whole[:, :, i : i + 1], result(i, i + 1, start + length, causal=False)), i
    assert whole[..., start + 1 :].any() == (length > 1)
