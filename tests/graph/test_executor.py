"""The executor: one batch, any split, token by token and row by row give the same integers and the same logits."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kirin_lava.base.errors import FitError, KirinError, UsageError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph import attention
from kirin_lava.graph import executor as reference
from kirin_lava.graph.block import Block, Embedding, Model
from kirin_lava.graph.executor import BlockExecutor, Cache, Executor
from kirin_lava.graph.ops import Encode, Linear, Mix, Op, Score
from kirin_lava.graph.values import Codes, Value
from kirin_lava.methods.kirin import KirinOptions, Outliers
from kirin_lava.methods.recipe import HeadSpec, Recipe, load_recipe
from kirin_lava.quantize.convert import convert_model
from kirin_lava.spikes.codes import INTEGER8, OFFSET, SIGNED, UNSIGNED8, SpikeCode
from kirin_lava.spikes.neurons import Silence
from tests.small_models import CONFIGS, random_checkpoint, random_rows

LENGTH = 24
RECIPES: dict[str, Recipe] = {
    "fast": load_recipe("fast"),
    "offset": load_recipe("kirin-w4a4-8"),
    "signed": load_recipe("kirin-w4a4-12"),
    "8-bit": load_recipe("kirin-w8a5-12"),
    "no outliers": replace(load_recipe("fast"), options=KirinOptions("signed", 8, Outliers(0.0))),
    "4-bit head": replace(load_recipe("kirin-w4a4-8"), head=HeadSpec(bits=4)),
}
CASES = [
    *(("llama", recipe) for recipe in RECIPES),
    ("mistral", "signed"),
    ("qwen2", "offset"),
    ("qwen3", "signed"),
    *(("opt", recipe) for recipe in ("fast", "offset")),
    ("opt-post-norm", "signed"),
]
NAMES = [f"{kind}-{recipe}" for kind, recipe in CASES]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@functools.cache
def model_of(folder: Path, kind: str, recipe: str) -> Model:
    checkpoint = random_checkpoint(folder / kind, kind)
    return convert_model(checkpoint, random_rows(CONFIGS[kind]), RECIPES[recipe])


class Recorder:
    """Keeps every integer and every step, by block and operation, in the order of tokens."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], list[tuple[Tensor, ...]]] = {}

    def __call__(self, block: Block, op: Op, values: dict[str, Value]) -> None:
        result = values[op.output]
        if isinstance(result, Codes):
            self.values.setdefault((block.name, op.name), []).append((result.q.clone(), result.step.clone()))
        elif isinstance(op, (Linear, Score, Mix)):
            self.values.setdefault((block.name, op.name), []).append((result.clone(),))

    def tokens(self) -> dict[tuple[str, str], list[list[Tensor]]]:
        """By token (B, ...), scores and probabilities without the columns that the token does not see."""
        found: dict[tuple[str, str], list[list[Tensor]]] = {}
        for key, pieces in self.values.items():
            rows = found.setdefault(key, [])
            for piece in pieces:
                start = len(rows)
                for i in range(piece[0].shape[2 if piece[0].dim() == 4 else 1]):
                    rows.append([_token(x, i, start + i + 1) for x in piece])
        return found


def _token(x: Tensor, i: int, seen: int) -> Tensor:
    if x.dim() == 3:
        return x[:, i]
    assert not x[:, :, i, seen:].any()
    return x[:, :, i, :seen]


def recorded(model: Model, tokens: Tensor, pieces: Sequence[int]) -> tuple[Recorder, Tensor]:
    """Integers and logits of tokens (B, L) run in pieces of these lengths."""
    recorder = Recorder()
    return recorder, in_pieces(Executor(model, observer=recorder), tokens, pieces)


def in_pieces(executor: Executor, tokens: Tensor, pieces: Sequence[int]) -> Tensor:
    cache = Cache()
    return torch.cat([executor.forward(part, cache) for part in tokens.split(list(pieces), dim=1)], dim=1)


def assert_equal_integers(a: Recorder, b: Recorder, rows: slice = slice(None), tokens: slice = slice(None)) -> None:
    """The given rows and tokens of `a` are all of `b`."""
    first, second = a.tokens(), b.tokens()
    assert first.keys() == second.keys() and len(first) > 10
    for key, expected in first.items():
        for x, y in zip(expected[tokens], second[key], strict=True):
            assert all(torch.equal(p[rows], q) for p, q in zip(x, y, strict=True)), key


def sample(model: Model, batch: int, length: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, len(model.embedding.tokens), (batch, length), generator=generator)


