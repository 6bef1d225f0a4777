"""Small decoder blocks with random weights: every kind of operation, every form of pipeline."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from kirin_lava.base.integers import fraction_of, to_fixed
from kirin_lava.graph import values
from kirin_lava.graph.block import Block
from kirin_lava.graph.executor import BlockExecutor, Cache
from kirin_lava.graph.ops import Add, Decode, Encode, Gate, Linear, Mix, Norm, Op, Relu, Rotary, Score, Slice, Softmax
from kirin_lava.graph.values import Float32
from kirin_lava.quantize.integers import Scales, to_integers, whole_rotary
from kirin_lava.spikes.codes import CODES, INTEGER8, SIGNED, UNSIGNED8, Integers, SpikeCode
from kirin_lava.spikes.neurons import Silence
from kirin_lava.spikes.steps import RowBudget, StaticStep, TokenBudget

Int64 = npt.NDArray[np.int64]
WIDTH, HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 12, 4, 2, 4, 10
POSITIONS = 32


def rotary_tables() -> tuple[Float32, Float32]:
    """cos and sin, (POSITIONS, HEAD_DIM)."""
    cos, sin = values.rotary_tables(torch.tensor([1.0, 0.1]), POSITIONS)
    return cos.numpy(), sin.numpy()


def tokens(seed: int, count: int) -> Float32:
    """(count, WIDTH) inputs of a block, with elements that become outliers."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 1, (count, WIDTH)) * rng.choice([1, 8], (count, WIDTH), p=[0.9, 0.1])).astype(np.float32)


def unsigned(enc: SpikeCode) -> SpikeCode:
    """The unsigned code beside a signed one: spikes in a window of the same length, where there is such a code."""
    return next(
        (
            code
            for code in CODES
            if not (code.signed or code.graded or code.repeats) and code.has_spikes and code.window == enc.window
        ),
        UNSIGNED8,
    )


class Maker:
    """Makes operations in order."""

    def __init__(self, seed: int, enc: SpikeCode) -> None:
        self.rng, self.enc = np.random.default_rng(seed), enc
        self.ops: list[Op] = []

    def norm(self, x: str, y: str, center: bool) -> None:
        """A norm with a random gain."""
        gain = self.rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)
        bias = self.rng.normal(0, 0.1, WIDTH).astype(np.float32) if center else None
        self.ops.append(Norm(f"{y}.norm", x, y, gain, bias, 1e-5, center))

    def weight(self, n: int, k: int) -> Integers:
        """4-bit weights."""
        return self.rng.integers(-8, 8, (n, k)).astype(np.int8)

    def linear(self, x: str, y: str, n: int, k: int, codes: str | None = None, enc: SpikeCode | None = None) -> None:
        """real x (or codes) -> real y by a read segment."""
        source, code = codes or f"{y}.in", enc or self.enc
        if codes is None:
            self.ops.append(Encode(f"{y}.encode", x, source, code, TokenBudget(0.1)))
        scale = self.rng.uniform(0.01, 0.05, n).astype(np.float32)
        bias = self.rng.normal(0, 0.1, n).astype(np.float32)
        self.ops += [
            Linear(y, source, f"{y}.sums", np.asarray(self.weight(n, k), np.int8), 4, code),
            Decode(f"{y}.decode", f"{y}.sums", source, y, scale, bias),
        ]

    def attention(self, q: str, k: str, v: str, out: str) -> None:
        """Attention from real q, k, v to real `out`."""
        p_enc = unsigned(self.enc)
        self.ops += [
            Encode("q.encode", q, "q.codes", self.enc, TokenBudget(0.1), HEADS),
            Encode("k.encode", k, "k.codes", INTEGER8, groups=KV_HEADS, cached=True),
            Encode("v.encode", v, "v.codes", INTEGER8, groups=KV_HEADS, cached=True),
            Score("score", "q.codes", "k.codes", "scores", HEADS, KV_HEADS, self.enc),
            Softmax("softmax", "scores", "q.codes", "k.codes", "v.codes", "p", HEADS, KV_HEADS, HEAD_DIM**-0.5),
            Encode("p.encode", "p", "p.codes", p_enc, RowBudget(0.1), HEADS),
            Mix("mix", "p.codes", "v.codes", "mixed", HEADS, KV_HEADS, p_enc),
            Decode("mix.decode", "mixed", "p.codes", out, None, None),
        ]


