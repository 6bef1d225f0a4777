"""What operations of the host and of cores write, read and refuse, and the float forms of those of the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.ops import (
    Add,
    Decode,
    Encode,
    Gate,
    HostOp,
    Linear,
    Mix,
    Norm,
    Op,
    Relu,
    Rotary,
    Score,
    Slice,
    Softmax,
    Sum,
    ZeroPoints,
)
from kirin_lava.graph.ops.zero_points import check_row_sums, row_sums
from kirin_lava.graph.port import CODES, REAL, SUMS, Inputs, Port
from kirin_lava.graph.values import HostContext, rotary_tables
from kirin_lava.spikes.codes import HALVES16, INTEGER8, OFFSET, REFINED, SIGNED, UNSIGNED16, Channels, levels, planes
from kirin_lava.spikes.neurons import DOUBLING, READ_OUT, Silence
from kirin_lava.spikes.steps import MinMax, RowBudget, TokenBudget

WIDTH, HEADS, KV_HEADS, HEAD_DIM = 24, 4, 2, 6
ONES = np.ones(WIDTH, np.float32)
WEIGHT = np.ones((5, WIDTH), np.int8)
TABLES = rotary_tables(torch.tensor([1.0, 0.3, 0.1]), 9)

NORM = Norm("n", "x", "y", ONES, ONES, 1e-5, center=True)
ROTARY = Rotary("r", "x", "y", HEADS)
SLICE = Slice("s", "x", "y", 3, 9)
GATE, RELU, ADD, SUM = Gate("g", "x", "y"), Relu("r", "x", "y"), Add("a", "x", "other", "y"), Sum("s", "sums", "more", "y")
DECODE = Decode("d", "sums", "codes", "y", ONES, ONES)
ENCODE = Encode("e", "x", "y", OFFSET, TokenBudget(0.1))
ROW = Encode("e", "p", "y", UNSIGNED16, RowBudget(0.1), HEADS)
ZERO = ZeroPoints("z", "moved", "with zeros", "y", np.ones(2 * WIDTH, np.int32))
SOFTMAX = Softmax("p", "scores", "query", "k", "v", "y", HEADS, KV_HEADS, 0.5)
LINEAR = Linear("l", "codes", "y", WEIGHT, 8, OFFSET)
FIRES = replace(LINEAR, neuron=Silence(UNSIGNED16, np.full(5, 3), np.zeros(5, np.int64)))
SCORE = Score("s", "query", "k", "y", HEADS, KV_HEADS, SIGNED)
MIX = Mix("m", "row", "v", "y", HEADS, KV_HEADS, UNSIGNED16)

PORTS = {
    "x": Port(REAL, WIDTH),
    "other": Port(REAL, WIDTH),
    "p": Port(REAL, HEADS, by_position=True),
    "sums": Port(SUMS, WIDTH),
    "more": Port(SUMS, WIDTH),
    "moved": Port(SUMS, WIDTH, zero_points=2),
    "codes": Port(CODES, WIDTH, 1, OFFSET),
    "with zeros": Port(CODES, WIDTH, 1, levels(1), zero_points=2),
    "scores": Port(SUMS, HEADS, by_position=True),
    "query": Port(CODES, HEADS * HEAD_DIM, HEADS, SIGNED),
    "k": Port(CODES, KV_HEADS * HEAD_DIM, KV_HEADS, INTEGER8, cached=True),
    "v": Port(CODES, KV_HEADS * HEAD_DIM, KV_HEADS, INTEGER8, cached=True),
    "row": Port(CODES, HEADS, HEADS, UNSIGNED16, by_position=True),
}


def port(op: Op, changed: dict[str, Port] | None = None, head_dim: int | None = HEAD_DIM) -> Port:
    return op.port(Inputs({**PORTS, **(changed or {})}, head_dim, "here"))


def test_what_is_written() -> None:
    x = PORTS["x"]
    for op in (NORM, replace(NORM, weight=ONES[:6], bias=ONES[:6], groups=4), ROTARY, RELU, ADD, DECODE):
        assert port(op) == x
    assert port(ROTARY, head_dim=None) == x and port(GATE) == Port(REAL, 12) and port(SUM) == PORTS["sums"]
    assert port(SLICE) == Port(REAL, 6)
    cached = replace(PORTS["codes"], cached=True, code=levels(1).bound(Channels(WIDTH, (4, 20))))
    part = port(replace(SLICE, input="codes"), {"codes": cached})
    assert part == Port(CODES, 6, 1, levels(1).bound(Channels(6, (1,))))
    assert port(ENCODE) == PORTS["codes"] and port(ROW) == PORTS["row"]
    assert port(replace(ENCODE, groups=4, cached=True)) == Port(CODES, WIDTH, 4, OFFSET, cached=True)
    assert port(replace(ENCODE, code=levels(1), rule=MinMax(1))) == Port(CODES, WIDTH, 1, levels(1), zero_points=2)
    assert port(ZERO) == Port(SUMS, WIDTH) and port(SOFTMAX) == Port(REAL, HEADS, by_position=True)
    assert port(LINEAR) == Port(SUMS, 5) and port(FIRES) == Port(CODES, 5, code=UNSIGNED16)
    assert port(FIRES, {"codes": replace(PORTS["codes"], fraction=9)}).fraction == 0
    assert port(LINEAR, {"codes": replace(PORTS["codes"], zero_points=2)}) == Port(SUMS, 5, zero_points=2)
    assert port(SCORE) == Port(SUMS, HEADS, by_position=True) and port(MIX) == port(replace(MIX, part=1)) == Port(SUMS, 24)
    assert (LINEAR.kind, FIRES.kind, SCORE.kind, MIX.kind) == ("read", "fire", "score", "mix")


def test_what_is_read() -> None:
    assert NORM.reads() == {"x": "all"} and ADD.reads() == {"x": "all", "other": "all"}
    assert SUM.reads() == {"sums": "all", "more": "all"} and SCORE.reads() == {"query": "all", "k": "all"}
    assert DECODE.reads() == {"sums": "all", "codes": "steps"} and ZERO.reads() == {"moved": "all", "with zeros": "steps"}
    assert SOFTMAX.reads() == {"scores": "all", "query": "steps", "k": "steps", "v": "steps"}


def changed(name: str, **values: Any) -> dict[str, Port]:
    return {name: replace(PORTS[name], **values)}


SHARED = r"\d+ heads over \d+ key/value heads"
REFUSED: list[tuple[Op, dict[str, Port], str]] = [
    (replace(NORM, input="nothing"), {}, "value 'nothing' is read before it is written"),
    (replace(NORM, input="codes"), {}, "value 'codes' holds codes, which this operation does not read"),
    (replace(NORM, input="p"), {}, "value 'p' holds real per head and position, which this"),
    (replace(NORM, groups=5), {}, "a value of width 24 has no 5 groups"),
    (replace(NORM, groups=0), {}, "a value of width 24 has no 0 groups"),
    *((replace(NORM, eps=eps), {}, f"eps is {eps}, not a positive number") for eps in (0.0, -1.0, float("inf"), float("nan"))),
    (replace(NORM, weight=ONES[:23]), {}, "weight has 23 values instead of 24"),
    (replace(NORM, bias=ONES[:23]), {}, "bias has 23 values instead of 24"),
    (replace(NORM, groups=4), {}, "weight has 24 values instead of 6"),
    (replace(NORM, groups=4, weight=ONES[:6]), {}, "bias has 24 values instead of 6"),
    (replace(NORM, bias=np.array([1, 2, np.nan, np.inf] * 6, np.float32)), {}, r"bias\[2\] is nan"),
    (replace(ROTARY, heads=5), {}, "a value of width 24 has no 5 heads"),
    (replace(ROTARY, heads=2), {}, "rotary tables: 6 instead of 12"),
    *(
        (replace(SLICE, start=a, stop=b), {}, f"{a}:{b} is no part of a value of width 24")
        for a, b in [(-1, 4), (4, 4), (5, 25)]
    ),
    (replace(SLICE, input="codes"), changed("codes", groups=2), "steps: 2 instead of 1"),
    (replace(SLICE, input="sums"), {}, "value 'sums' holds sums"),
    (GATE, changed("x", width=23), "a value of width 23 has no 2 halves"),
    (ADD, changed("other", width=23), "other: 23 instead of 24"),
    (SUM, changed("more", width=23), "other: 23 instead of 24"),
    (SUM, changed("more", zero_points=2), "zero points of other: 2 instead of 0"),
    (DECODE, changed("sums", zero_points=2), "zero points that are still in the sums: 2 instead of 0"),
    (DECODE, changed("codes", groups=5), "a value of width 24 has no 5 groups"),
    (replace(DECODE, scale=ONES[1:]), {}, "scale has 23 values instead of 24"),
    (replace(DECODE, bias=ONES[1:]), {}, "bias has 23 values instead of 24"),
    (replace(ENCODE, groups=5), {}, "a value of width 24 has no 5 groups"),
    (replace(ENCODE, rule=TokenBudget(0.6)), {}, "ratio 0.6 is not within 0 to 0.5"),
    (replace(ENCODE, rule=TokenBudget(0.1, reach=6), groups=4), {}, "reach 6 is not above its 6 codes"),
    (replace(ENCODE, rule=MinMax(1)), {}, "asymmetric steps of refinement 1 do not give offset codes"),
    (replace(ENCODE, code=levels(1).bound(Channels(23, ()))), {}, "levels-2 codes of 23 channels in a value of width 24"),
    (replace(ROW, groups=2), {}, "a row of probabilities has one step for each head, and is not cached"),
    (replace(ROW, cached=True), {}, "a row of probabilities has one step for each head, and is not cached"),
    *(
        (replace(ENCODE, code=levels(1), rule=MinMax(1), groups=groups, cached=cached), {}, "zero points belong to codes that")
        for groups, cached in ((2, False), (1, True))
    ),
    (ZERO, changed("moved", zero_points=1), "zero points: 1 instead of 2"),
    (ZERO, changed("moved", zero_points=0) | changed("with zeros", zero_points=0), "there is no zero point to take off"),
    (replace(ZERO, rows=ZERO.rows[1:]), {}, "rows has 47 values instead of 48"),
    *((replace(SOFTMAX, heads=h, kv_heads=k), {}, SHARED) for h, k in ((4, 3), (4, 0), (2, 4), (1 << 17, 1))),
    (SOFTMAX, changed("scores", width=5), "heads: 5 instead of 4"),
    (SOFTMAX, changed("query", groups=1), "steps of the query: 1 instead of 4"),
    (SOFTMAX, changed("k", groups=1), "steps of k: 1 instead of 2"),
    (SOFTMAX, changed("v", cached=False), "value 'v' is not cached"),
    *((replace(SOFTMAX, factor=factor), {}, f"factor is {factor}, not a positive") for factor in (0.0, float("inf"))),
    (LINEAR, changed("codes", width=23), "inputs: 24 instead of 23"),
    (LINEAR, changed("codes", groups=2), "groups: 2 instead of 1"),
    (LINEAR, changed("codes", code=SIGNED), "it takes offset codes, its input has signed"),
    (LINEAR, changed("codes", code=None), "it takes offset codes, its input has None"),
    (replace(LINEAR, neuron=DOUBLING), {}, f"neurons that read {DOUBLING.name} do not read offset codes"),
    (replace(FIRES, weight=WEIGHT[:4]), {}, "ramp has 5 values instead of 4"),
    (FIRES, changed("codes", zero_points=2), "zero points in a segment that fires: 2 instead of 0"),
    *((replace(op, kv_heads=3), {}, SHARED) for op in (SCORE, MIX)),
    (SCORE, changed("k", cached=False), "value 'k' is not cached"),
    (SCORE, changed("k", groups=1), "steps of k: 1 instead of 2"),
    (SCORE, changed("query", code=OFFSET), "it takes signed codes, its input has offset"),
    (SCORE, changed("query", width=23), "width of the query: 23 instead of 24"),
    (MIX, changed("row", width=5), "heads: 5 instead of 4"),
    (MIX, changed("row", by_position=False), "value 'row' holds codes, which this operation does not read"),
    (MIX, changed("v", groups=1), "steps of v: 1 instead of 2"),
    *((replace(MIX, part=part), {}, f"positions of a part is {part}, not a positive number") for part in (0, -1)),
]


@pytest.mark.parametrize(("op", "ports", "message"), REFUSED, ids=lambda case: case if isinstance(case, str) else None)
def test_what_does_not_fit_is_refused(op: Op, ports: dict[str, Port], message: str) -> None:
    with pytest.raises(UsageError, match=f"^here: {message}.*; the bundle is damaged, export again"):
        port(op, ports)


@pytest.mark.parametrize(("code", "kept", "most"), [
    (SIGNED, INTEGER8, ((1 << 24) - 1) // (127 * 127)),  # summed in float32
    (SIGNED, HALVES16, STATE_MAX // (127 * 128)),  # in two halves, read out each for itself
    (planes(8, 0), INTEGER8, STATE_MAX // 127),  # plane by plane
])  # fmt: skip
def test_heads_are_as_wide_as_their_sums_are_exact(code: Any, kept: Any, most: int) -> None:
    for width in (most, most + 1):
        ports = changed("query", width=width, code=code, groups=1) | changed("k", width=width, code=kept, groups=1)
        op = replace(SCORE, heads=1, kv_heads=1, code=code)
        if width == most:
            port(op, ports)
            continue
        with pytest.raises(UsageError, match=f"heads of width {width} do not fit sums of 24 bits"):
            port(op, ports)


def test_rows_are_summed_by_kind_of_channel_and_checked() -> None:
    code, rng = levels(1).bound(Channels(WIDTH, (0, 7, 23))), np.random.default_rng(0)
    weight = rng.integers(-127, 128, (5, WIDTH)).astype(np.int8)
    rows = row_sums(weight, code)
    fine = weight[:, [0, 7, 23]].astype(int).sum(1)
    assert rows.tolist() == [(weight.astype(int).sum(1) - fine).tolist(), fine.tolist()] and rows.dtype == np.int32
    plan = np.broadcast_to(weight[:1], (5, WIDTH))
    assert row_sums(plan, code).tolist() == row_sums(plan.copy(), code).tolist()
    first, second = (
        Linear(name, "with zeros", f"{name}.sums", part, 8, code) for name, part in (("a", weight), ("b", -2 - weight))
    )
    both = Sum("both", "a.sums", "b.sums", "moved")
    right = replace(ZERO, rows=(rows + row_sums(second.weight, code)).ravel())
    check_row_sums((first, second, both, right), "here")
    wrong = right.rows.copy()
    wrong[[6, 8]] += 1
    for rows, where in ((wrong, ", first in entry 6"), (right.rows[1:], "")):
        with pytest.raises(UsageError, match=rf"here \(z\): its row sums are not those of the weights{where}; export"):
            check_row_sums((first, second, both, replace(right, rows=rows)), "here")
    with pytest.raises(UsageError, match="its row sums are not those of the weights; export"):
        check_row_sums((first, both, right), "here")
    assert isinstance(READ_OUT.reach(code, 3), int) and REFINED[1].signed


class Model:
    """What a float form asks of a model."""

    rotary = TABLES

    def gain(self, op: Norm) -> Tensor:
        return torch.from_numpy(op.weight)


FORMS: list[HostOp] = [
    *(replace(NORM, center=center, bias=bias) for center in (False, True) for bias in (None, 3 * ONES)),
    replace(NORM, center=True, groups=4, weight=np.arange(6, dtype=np.float32), bias=None),
    ROTARY,
    SLICE,
    GATE,
    RELU,
    ADD,
]


@pytest.mark.parametrize("op", FORMS, ids=lambda op: type(op).__name__)
def test_a_float_form_computes_what_the_operation_does(op: HostOp) -> None:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(2, 9, WIDTH, generator=generator) for name in ("x", "other")}
    found = op.compute(dict(values), HostContext(torch.arange(9), TABLES))
    assert isinstance(found, Tensor)
    torch.testing.assert_close(op.float_form(values, Model()), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", [ENCODE, DECODE, SUM, ZERO, SOFTMAX], ids=lambda op: type(op).__name__)
def test_others_have_no_float_form(op: HostOp) -> None:
    with pytest.raises(TypeError, match=f"{type(op).__name__} has no float form"):
        op.float_form({}, Model())