@pytest.mark.parametrize(("kind", "recipe"), CASES, ids=NAMES)
def test_token_by_token_equals_one_batch(folder: Path, kind: str, recipe: str) -> None:
    model = model_of(folder, kind, recipe)
    tokens = sample(model, 2, LENGTH)
    whole, logits = recorded(model, tokens, [LENGTH])
    single, step_logits = recorded(model, tokens, [1] * LENGTH)
    assert_equal_integers(whole, single)
    assert torch.equal(logits, step_logits)
    assert torch.equal(Executor(model).forward(tokens), logits), "without an observer"
    assert float(logits.std()) > 0.01, "a constant would agree with anything"


@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 2**16), length=st.integers(1, 60))
@pytest.mark.parametrize(("kind", "recipe"), [("llama", "offset"), ("qwen3", "offset"), ("opt", "fast")])
def test_any_split_gives_the_same_logits(
    folder: Path, kind: str, recipe: str, data: st.DataObject, seed: int, length: int
) -> None:
    model = model_of(folder, kind, recipe)
    cuts = sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=5))) if length > 1 else []
    pieces = [b - a for a, b in zip([0, *cuts], [*cuts, length], strict=True)]
    tokens = sample(model, 2, length, seed)
    executor = Executor(model)
    assert torch.equal(in_pieces(executor, tokens, pieces), executor.forward(tokens))


@settings(max_examples=8)
@given(seed=st.integers(0, 2**16), cut=st.integers(1, LENGTH - 1))
@pytest.mark.parametrize(("kind", "recipe"), [("llama", "signed"), ("opt", "offset")])
def test_a_split_gives_the_same_integers(folder: Path, kind: str, recipe: str, seed: int, cut: int) -> None:
    model = model_of(folder, kind, recipe)
    tokens = sample(model, 1, LENGTH, seed)
    assert_equal_integers(recorded(model, tokens, [LENGTH])[0], recorded(model, tokens, [cut, LENGTH - cut])[0])


@settings(max_examples=8)
@given(seed=st.integers(0, 2**16), changed=st.integers(1, LENGTH - 1))
@pytest.mark.parametrize(("kind", "recipe"), [("llama", "offset"), ("qwen3", "offset"), ("opt-post-norm", "signed")])
def test_a_later_token_changes_no_earlier_integer(folder: Path, kind: str, recipe: str, seed: int, changed: int) -> None:
    model = model_of(folder, kind, recipe)
    tokens = sample(model, 1, LENGTH, seed)
    other = tokens.clone()
    other[0, changed] = (other[0, changed] + 1) % len(model.embedding.tokens)
    (a, logits), (b, other_logits) = recorded(model, tokens, [LENGTH]), recorded(model, other, [LENGTH])
    assert torch.equal(logits[:, :changed], other_logits[:, :changed])
    assert not torch.equal(logits[:, changed], other_logits[:, changed])
    before, after = a.tokens(), b.tokens()
    for key, expected in before.items():
        for x, y in zip(expected[:changed], after[key][:changed], strict=True):
            assert all(torch.equal(p, q) for p, q in zip(x, y, strict=True)), key


@pytest.mark.parametrize(("kind", "recipe"), [("llama", "offset"), ("qwen3", "offset"), ("opt", "fast")])
def test_rows_of_a_batch_are_computed_alone(folder: Path, kind: str, recipe: str) -> None:
    model = model_of(folder, kind, recipe)
    tokens = sample(model, 3, LENGTH)
    together, logits = recorded(model, tokens, [20, 4])
    for i in range(3):
        alone, row_logits = recorded(model, tokens[i : i + 1], [20, 4])
        assert_equal_integers(together, alone, rows=slice(i, i + 1))
        assert torch.equal(row_logits, logits[i : i + 1])


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("kind", "recipe"), [("llama", "signed"), ("opt", "offset")])
@pytest.mark.usefixtures("two_threads")
def test_threads_change_no_integer(folder: Path, kind: str, recipe: str) -> None:
    model = model_of(folder, kind, recipe)
    tokens = sample(model, 8, 60)
    two, logits = recorded(model, tokens, [59, 1])
    torch.set_num_threads(1)
    one, single_logits = recorded(model, tokens, [59, 1])
    assert_equal_integers(two, one)
    assert torch.equal(logits, single_logits)


