"""Counts of the observer against counts of rasters, and against layers small enough to count by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kirin_lava.graph import attention, executor
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.counter import Counter, together
from kirin_lava.graph.counts import CoreCounts
from kirin_lava.graph.executor import BlockExecutor, Cache, Executor, cached_name
from kirin_lava.graph.ops import Encode, Linear, Mix, Op, Score
from kirin_lava.graph.values import Codes, Value
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.processes.runtime import run_job
from kirin_lava.quantize.convert import convert_model
from kirin_lava.spikes.codes import OFFSET, SIGNED, UNSIGNED8, code_named
from kirin_lava.spikes.neurons import Silence
from kirin_lava.spikes.steps import StaticStep
from kirin_lava.tasks.verify.blocks import run_block_job
from tests.small_models import CONFIGS, random_checkpoint, random_rows

RECIPES = ["kirin-w4a4-8", "kirin-w4a4-12"]


class RasterCounter:
    """Counts events of the rasters that the segments receive, one spike or message at a time."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], dict[str, int]] = {}

    def __call__(self, block: Block, op: Op, values: dict[str, Value]) -> None:
        if not isinstance(op, (Linear, Score, Mix)):
            return
        source = values[op.input]
        assert isinstance(source, Codes)
        row = self.counts.setdefault(
            (block.name, op.name), dict.fromkeys(("elements", "spikes", "outliers", "adds", "macs"), 0)
        )
        rasters = op.code.raster(source.q.numpy().astype(np.int64))
        spikes, outliers = (np.count_nonzero(raster, axis=-1) for raster in rasters)
        for index in np.ndindex(*spikes.shape):
            fan_out = self._fan_out(op, values, index, spikes.shape)
            if fan_out is None:  # a later position
                continue
            row["elements"] += 1
            row["spikes"] += int(spikes[index])
            row["outliers"] += int(outliers[index])
            row["adds"] += int(spikes[index]) * fan_out
            row["macs"] += int(outliers[index]) * fan_out

    def _fan_out(
        self, op: Linear | Score | Mix, values: dict[str, Value], index: tuple[int, ...], shape: tuple[int, ...]
    ) -> int | None:
        """Existing synapses of one code."""
        if isinstance(op, Linear):
            return int(np.count_nonzero(op.weight[:, index[-1]]))
        rows = values[cached_name(op.cache)]
        assert isinstance(rows, torch.Tensor)
        repeat, positions, width = op.heads // op.kv_heads, rows.shape[2], rows.shape[3]
        if isinstance(op, Score):
            batch, token, channel = index
            seen = positions - shape[1] + token + 1
            return int((rows[batch, channel // width // repeat, :seen, channel % width] != 0).sum())
        batch, head, token, position = index
        if position > positions - shape[2] + token:
            return None
        return int((rows[batch, head // repeat, position] != 0).sum())


def converted(folder: Path, kind: str, recipe: str) -> Model:
    return convert_model(random_checkpoint(folder, kind), random_rows(CONFIGS[kind]), load_recipe(recipe))


def core(counter: Counter) -> dict[tuple[str, str], CoreCounts]:
    return {(row.block, row.op): row for row in counter.result().core}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["llama", "opt", "qwen3"])
def test_counts_equal_those_of_the_rasters(tmp_path: Path, kind: str, recipe: str) -> None:
    """Prefill of two rows, then one token more: spikes, messages and their synapses, event by event."""
    model = converted(tmp_path, kind, recipe)
    counter, rasters = Counter(), RasterCounter()
    executor, cache = Executor(model, observer=together(counter, rasters)), Cache()
    tokens = torch.stack(random_rows(CONFIGS[kind], length=6, seed=3))
    executor.forward(tokens[:, :5], cache)
    executor.forward(tokens[:, 5:], cache)
    counted = core(counter)
    assert counted.keys() == rasters.counts.keys()
    for key, expected in rasters.counts.items():
        row = counted[key]
        found = (row.elements, row.spikes, row.outliers, row.synaptic_adds, row.macs)
        assert found == tuple(expected.values()), key
        assert row.tokens == 12 and row.steps == 12 * row.window
        assert row.synaptic_adds + row.macs <= row.dense_macs


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_nothing_is_lost(tmp_path: Path, kind: str, recipe: str) -> None:
    """spikes + silent + outliers = elements, in every value; what one operation sends arrives at the next."""
    counter = Counter()
    model = converted(tmp_path, kind, recipe)
    Executor(model, observer=counter).forward(torch.stack(random_rows(CONFIGS[kind])))
    stats = counter.result()
    assert stats.tokens == 24
    sent = {(row.block, row.value): row for row in stats.codes}
    blocks = {block.name: block for block in (*model.blocks, model.head)}
    for code in stats.codes:
        assert code.spikes + code.silent + code.outliers == code.elements == sum(code.histogram.values())
        kind_of_code = code_named(code.encoding)
        q = np.repeat(list(code.histogram), list(code.histogram.values()))
        assert code.largest == np.abs(q).max()
        assert code.at_limit == np.count_nonzero(np.abs(q) == kind_of_code.largest)
    for row in stats.core:
        assert row.spikes + row.silent + row.outliers == row.elements
        op = next(op for op in blocks[row.block].core_ops() if op.name == row.op)
        source = sent[row.block, op.input]
        assert (row.elements, row.spikes, row.outliers) == (source.elements, source.spikes, source.outliers)
        assert row.neuron_updates == row.neurons * row.window
    fired = [row for row in stats.core if row.kind == "fire"]
    assert bool(fired) == (kind == "opt")
    assert all(row.comparisons > 0 and row.readouts == 0 for row in fired)
    host = {(row.block, row.op): row for row in stats.host}
    assert all(row.float_operations > 0 for row in stats.host if row.kind != "Slice")
    width = CONFIGS[kind]["hidden_size"]
    assert host["blocks.0", "attn.residual"].float_operations == 24 * width


def test_batch_and_single_tokens_count_alike(tmp_path: Path) -> None:
    model = converted(tmp_path, "llama", "kirin-w4a4-8")
    tokens = torch.stack(random_rows(CONFIGS["llama"], length=9))
    whole, stepwise = Counter(), Counter()
    Executor(model, observer=whole).forward(tokens)
    executor, cache = Executor(model, observer=stepwise), Cache()
    for column in tokens.T:
        executor.forward(column.unsqueeze(1), cache)
    assert_equal_counts(whole, stepwise)


def assert_equal_counts(one: Counter, other: Counter) -> None:
    """All but the rates, which are rounded."""
    first, second = one.result(), other.result()
    assert first.codes == second.codes and first.host == second.host
    for a, b in zip(first.core, second.core, strict=True):
        assert a.rate_adds == pytest.approx(b.rate_adds) and a.rate_spikes == pytest.approx(b.rate_spikes)
        assert replace(a, rate_adds=0.0, rate_spikes=0.0) == replace(b, rate_adds=0.0, rate_spikes=0.0)


class Whole(Counter):
    """One that sees all tokens at once."""

    in_pieces = False


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_pieces_count_like_the_whole(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = converted(tmp_path, kind, "kirin-w4a4-8")
    monkeypatch.setattr(executor, "_PIECE", 14)
    monkeypatch.setattr(executor, "_FEW_TOKENS", 4)
    monkeypatch.setattr(attention, "_ATTENTION_ELEMENTS", 1)
    monkeypatch.setattr(attention, "_ATTENTION_ROWS", 3)
    tokens = torch.stack(random_rows(CONFIGS[kind], length=40))
    whole, divided = Whole(), Counter()
    for counter in (whole, divided):
        Executor(model, observer=together(counter)).forward(tokens)
    assert_equal_counts(whole, divided)


def test_a_layer_counted_by_hand() -> None:
    """Three inputs, two neurons, two tokens; see the comments."""
    weight = np.array([[1, 0, -3], [2, 5, 0]], np.int8)  # channels with 2, 1 and 1 synapses
    phase = Silence(UNSIGNED8, np.array([4, 4]), np.zeros(2, np.int64))
    encode = Encode("encode", "x", "codes", SIGNED, StaticStep(1.0))
    block = Block("b", (encode, Linear("fire", "codes", "fired", weight, 4, SIGNED, phase)), "x", 3)
    counter = Counter()
    x = torch.tensor([[[3.0, 9.0, 0.0], [-200.0, 1.0, 1.0]]])  # spike, outlier, silent; clipped outlier, spike, spike
    BlockExecutor(None, observer=counter).run(block, x, torch.arange(2), Cache())
    stats = counter.result()
    (row,), (sent, fired) = stats.core, stats.codes
    assert (sent.elements, sent.spikes, sent.silent, sent.outliers, sent.clipped) == (6, 3, 1, 2, 1)
    assert (sent.largest, sent.at_limit) == (127, 1)
    assert (row.kind, row.weight_bits, row.window, row.steps) == ("fire", 4, 8, 16)
    assert row.synaptic_adds == 2 + 1 + 1  # 3 on channel 0; 1 on channels 1 and 2
    assert row.macs == 1 + 2  # 9 on channel 1; -127 on channel 0
    assert row.dense_macs == 12 and row.neurons == 4 and row.neuron_updates == 32
    # membranes: token 0: 3, 51; token 1: -127 - 3, -254 + 5. Codes by ramp 4: 1, 7 (the largest), 0, 0
    assert fired.histogram == {0: 2, 1: 1, 7: 1}
    assert row.comparisons == 7 + 1 + 7 + 7  # levels 7..1 for code 1, only 7 for code 7, 7..1 for silence, twice
    assert row.ramp_adds == 6 + 0 + 6 + 6
    assert row.rate_spikes == pytest.approx((3 + 9) * 127 / 9 + (127 + 1 + 1))
    assert row.rate_adds == pytest.approx((3 * 2 + 9) * 127 / 9 + (127 * 2 + 1 + 1))


def test_offset_codes_are_silent_at_minus_zero() -> None:
    encode = Encode("encode", "x", "codes", OFFSET, StaticStep(1.0))
    block = Block("b", (encode, Linear("read", "codes", "sums", np.array([[7, 7]], np.int8), 4, OFFSET)), "x", 2)
    counter = Counter()
    BlockExecutor(None, observer=counter).run(block, torch.tensor([[[-8.0, 0.0], [8.0, -9.0]]]), torch.arange(2), Cache())
    (row,) = counter.result().core
    assert (row.silent, row.spikes, row.outliers, row.readouts) == (1, 1, 2, 2)


def test_result_is_json_with_the_totals_that_people_read(tmp_path: Path) -> None:
    model = converted(tmp_path, "opt", "kirin-w4a4-8")
    counter = Counter()
    Executor(model, observer=counter).forward(torch.stack(random_rows(CONFIGS["opt"])), last_only=True)
    values = json.loads(json.dumps(counter.to_dict()))
    assert list(values["blocks"]) == ["blocks.0", "blocks.1", "head"]
    assert values["blocks"]["head"]["tokens"] == 2 and values["total"]["tokens"] == 24
    total = values["total"]
    assert total["spike_share"] + total["silent_share"] + total["outlier_share"] == pytest.approx(1)
    assert total["spikes_per_token"] == sum(row["spikes"] for row in values["core"]) / 24
    assert total["steps"] == 24 * 16 * 2 * 6 + 2  # six segments in two layers, an integer head of one step


@pytest.mark.lava
@pytest.mark.parametrize(("kind", "recipe"), [("llama", "kirin-w4a4-12"), ("opt", "kirin-w4a4-8")])
def test_counts_equal_those_on_lava(tmp_path: Path, kind: str, recipe: str) -> None:
    """Spikes and messages per segment, as probes on Lava's connections count them."""
    model = converted(tmp_path, kind, recipe)
    block = model.blocks[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((5, model.embedding.tokens.shape[1]), generator=generator)
    counter = Counter()
    BlockExecutor(model.rotary, observer=counter).run(block, x.unsqueeze(0), torch.arange(5), Cache())
    run = run_job(run_block_job, block, x.numpy(), model.rotary, timeout=300)
    counted = {row.op: (row.spikes, row.outliers) for row in counter.result().core}
    assert counted == {name: (run.spikes[name], run.outliers[name]) for name in run.spikes}
    assert len(counted) == 6
