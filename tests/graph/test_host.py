"""Host operations: their bits depend on the token alone, and they compute what they are called after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.graph import port
from kirin_lava.graph.ops import (
    HOST_OPS,
    Add,
    Decode,
    Encode,
    Gate,
    Gelu,
    GeluGate,
    HostOp,
    Norm,
    Relu,
    Rotary,
    Slice,
    SoftCap,
    Softmax,
    Sum,
    ZeroPoints,
)
from kirin_lava.graph.port import Inputs, Port
from kirin_lava.graph.values import Codes, HostContext, Value, rotary_tables
from kirin_lava.spikes.codes import INTEGER8, REFINED, SIGNED, Channels, levels
from kirin_lava.spikes.steps import MinMax, TokenBudget

HEADS, KV_HEADS, HEAD_DIM, WIDTH = 4, 2, 8, 32
RNG = np.random.default_rng(7)
WEIGHT, BIAS = (RNG.normal(size=WIDTH).astype(np.float32) for _ in range(2))
SCALE = np.exp(RNG.normal(size=WIDTH)).astype(np.float32)
TABLES = rotary_tables(1.0 / 10000 ** (torch.arange(0, HEAD_DIM, 2) / HEAD_DIM), 4096)

RMS = Norm("rms", "x", "y", WEIGHT, None, 1e-5, center=False)
LAYER = Norm("layer", "x", "y", WEIGHT, BIAS, 1e-5, center=True)
BY_HEAD = Norm("head", "x", "y", WEIGHT[:HEAD_DIM], None, 1e-6, center=False, groups=HEADS)
SOFTMAX = Softmax("softmax", "s", "q", "k", "v", "p", HEADS, KV_HEADS, HEAD_DIM**-0.5)
CODES = Encode("encode", "x", "y", SIGNED, TokenBudget(0.1))
FINE = Channels(WIDTH, (0, 3, 31))
ROWWISE: dict[str, HostOp] = {
    "rms": RMS,
    "layer": LAYER,
    "norm by head": BY_HEAD,
    "rotary": Rotary("rotary", "x", "y", HEADS),
    "gate": Gate("gate", "x", "y"),
    "gelu gate": GeluGate("gate", "x", "y", exact=False),
    "gelu": Gelu("gelu", "x", "y", exact=False),
    "gelu by erf": Gelu("gelu", "x", "y", exact=True),
    "relu": Relu("relu", "x", "y"),
    "soft cap": SoftCap("cap", "x", "y", 3.0),
    "sum": Sum("sum", "sums", "sums", "y"),
    "slice": Slice("slice", "x", "y", 3, 19),
    "add": Add("add", "x", "other", "y"),
    "decode": Decode("decode", "sums", "codes", "y", SCALE, BIAS),
    "decode by head": Decode("decode", "sums", "by head", "y", None, None),
    "encode": CODES,
    "encode by head": replace(CODES, groups=HEADS),
    "encode levels": replace(CODES, code=levels(2).bound(FINE), rule=MinMax(2)),
    "encode differences": replace(
        CODES, code=REFINED[1].bound(FINE), groups=KV_HEADS, rule=MinMax(1, centred=True), cached=True
    ),
    "zero points": ZeroPoints("zero", "sums", "codes", "y", RNG.integers(-900, 900, 2 * WIDTH).astype(np.int32)),
    "encode integers": replace(CODES, code=INTEGER8, groups=KV_HEADS, rule=TokenBudget()),
}


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tensors(value: Value) -> list[Tensor]:
    found = [value.q, value.step, value.zero] if isinstance(value, Codes) else [value]
    return [tensor for tensor in found if tensor is not None]


def equal(a: Value, b: Value) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def inputs(batch: int, length: int, seed: int) -> dict[str, Value]:
    sums = (1e5 * random(batch, length, WIDTH, seed=seed + 1)).round()
    steps = random(batch, length, HEADS, seed=seed + 2).abs() + 0.01
    return {
        "x": random(batch, length, WIDTH, seed=seed) ** 5,
        "other": random(batch, length, WIDTH, seed=seed + 3),
        "sums": sums,
        "codes": Codes(torch.empty(0), steps[..., :1], zero=(100 * steps[..., :2]).floor()),
        "by head": Codes(torch.empty(0), steps),
    }


def taken(values: dict[str, Value], rows: slice, tokens: slice) -> dict[str, Value]:
    """Some rows and tokens of all values, in memory of their own."""

    def cut(x: Tensor) -> Tensor:
        return x[rows, tokens].clone() if x.dim() == 3 else x

    def cut_codes(v: Codes) -> Codes:
        return Codes(cut(v.q), cut(v.step), zero=None if v.zero is None else cut(v.zero))

    return {k: cut_codes(v) if isinstance(v, Codes) else cut(v) for k, v in values.items()}


def test_every_host_operation_is_computed_here() -> None:
    assert {type(op) for op in (*ROWWISE.values(), SOFTMAX)} == set(HOST_OPS)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), batch=st.integers(1, 3), length=st.integers(1, 40), start=st.integers(0, 500))
@pytest.mark.parametrize("op", ROWWISE.values(), ids=ROWWISE)
def test_a_token_is_computed_alone(op: HostOp, seed: int, batch: int, length: int, start: int) -> None:
    values = inputs(batch, length, seed)
    together = op.compute(values, HostContext(torch.arange(start, start + length), TABLES))
    for row, token in {(0, 0), (batch - 1, length - 1), (seed % batch, seed % length)}:
        part = taken(values, slice(row, row + 1), slice(token, token + 1))
        alone = op.compute(part, HostContext(torch.tensor([start + token]), TABLES))
        for whole, single in zip(tensors(together), tensors(alone), strict=True):
            assert torch.equal(whole[row, token], single[0, 0])


@pytest.mark.parametrize("op", ROWWISE.values(), ids=ROWWISE)
@pytest.mark.usefixtures("two_threads")
def test_threads_change_nothing(op: HostOp) -> None:
    values = inputs(4, 500, 0)
    context = HostContext(torch.arange(500), TABLES)
    two = op.compute(values, context)
    torch.set_num_threads(1)
    assert equal(op.compute(values, context), two)


def normed(op: Norm, x: Tensor) -> Tensor:
    result = op.compute({"x": x}, HostContext(torch.arange(x.shape[1])))
    assert isinstance(result, Tensor)
    return result


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 0.02, 1.0, 300.0, 5e4, 1e15, 1e30])
def test_norms_are_those_of_torch(scale: float) -> None:
    """Computed by torch in float64, because squares of 1e30 overflow in float32."""
    x = random(2, 9, WIDTH) * scale
    weight, bias, wide = torch.from_numpy(WEIGHT).double(), torch.from_numpy(BIAS).double(), x.double()
    rms = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + RMS.eps) * weight
    layer = F.layer_norm(wide, (WIDTH,), weight, bias, LAYER.eps)
    grouped = wide.unflatten(-1, (HEADS, -1))
    by_head = grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + BY_HEAD.eps) * weight[:HEAD_DIM]
    for op, expected in ((RMS, rms), (LAYER, layer), (BY_HEAD, by_head.flatten(-2))):
        torch.testing.assert_close(normed(op, x).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", [RMS, LAYER, BY_HEAD], ids=lambda op: op.name)
@pytest.mark.parametrize("massive", [900.0, 3e3, 1e10, 1e38])
def test_a_massive_activation_leaves_other_tokens_alone(op: Norm, massive: float) -> None:
    """Sums too large for the fixed quantum take another way, and only those."""
    x = random(1, 6, WIDTH)
    plain = normed(op, x)
    x[0, 2, 5] = massive
    mixed = normed(op, x)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(mixed[:, others], plain[:, others])
    assert torch.equal(mixed[:, 2:3], normed(op, x[:, 2:3].clone()))
    assert torch.isfinite(mixed).all()


def test_norms_of_large_rows_have_no_order() -> None:
    """Sums of squares beyond what the quantum takes: the same bits for the same numbers in any order."""
    generator = torch.Generator().manual_seed(3)
    width = 512
    x = 4e4 + 4 * random(1, 20, width, seed=4)
    plain = replace(LAYER, weight=np.ones(width, np.float32), bias=None)
    expected = normed(plain, x)
    for _ in range(5):
        order = torch.randperm(width, generator=generator)
        assert torch.equal(normed(plain, x[..., order].contiguous()), expected[..., order])


def test_operations_are_those_of_a_plain_implementation() -> None:
    """Per element; an exp counts 20."""
    counted = {name: op.operations() for name, op in ROWWISE.items()}
    assert counted == {
        "rms": 4,
        "layer": 7,  # with a bias
        "norm by head": 4,
        "rotary": 3,
        "gate": 24,
        "slice": 0,
        "add": 1,
        "decode": 3,
        "decode by head": 1,
        "encode": 5,
        "encode by head": 5,
        "encode integers": 5,
        "encode levels": 5,
        "encode differences": 5,
        "zero points": 4,  # two products, two differences
        "sum": 1,
        "relu": 1,
        "gelu": 26,
        "gelu by erf": 39,
        "gelu gate": 27,
        "soft cap": 25,
    }
    assert SOFTMAX.operations() == 27 and replace(SOFTMAX, cap=50.0).operations() == 53


@pytest.mark.parametrize("op", [RMS, LAYER, BY_HEAD], ids=lambda op: op.name)
def test_norms_of_silence_and_of_nan(op: Norm) -> None:
    x = random(1, 3, WIDTH)
    x[0, 1] = 0
    x[0, 2, 0] = torch.nan
    y = normed(op, x)
    expected = BIAS if op is LAYER else np.zeros(WIDTH, np.float32)
    np.testing.assert_array_equal(y[0, 1].numpy(), expected)
    assert torch.isfinite(y[0, 0]).all() and torch.isnan(y[0, 2]).any()


def test_rotary_turns_pairs_by_their_position() -> None:
    x, start = random(2, 5, WIDTH), 100
    context = HostContext(torch.arange(start, start + 5), TABLES)
    turned = Rotary("rotary", "x", "y", HEADS).compute({"x": x}, context)
    assert isinstance(turned, Tensor)
    pairs = x.unflatten(-1, (HEADS, 2, -1)).double()
    angles = torch.arange(start, start + 5).view(-1, 1, 1) / 10000 ** (torch.arange(0, HEAD_DIM, 2).double() / HEAD_DIM)
    complex_pairs = torch.complex(pairs[..., 0, :], pairs[..., 1, :]) * torch.polar(torch.ones_like(angles), angles)
    expected = torch.stack([complex_pairs.real, complex_pairs.imag], -2).flatten(-3)
    torch.testing.assert_close(turned.double(), expected, rtol=0, atol=1e-5)


def test_gate_is_silu_times_up() -> None:
    gate = torch.cat([torch.linspace(-120, 120, 10_001), torch.tensor([-1e4, 1e4, 0.0])])
    up = random(len(gate))
    y = Gate("gate", "x", "y").compute({"x": torch.cat([gate, up])[None, None]}, HostContext(torch.arange(1)))
    assert isinstance(y, Tensor)
    expected = F.silu(gate.double()) * up.double()
    torch.testing.assert_close(y[0, 0].double(), expected, rtol=1e-5, atol=1e-30)


def test_decode_multiplies_step_and_scale() -> None:
    values = inputs(2, 3, 0)
    y = ROWWISE["decode"].compute(values, HostContext(torch.arange(3)))
    sums, codes = values["sums"], values["codes"]
    assert isinstance(y, Tensor) and isinstance(sums, Tensor) and isinstance(codes, Codes)
    torch.testing.assert_close(y, sums * codes.step * torch.from_numpy(SCALE) + torch.from_numpy(BIAS), rtol=1e-6, atol=1e-6)
    integers = {**values, "sums": sums.to(torch.int32)}  # as membranes come from Lava
    assert equal(ROWWISE["decode"].compute(integers, HostContext(torch.arange(3))), y)


def test_sums_stay_exact_and_codes_keep_their_step_when_sliced() -> None:
    x, other = torch.tensor([[[2.0**24, 3.0]]]), torch.tensor([[[1.0, 4.0]]])
    total = Sum("sum", "x", "other", "y").compute({"x": x, "other": other}, HostContext(torch.arange(1)))
    assert isinstance(total, Tensor) and total.tolist() == [[[2.0**24 + 1, 7.0]]]
    codes = Codes(torch.arange(8.0).view(1, 1, 8), torch.tensor([[[0.5]]]))
    part = Slice("slice", "c", "y", 2, 5).compute({"c": codes}, HostContext(torch.arange(1)))
    assert isinstance(part, Codes) and part.q.tolist() == [[[2, 3, 4]]] and part.step is codes.step


@pytest.mark.parametrize("op", [RMS, ROWWISE["gate"], ROWWISE["decode"]], ids=lambda op: op.name)
def test_codes_in_place_of_numbers_are_refused(op: HostOp) -> None:
    codes = Codes(torch.zeros(1, 1, 4), torch.ones(1, 1, 1))
    with pytest.raises(TypeError, match="holds codes"):
        op.compute({op.input: codes, "codes": codes}, HostContext(torch.arange(1)))


def attention(length: int, start: int, seed: int, spread: float = 300.0) -> tuple[Tensor, Codes, dict[str, Tensor]]:
    """Sums (1, H, L, J), zero where later, query steps, and the steps of keys and values."""
    sums = (spread * random(1, HEADS, length, start + length, seed=seed)).round()
    sums *= torch.ones(length, start + length).tril(start)
    query = Codes(torch.empty(0), random(1, length, HEADS, seed=seed + 1).abs() * 0.1 + 0.01)
    steps = {name: random(1, KV_HEADS, start + length, seed=seed + 2).abs() + 0.01 for name in ("k", "v")}
    return sums, query, steps


def softmax(sums: Tensor, query: Codes, steps: dict[str, Tensor], start: int) -> Tensor:
    positions = torch.arange(start, start + sums.shape[2])
    result = SOFTMAX.compute({"s": sums, "q": query}, HostContext(positions, steps=steps))
    assert isinstance(result, Tensor)
    return result


def test_softmax_is_that_of_torch_times_the_steps_of_values() -> None:
    sums, query, steps = attention(20, 30, 0)
    key, value = (steps[name].repeat_interleave(HEADS // KV_HEADS, 1).unsqueeze(2).double() for name in ("k", "v"))
    scores = sums.double() * query.step.transpose(1, 2).unsqueeze(-1).double() * key * SOFTMAX.factor
    scores = scores.masked_fill(torch.ones(20, 50).tril(30) == 0, -torch.inf)
    result = softmax(sums, query, steps, 30)
    # weights of 2^-14 of the largest and more, to which 8 bits are blind
    torch.testing.assert_close(result.double(), scores.softmax(-1) * value, rtol=2e-3, atol=1e-6)
    context = HostContext(torch.arange(30, 50), steps=steps)
    capped = replace(SOFTMAX, cap=2.5).compute({"s": sums, "q": query}, context)
    assert isinstance(capped, Tensor)
    scores = 2.5 * (scores / 2.5).tanh()
    scores = scores.masked_fill(torch.ones(20, 50).tril(30) == 0, -torch.inf)
    torch.testing.assert_close(capped.double(), scores.softmax(-1) * value, rtol=2e-3, atol=1e-6)
    assert not result[..., -1].squeeze()[:, :-1].any()


@pytest.mark.parametrize(("name", "what"), [("q", "the query"), ("k", "k"), ("v", "v")])
def test_softmax_asks_for_a_step_of_every_head(name: str, what: str) -> None:
    """Of the query as many as heads, of what is cached as many as heads of the keys."""
    kept = Port(port.CODES, KV_HEADS * HEAD_DIM, KV_HEADS, INTEGER8, cached=True)
    ports = {"s": Port(port.SUMS, HEADS, by_position=True), "q": Port(port.CODES, HEADS * HEAD_DIM, HEADS, SIGNED)}
    ports |= {"k": kept, "v": kept}
    assert SOFTMAX.port(Inputs(ports, None, "here")) == Port(port.REAL, HEADS, by_position=True)
    with pytest.raises(UsageError, match=f"here: steps of {what}: 1 instead of"):
        SOFTMAX.port(Inputs({**ports, name: replace(ports[name], groups=1)}, None, "here"))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**16), start=st.integers(0, 60), length=st.integers(1, 40), spread=st.sampled_from([1.0, 300.0, 1e6])
)
def test_softmax_of_a_row_knows_no_later_columns(seed: int, start: int, length: int, spread: float) -> None:
    sums, query, steps = attention(length, start, seed, spread)
    together = softmax(sums, query, steps, start)
    assert torch.isfinite(together).all()
    for i in {0, length // 2, length - 1}:
        seen = start + i + 1
        alone = softmax(
            sums[:, :, i : i + 1, :seen].clone(),
            Codes(query.q, query.step[:, i : i + 1].clone()),
            {name: step[..., :seen].clone() for name, step in steps.items()},
            start + i,
        )
        assert torch.equal(together[:, :, i : i + 1, :seen], alone)
        assert not together[:, :, i, seen:].any()


def test_sums_of_weights_in_32_and_64_bits_agree() -> None:
    """From some number of columns on, units are added in 64 bits; a row that sees fewer must not notice."""
    sums, query, steps = attention(1, 2100, 0, spread=1.0)
    whole = softmax(sums, query, steps, 2100)
    narrow = {name: step[..., :2000] for name, step in steps.items()}
    row = softmax(sums[..., :2000].clone(), query, narrow, 1999)
    wide = torch.cat([sums[..., :2000], torch.zeros(1, HEADS, 1, 101)], -1)
    padded = softmax(wide, query, steps, 1999)  # columns beyond the position, as a network with spare capacity has them
    assert torch.equal(padded[..., :2000], row) and not padded[..., 2000:].any()
    assert torch.isfinite(whole).all()
    total = (whole.double() / steps["v"].repeat_interleave(2, 1).unsqueeze(2).double()).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-3, atol=0)


@pytest.mark.parametrize("columns", [2047, 2048, 2049, 3900, 4090])
def test_softmax_of_many_equal_scores_is_uniform(columns: int) -> None:
    """Every weight counts 0.57 * 2^20 units: 3,617 columns and more go beyond 32 bits."""
    steps = {name: torch.ones(1, KV_HEADS, columns) for name in ("k", "v")}
    query = Codes(torch.empty(0), torch.ones(1, 1, HEADS))
    weights = softmax(torch.zeros(1, HEADS, 1, columns), query, steps, columns - 1)
    torch.testing.assert_close(weights * columns, torch.ones_like(weights), rtol=1e-4, atol=0)


@pytest.mark.usefixtures("two_threads")
def test_threads_change_no_softmax() -> None:
    arguments = attention(300, 0, 0)
    two = softmax(*arguments, 0)
    torch.set_num_threads(1)
    assert torch.equal(softmax(*arguments, 0), two)


def test_remembered_steps_grow_by_token() -> None:
    context = HostContext(torch.arange(3))
    steps = random(2, 3, KV_HEADS).abs()
    context.remember("k", steps[:, :2])
    context.remember("k", steps[:, 2:])
    assert torch.equal(context.steps["k"], steps.transpose(1, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_computes_the_same_bits() -> None:
    values = inputs(2, 50, 0)
    there: dict[str, Value] = {
        k: Codes(v.q.cuda(), v.step.cuda()) if isinstance(v, Codes) else v.cuda() for k, v in values.items()
    }
    positions = torch.arange(50)
    for op in ROWWISE.values():
        result = op.compute(there, HostContext(positions, (TABLES[0].cuda(), TABLES[1].cuda())))
        expected = op.compute(values, HostContext(positions, TABLES))
        assert all(torch.equal(a.cpu(), b) for a, b in zip(tensors(result), tensors(expected), strict=True)), op.name
    sums, query, steps = attention(50, 0, 0)
    moved = Codes(query.q.cuda(), query.step.cuda()), {name: step.cuda() for name, step in steps.items()}
    assert torch.equal(softmax(sums.cuda(), *moved, 0).cpu(), softmax(sums, query, steps, 0))