def llama_block(enc: SpikeCode = SIGNED, seed: int = 0) -> Block:
    """Norm, qkv, rotary, attention, output projection, residual, norm, gated feed-forward, residual."""
    make, width = Maker(seed, enc), HEADS * HEAD_DIM
    kv = KV_HEADS * HEAD_DIM
    make.norm("x", "n1", center=False)
    make.linear("n1", "qkv", width + 2 * kv, WIDTH)
    make.ops += [
        Slice("q.slice", "qkv", "q0", 0, width),
        Slice("k.slice", "qkv", "k0", width, width + kv),
        Slice("v.slice", "qkv", "v0", width + kv, width + 2 * kv),
        Rotary("q.rotary", "q0", "q1", HEADS),
        Rotary("k.rotary", "k0", "k1", KV_HEADS),
    ]
    make.attention("q1", "k1", "v0", "attended")
    make.linear("attended", "o", WIDTH, width)
    make.ops.append(Add("residual1", "x", "o", "middle"))
    make.norm("middle", "n2", center=False)
    make.linear("n2", "gate_up", 2 * HIDDEN, WIDTH)
    make.ops.append(Gate("gate", "gate_up", "gated"))
    make.linear("gated", "down", WIDTH, HIDDEN)
    make.ops.append(Add("residual2", "middle", "down", "y"))
    return Block("llama", tuple(make.ops), "y", WIDTH)


def opt_block(enc: SpikeCode = SIGNED, seed: int = 0, fires: bool = True) -> Block:
    """Layer norm with bias, attention without rotary, and fc1 -> ReLU -> fc2: from spike to spike where fc1 fires."""
    make, width = Maker(seed, enc), HEADS * HEAD_DIM
    kv = KV_HEADS * HEAD_DIM
    make.norm("x", "n1", center=True)
    make.linear("n1", "q", width, WIDTH)  # three segments that take the same value at three times
    make.linear("n1", "k", kv, WIDTH)
    make.linear("n1", "v", kv, WIDTH)
    make.attention("q", "k", "v", "attended")
    make.linear("attended", "o", WIDTH, width)
    make.ops.append(Add("residual1", "x", "o", "middle"))
    make.norm("middle", "n2", center=True)
    if fires:
        ramp, offset = make.rng.integers(20, 60, HIDDEN), make.rng.integers(-50, 50, HIDDEN)
        fire = Silence(unsigned(enc), ramp.astype(np.int64), offset.astype(np.int64), 1)
        fc1 = np.asarray(make.weight(HIDDEN, WIDTH), np.int8)
        make.ops += [
            Encode("fc1.encode", "n2", "fc1.in", enc, StaticStep(0.4)),
            Linear("fc1", "fc1.in", "fc1.codes", fc1, 4, enc, fire),
        ]
        make.linear("", "fc2", WIDTH, HIDDEN, "fc1.codes", unsigned(enc))
    else:
        make.linear("n2", "fc1", HIDDEN, WIDTH)
        make.ops.append(Relu("relu", "fc1", "active"))
        make.linear("active", "fc2", WIDTH, HIDDEN, enc=unsigned(enc))
    make.ops.append(Add("residual2", "middle", "fc2", "y"))
    return Block("opt", tuple(make.ops), "y", WIDTH)


def integer_form(block: Block, x: Float32) -> tuple[Block, Int64]:
    """A block with integer operations, scaled on its inputs, and these as integers."""
    peaks = {"x": float(np.abs(x).max())}

    def watch(_: Block, op: Op, found: dict[str, values.Value]) -> None:
        value = found[op.output]
        if isinstance(value, torch.Tensor):
            peaks[op.output] = float(value.abs().max())

    BlockExecutor(rotary_tables(), observer=watch).run(block, torch.from_numpy(x)[None], torch.arange(len(x)), Cache())
    scales = Scales(peaks, fraction_of(peaks["x"]))
    return to_integers(block, scales), to_fixed(torch.from_numpy(x), scales.fraction).numpy()


def integer_tables() -> tuple[values.Array, values.Array]:
    """`rotary_tables` in integers."""
    tables = whole_rotary(rotary_tables())
    assert tables is not None
    return tables


def head_block(seed: int = 0) -> Block:
    """A norm and an 8-bit head: no spikes, messages alone."""
    make = Maker(seed, INTEGER8)
    make.norm("x", "n", center=False)
    make.linear("n", "logits", 20, WIDTH)
    return Block("head", tuple(make.ops), "logits", WIDTH)