@pytest.mark.parametrize("recipe", ["signed", "offset"])
def test_pieces_of_an_attention_change_nothing(folder: Path, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an observer it runs on as many tokens at a time as a core's cache holds: here on a few."""
    model = model_of(folder, "llama", recipe)
    tokens = sample(model, 2, 60)
    whole = Executor(model).forward(tokens)
    monkeypatch.setattr(attention, "_ATTENTION_ELEMENTS", 1)
    for rows in (1, 7, 16):
        monkeypatch.setattr(attention, "_ATTENTION_ROWS", rows)
        assert torch.equal(Executor(model).forward(tokens), whole)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is divided as one of thousands of tokens is, and its attention once more."""
    monkeypatch.setattr(reference, "_PIECE", 14)
    monkeypatch.setattr(reference, "_FEW_TOKENS", 4)
    monkeypatch.setattr(attention, "_ATTENTION_ELEMENTS", 1)
    monkeypatch.setattr(attention, "_ATTENTION_ROWS", 3)


class PieceRecorder(Recorder):
    """In pieces, and in their order: an observer need not bear threads."""

    in_pieces = True

    def __call__(self, block: Block, op: Op, values: dict[str, Value]) -> None:
        assert threading.current_thread() is threading.main_thread()
        super().__call__(block, op, values)


@pytest.mark.parametrize(("kind", "recipe"), [("llama", "signed"), ("qwen3", "offset"), ("opt", "offset")])
def test_pieces_of_a_text_and_threads_change_no_token(
    folder: Path, kind: str, recipe: str, request: pytest.FixtureRequest, two_threads: None
) -> None:
    """From a cache that holds something, on 1, 2 and 3 threads; pieces are of unequal length."""
    model = model_of(folder, kind, recipe)
    tokens = sample(model, 2, 60)
    whole = in_pieces(Executor(model), tokens, [11, 1, 48])
    request.getfixturevalue("small_pieces")
    divided = PieceRecorder()
    assert torch.equal(in_pieces(Executor(model, observer=divided), tokens, [11, 1, 48]), whole)
    assert max(map(len, divided.values.values())) > 12, "it was divided"
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(in_pieces(Executor(model), tokens, [11, 1, 48]), whole)
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("kind", "recipe"), [("llama", "signed"), ("qwen3", "offset"), ("opt", "offset")])
@pytest.mark.usefixtures("small_pieces")
def test_an_observer_sees_the_same_integers_in_pieces(folder: Path, kind: str, recipe: str) -> None:
    model = model_of(folder, kind, recipe)
    tokens = sample(model, 2, 60)
    whole, divided = Recorder(), PieceRecorder()
    logits = [in_pieces(Executor(model, observer=recorder), tokens, [45, 15]) for recorder in (whole, divided)]
    assert torch.equal(*logits)
    assert {len(pieces) for pieces in whole.values.values()} == {2}
    assert len(divided.values["blocks.0", "attn.score"]) > len(divided.values["blocks.0", "attn.q.encode"]) > 5
    assert_equal_integers(whole, divided)


@pytest.mark.usefixtures("small_pieces")
def test_a_broken_activation_in_a_piece_is_an_error(folder: Path) -> None:
    model = model_of(folder, "llama", "fast")
    tokens = model.embedding.tokens.copy()
    tokens[5, 3] = np.nan
    text = torch.full((1, 50), 7)
    text[0, 33] = 5
    with pytest.raises(FitError, match=r"blocks.0: .* is NaN or infinite"):
        Executor(replace(model, embedding=Embedding(tokens))).forward(text)


def test_last_only_gives_the_last_logits(folder: Path) -> None:
    model = model_of(folder, "opt", "fast")
    tokens = sample(model, 2, 9)
    executor, cache = Executor(model), Cache()
    last = executor.forward(tokens, cache, last_only=True)
    assert torch.equal(last, executor.forward(tokens)[:, -1:])
    assert cache.length == 9
    assert cache.used("blocks.0", "attn.k.codes").shape == (2, 4, 9, 8)


def test_every_cached_code_is_an_integer_of_its_range(folder: Path) -> None:
    model = model_of(folder, "llama", "fast")
    cache = Cache()
    Executor(model).forward(sample(model, 1, LENGTH), cache)
    for value in ("attn.k.codes", "attn.v.codes"):
        codes = cache.used("blocks.1", value)
        assert torch.equal(codes, codes.round()) and float(codes.abs().max()) == 127


def test_tokens_that_cannot_be_are_refused(folder: Path) -> None:
    model = model_of(folder, "llama", "fast")
    executor, cache = Executor(model), Cache()
    with pytest.raises(UsageError, match="65 positions are more than the 64"):
        executor.forward(sample(model, 1, 65))
    with pytest.raises(UsageError, match="token id 40 is outside the vocabulary of 40"):
        executor.forward(torch.tensor([[3, 40]]))
    with pytest.raises(UsageError, match="token id -1 is outside"):
        executor.forward(torch.tensor([[3, -1]]))
    with pytest.raises(UsageError, match="no tokens"):
        executor.forward(torch.zeros(1, 0, dtype=torch.int64))
    executor.forward(torch.tensor([[1, 2, 3]]), cache)
    x = executor.embed(torch.tensor([[4]]), 3)
    with pytest.raises(UsageError, match="do not follow the 3 positions"):
        executor.blocks.run(model.blocks[0], x, torch.tensor([5]), cache)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("kind", ["llama", "opt", "opt-post-norm"])
def test_a_broken_activation_is_an_error(folder: Path, kind: str, broken: float) -> None:
    model = model_of(folder, kind, "fast")
    tokens = model.embedding.tokens.copy()
    tokens[5, 3] = broken
    spoiled = replace(model, embedding=Embedding(tokens, model.embedding.positions, model.embedding.position_offset))
    text = torch.tensor([[1, 2, 3, 5, 7]])
    if np.isfinite(broken) and kind != "opt-post-norm":  # a norm takes it, and the rest goes on
        assert torch.isfinite(Executor(spoiled).forward(text)).all()
        return
    with pytest.raises(FitError, match=r"blocks.0: .* is NaN or infinite|an activation is NaN or infinite|beyond the 24-bit"):
        Executor(spoiled).forward(text)


def test_massive_activations_and_dead_channels_run(folder: Path) -> None:
    model = model_of(folder, "llama", "offset")
    tokens = model.embedding.tokens.copy()
    tokens[:, 4] = 0  # a channel that never says anything
    tokens[7] *= 5000
    tokens[8] = 0  # a token that is nothing
    changed = replace(model, embedding=Embedding(tokens))
    text = torch.tensor([[1, 7, 8, 8, 2, 7]])
    whole, logits = recorded(changed, text, [6])
    single, single_logits = recorded(changed, text, [1] * 6)
    assert_equal_integers(whole, single)
    assert torch.equal(logits, single_logits) and torch.isfinite(logits).all()


def test_membranes_beyond_the_state_are_an_error() -> None:
    wide = Linear("wide", "codes", "sums", np.full((2, 700), 127, np.int8), 8, SIGNED)
    block = Block("b", (wide,), "sums", 700)
    q, step = torch.full((1, 1, 700), 127.0), torch.ones(1, 1, 1)
    executor = BlockExecutor(None)
    executor._prepare(block)
    with pytest.raises(FitError, match="wide: a membrane reaches 11290300, beyond the 24-bit state"):
        executor._linear(wide, Codes(q, step))
    assert float(executor._linear(wide, Codes(q[..., :] * 0 + 7, step)).max()) == 700 * 127 * 7  # type: ignore[union-attr]
    assert block.ops[0] is wide


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 2), (6, 3), (4, 1)])
@pytest.mark.parametrize("length", [1, 3])
def test_queries_meet_the_keys_of_their_group(heads: int, kv_heads: int, length: int) -> None:
    """Query head h reads cached head h * kv_heads // heads; a token sees no later column."""
    rng = np.random.default_rng(heads * kv_heads)
    columns, width = 5, 7
    q, k = rng.integers(-127, 128, (2, length, heads, width)), rng.integers(-127, 128, (2, kv_heads, width, columns))
    expected = np.stack([np.einsum("blw,bwj->blj", q[:, :, h], k[:, h * kv_heads // heads]) for h in range(heads)], 1)
    expected[:, :, np.arange(columns) > np.arange(columns - length, columns)[:, None]] = 0
    op = Score("score", "q", "k", "s", heads, kv_heads, SIGNED)
    codes = Codes(torch.from_numpy(q).float().flatten(2), torch.ones(2, length, 1))
    assert attention.score_sums(op, codes, torch.from_numpy(k).float()).tolist() == expected.tolist()


@pytest.mark.parametrize(("width", "fits"), [(1040, True), (1041, False)])
def test_heads_so_wide_that_float32_would_round_are_refused(width: int, fits: bool) -> None:
    """1040 * 127 * 127 is the last below 2^24."""
    encode = Encode("q", "x", "codes", SIGNED, groups=1), Encode("k", "x", "keys", INTEGER8, cached=True)
    score = Score("score", "codes", "keys", "sums", 1, 1, SIGNED)
    block = Block("b", (*encode, score), "x", width)
    if fits:
        assert block.check("here")
    else:
        with pytest.raises(UsageError, match=r"here: b, operation 2 \(score\): heads of width 1041 do not fit sums of 24 bits"):
            block.check("here")


def mixed(columns: int, code: int, cached: float) -> Tensor:
    op = Mix("mix", "p", "v", "y", 1, 1, UNSIGNED8)
    weights = Codes(torch.full((1, 1, 1, columns), float(code)), torch.ones(1, 1, 1))
    result = attention.mix_sums(op, weights, torch.full((1, 1, 2, columns), cached))
    assert isinstance(result, Tensor)
    return result


def test_mixes_are_exact_where_the_worst_case_is_not() -> None:
    """Beyond 518 positions a sum could round: then the codes at hand decide, and float64 takes over."""
    assert mixed(3000, 7, 127.0).flatten().tolist() == [3000 * 7 * 127] * 2
    with pytest.raises(FitError, match="mix: a membrane reaches 97155000"):
        mixed(3000, 255, -127.0)
    with pytest.raises(FitError, match="beyond the 24-bit state"):
        mixed(260, 255, 127.0)
    assert mixed(259, 255, 127.0).max() == 259 * 255 * 127 <= STATE_MAX


def test_a_mix_in_float64_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    op = Mix("mix", "p", "v", "y", 4, 2, UNSIGNED8)
    q = torch.randint(0, 256, (1, 4, 3, 2000), generator=generator).float()
    v = torch.randint(-127, 128, (1, 2, 8, 2000), generator=generator).float()
    result = attention.mix_sums(op, Codes(q, torch.ones(1, 3, 4)), v)
    assert result.dtype == torch.float64
    expected = torch.einsum("bhlj,bhdj->blhd", q.double(), v.double().repeat_interleave(2, 1)).flatten(2)
    assert torch.equal(result, expected)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    out=st.sampled_from([OFFSET, SIGNED, UNSIGNED8]),
    largest_ramp=st.sampled_from([1, 5, 1000, 10**6]),
    shift=st.integers(0, 4),
)
def test_firing_is_an_integer_division(seed: int, out: SpikeCode, largest_ramp: int, shift: int) -> None:
    rng = np.random.default_rng(seed)
    ramp = rng.integers(1, largest_ramp + 1, 50)
    offset = rng.integers(-(10**5), 10**5, 50)
    reach = (STATE_MAX - 10**5) >> shift
    v = np.concatenate(
        [rng.integers(-reach, reach + 1, (5, 50)), rng.integers(-3 * 10**5 >> shift, 3 * 10**5 >> shift, (5, 50))]
    )
    edges = ((np.arange(-8, 8)[:, None] * ramp + ramp // 2 + rng.integers(-1, 2, (16, 50)) - offset) >> shift).clip(
        -reach, reach
    )
    v = np.concatenate([v, edges])
    m = v * 2**shift + offset
    if out is SIGNED:
        expected = np.sign(m) * np.minimum((np.abs(m) + ramp // 2) // ramp, out.window - 1)
    else:
        expected = np.clip((m + out.zero * ramp + ramp // 2) // ramp, 0, out.window - 1) - out.zero
    q = Silence(out, ramp, offset, shift).reference(torch.from_numpy(v).float(), "segment")
    np.testing.assert_array_equal(q.numpy(), expected)


def test_one_executor_runs_blocks_of_one_name(folder: Path) -> None:
    """Weights belong to an operation, not to its name."""
    first, second = model_of(folder, "llama", "fast"), model_of(folder, "llama", "8-bit")
    executor = BlockExecutor(first.rotary)
    x, positions = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    results = [executor.run(model.blocks[0], x, positions, Cache()) for model in (first, second)]
    fresh = [BlockExecutor(first.rotary).run(model.blocks[0], x, positions, Cache()) for model in (first, second)]
    assert all(torch.equal(a, b) for a, b in zip(results, fresh, strict=True))
    assert not torch.equal(*results)


def test_errors_are_of_the_program() -> None:
    assert issubclass(FitError, KirinError) and issubclass(UsageError, KirinError)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("kind", "recipe"), CASES, ids=NAMES)
def test_cuda_computes_the_same_integers(folder: Path, kind: str, recipe: str) -> None:
    model = model_of(folder, kind, recipe)
    tokens = sample(model, 2, LENGTH)
    assert torch.equal(in_pieces(Executor(model, "cuda"), tokens, [20, 1, 3]).cpu(), Executor(model).forward(tokens))
