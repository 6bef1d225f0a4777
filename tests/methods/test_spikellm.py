"""SpikeLLM: channels are chosen, zero points leave exactly, and every backend computes the same integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.loihi2 import PACKET_BITS
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.graph.ops import Decode, Encode, Linear, Mix, Op, Score, Slice, Sum, ZeroPoints
from kirin_lava.graph.values import Codes, Value
from kirin_lava.hardware.energy import energy_table
from kirin_lava.hardware.placement import place
from kirin_lava.hardware.profile import load_profile
from kirin_lava.hardware.ranges import model_ranges
from kirin_lava.hardware.shapes import shape_of_model
from kirin_lava.hardware.split import split_block
from kirin_lava.hardware.traffic import traffic
from kirin_lava.hardware.work import measured_work
from kirin_lava.methods.known import SPIKELLM
from kirin_lava.methods.recipe import Recipe, load_recipe
from kirin_lava.methods.site import Site
from kirin_lava.methods.spikellm import SpikeLLMOptions
from kirin_lava.models import float_model
from kirin_lava.quantize.convert import convert_model, rotary_of
from kirin_lava.quantize.lower import lower_block
from kirin_lava.quantize.saliency import find_channels, most_salient
from kirin_lava.quantize.sites import Calibration, Sites
from kirin_lava.spikes.codes import INTEGER8
from kirin_lava.tasks.plan import plan
from kirin_lava.tasks.verify import Choice, verify
from tests.exports import export
from tests.hf_models import save_model
from tests.small_models import CONFIGS, random_checkpoint, random_rows

NAMES = ("spikellm-w4a4", "spikellm-w4a4-t4")


@pytest.fixture(scope="module", params=[("llama", NAMES[0]), ("opt", NAMES[1])], ids=["llama", "opt"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    family, name = request.param
    checkpoint = random_checkpoint(tmp_path_factory.mktemp("model"), family)
    return convert_model(checkpoint, random_rows(CONFIGS[family], 4, 24), load_recipe(name))


def run(model: Model, observer: Any = None, length: int = 20) -> Tensor:
    ids = torch.randint(0, 40, (2, length), generator=torch.Generator().manual_seed(3))
    return Executor(model, observer=observer).forward(ids)


def test_zero_points_leave_exactly(model: Model) -> None:
    """What reaches the host's float arithmetic is `sum_k w (q - zero)`, computed here in integers from codes and weights."""
    compared = 0

    def watch(block: Block, op: Op, values: dict[str, Value]) -> None:
        nonlocal compared
        if isinstance(op, ZeroPoints):
            linear, codes = block.producer(op.input), cast(Codes, values[op.codes])
            assert isinstance(linear, Linear) and codes.zero is not None
            zero = codes.zero.numpy().astype(np.int64)
            real = codes.q.numpy().astype(np.int64) - np.where(
                linear.code.fine(codes.q.shape[-1]), zero[..., 1:], zero[..., :1]
            )
            expected = real @ linear.weight.T.astype(np.int64)
            np.testing.assert_array_equal(cast(Tensor, values[op.output]).numpy(), expected)
            after_relu = (linear.name, zero.any()) == ("mlp.fc2", False)
            assert after_relu or (cast(Tensor, values[op.input]).numpy() != expected).mean() > 0.5
            compared += expected.size

    run(model, watch)
    assert compared > 5000


def test_a_row_sum_off_by_one_is_found(model: Model) -> None:
    block = model.blocks[0]
    zero = next(op for op in block.ops if isinstance(op, ZeroPoints))
    rows = zero.rows.copy()
    rows[5] += 1
    wrong = Block(
        block.name, tuple(replace(op, rows=rows) if op is zero else op for op in block.ops), block.output, block.width
    )
    with pytest.raises(
        UsageError, match=rf"blocks.0 \({zero.name}\): its row sums are not those of the weights, first in entry 5"
    ):
        wrong.check("bundle")
    gone = tuple(
        replace(op, input=zero.input) if isinstance(op, Decode) and op.input == zero.output else op for op in block.ops
    )
    with pytest.raises(UsageError, match="zero points that are still in the sums: 2 instead of 0"):
        Block(block.name, gone, block.output, block.width).check("bundle")


def test_a_prompt_at_once_in_parts_and_token_by_token(model: Model) -> None:
    ids = torch.randint(0, 40, (1, 9), generator=torch.Generator().manual_seed(0))
    whole, cache = Executor(model).forward(ids), Cache()
    one_by_one = Executor(model)
    assert torch.equal(torch.cat([one_by_one.forward(ids[:, i : i + 1], cache) for i in range(9)], 1), whole)
    parts = {op.name: 3 for op in model.blocks[0].linears()}
    split = replace(model, blocks=tuple(split_block(block, parts) for block in model.blocks))
    assert {type(op) for op in split.blocks[0].ops} >= {Slice, Sum, ZeroPoints}
    split.blocks[0].check("split")
    assert torch.equal(Executor(split).forward(ids), whole)


def test_what_is_sent_is_counted(model: Model) -> None:
    """Spikes of fine channels one by one; they are graded, every range is proved, and heads have integers."""
    sent: dict[str, int] = {}

    def watch(block: Block, op: Op, values: dict[str, Value]) -> None:
        if isinstance(op, Linear):
            q = cast(Codes, values[op.input]).q.numpy().astype(np.int64)
            sent[f"{block.name}.{op.name}"] = int(np.count_nonzero(op.code.payloads(q)))

    counter = Counter()
    run(model, counter)
    run(model, watch)
    stats, several = counter.result(), 0
    for row in stats.core:
        if row.block != "head" and row.kind == "read":
            assert row.spikes == sent[f"{row.block}.{row.op}"] >= row.elements - row.silent and not row.outliers
            several += row.spikes - (row.elements - row.silent)
    for codes in stats.codes:
        if codes.encoding.startswith("levels"):
            (core,) = (row for row in stats.core if (row.block, f"{row.op}.codes") == (codes.block, codes.value))
            assert codes.spikes == core.spikes
    assert several > 100  # a fine channel sends more than one
    assert {r.guarantee for r in model_ranges(model)} == {"proved"}
    assert {op.code.name for op in model.head.core_ops()} == {"integer-8"}


def test_graded_spikes_are_priced_as_what_they_cost(model: Model) -> None:
    """A product for each synapse, a message of their bits, two packets: nothing is had for an addition."""
    counter = Counter()
    run(model, counter)
    stats, shape = counter.result(), shape_of_model(model)
    work = measured_work(stats, shape)
    levels = [s for s in work.segments if s.encoding.startswith("levels")]
    others = [s for s in work.segments if not s.encoding.startswith("levels")]
    assert not any(s.synaptic_adds for s in work.segments) and all(s.macs > s.spikes > 0 for s in levels)
    counts = energy_table(work, load_profile("yan-22nm")).column("ours").counts
    bits = {"levels-2": 5, "levels-4": 6}
    graded = sum(s.spikes * (bits[s.encoding] + 16) / 24 for s in levels)
    assert "spike_out" not in counts and counts["message_out"] == pytest.approx(graded + sum(s.outliers for s in others))
    assert counts["mac_4x4"] == pytest.approx(sum(s.macs for s in levels))
    moved = {(row.block, row.name): row for row in traffic(work, place(shape, 32)).segments}
    for s in levels:
        row = moved[s.block, s.name]
        assert row.from_host_bits == pytest.approx(2 * PACKET_BITS * row.from_host_events)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_most_salient_channels_are_fine(family: str, tmp_path: Path) -> None:
    checkpoint, recipe = random_checkpoint(tmp_path, family), load_recipe(NAMES[0])
    block = checkpoint.family.block(checkpoint.config, 0, checkpoint.load)
    rows = [torch.randn(1, length, 32, generator=torch.Generator().manual_seed(length)) for length in (9, 14, 3)]
    for x in rows:
        x[..., 11] *= 30
    rotary, sites = rotary_of(checkpoint), Sites(block, recipe)
    find_channels(sites, rows, rotary)
    inputs: dict[str, list[Tensor]] = {op.name: [] for op in block.denses()}

    def watch(op: Any, values: dict[str, Tensor]) -> None:
        if op.name in inputs:
            inputs[op.name].append(values[op.input].flatten(0, -2).double())

    with torch.no_grad():
        for x in rows:
            float_model.run_block(block, x, rotary, watch)
    for op in block.denses():
        x, w = torch.cat(inputs[op.name]), op.weight.double()
        score = (x * (x @ w.T @ w)).abs().mean(0)
        fine = sorted(score.topk(max(1, int(0.1 * len(score)))).indices.tolist())
        found = sites.calibration.channels[f"blocks.0.{op.name}"]
        assert list(found.fine) == fine and found.width == w.shape[1]
    attention = {name for name in sites.calibration.channels if name.endswith((".attn.k", ".attn.v"))}
    assert len(sites.calibration.channels) == len(block.denses()) + 2 or family == "opt"
    assert attention >= {"blocks.0.attn.k", "blocks.0.attn.v"}


def test_keys_meet_queries_and_values_probabilities() -> None:
    """Two heads of the cache; the loudest channel does not matter where nobody looks at it."""
    keys = torch.tensor([[[1.0, 100.0], [1.0, -100.0]], [[1.0, 2.0], [3.0, 4.0]]])
    queries = torch.tensor([[[5.0, 0.0], [3.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    found = SPIKELLM.saliency(Site("blocks.0", "attn", "k"), keys, queries)
    assert found.tolist() == [[[35.0, 0.0], [35.0, 0.0]], [[1.0, 4.0], [9.0, 16.0]]]
    values, p = torch.tensor([[[2.0, 1.0], [4.0, -8.0]]]), torch.tensor([[[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]])
    # P^T P = [[2.25, 0.25], [0.25, 0.25]]
    found = SPIKELLM.saliency(Site("blocks.0", "attn", "v"), values, p)
    assert found.tolist() == [[[11.0, 0.25], [6.0, 14.0]]]
    assert most_salient(torch.tensor([3.0, 5.0, 5.0, 5.0, 1.0]), 0.4).fine == (1, 2)
    assert most_salient(torch.zeros(5), 0.01).fine == (0,)


def test_attention_keeps_one_bit_more_in_fine_channels(model: Model) -> None:
    block = model.blocks[0]
    encodes = {op.name.split(".")[-2]: op for op in block.ops if isinstance(op, Encode)}
    assert encodes["q"].code.name == "integer-8" and encodes["p"].code.name == "unsigned-integer-8"
    for side in "kv":
        assert encodes[side].code.name == "refined-2" and encodes[side].cached
        channels = encodes[side].code.channels
        assert channels is not None and len(channels.fine) >= 1
    assert {type(op) for op in block.core_ops()} == {Linear, Score, Mix}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"steps": 3}, "steps is 3; choose one of 1, 2, 4"),
        ({"salient": 0.7}, "salient is 0.7, not a number from 0 to 0.5"),
        ({"steps": 1}, "steps 1 with a salient share of 0.1: fine channels take 2 or 4 steps"),
        ({"salient": 0.0}, "steps 2 with a salient share of 0: fine channels take 2 or 4 steps"),
        ({"cached": 6}, "cached is 6; choose one of 4, 8"),
        ({"encoding": "offset"}, "unknown entry 'encoding'"),
    ],
)
def test_a_section_that_says_nothing_sensible_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.from_dict({"method": "spikellm", "spikellm": section})


def test_the_network_that_the_paper_starts_from(tmp_path: Path) -> None:
    """One step, no fine channels: plain asymmetric W4A4, weights to nearest."""
    recipe = Recipe.from_dict({"method": "spikellm", "spikellm": {"steps": 1, "salient": 0.0}, "weights": {"method": "rtn"}})
    checkpoint = random_checkpoint(tmp_path, "llama")
    plain = convert_model(checkpoint, random_rows(CONFIGS["llama"], 2, 12), recipe)
    names = {op.code.name for op in plain.blocks[0].ops if isinstance(op, Encode)}
    assert names == {"levels-1", "integer-8", "unsigned-integer-8", "refined-1"} and recipe.setting == "W4A4"
    assert torch.isfinite(run(plain)).all()


def test_keys_and_values_of_eight_bits_have_no_fine_channels(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path, "llama")
    block = convert_model(checkpoint, random_rows(CONFIGS["llama"], 2, 12), load_recipe("spikellm-kv8")).blocks[0]
    codes = {op.name: op.code for op in block.ops if isinstance(op, Encode)}
    assert codes["attn.k.encode"] == codes["attn.v.encode"] == codes["attn.q.encode"] == INTEGER8
    assert codes["attn.qkv.encode"].channels is not None


def test_channels_are_not_guessed(tmp_path: Path) -> None:
    checkpoint, recipe = random_checkpoint(tmp_path, "llama"), load_recipe(NAMES[0])
    block = checkpoint.family.block(checkpoint.config, 0, checkpoint.load)
    recipe = replace(recipe, weights=replace(recipe.weights, method="rtn"))
    with pytest.raises(
        UsageError, match=r"blocks\.0\.attn\.qkv: SpikeLLM chooses channels on calibration text: calibrate first"
    ):
        lower_block(block, 32, recipe, Calibration())


def test_a_plan_needs_no_text_and_no_budget_is_searched() -> None:
    found = plan("demo", NAMES[1])
    assert {segment.encoding for segment in found.costs.cost.shape.segments} >= {"levels-4", "integer-8"}
    with pytest.raises(UsageError, match="SpikeLLM has no share of messages to spend"):
        found.budget()


def test_words_for_people() -> None:
    assert SPIKELLM.setting(SpikeLLMOptions()) == "A4+1" and SPIKELLM.setting(SpikeLLMOptions(4, 0.05)) == "A4+2"
    facts = SPIKELLM.facts(SpikeLLMOptions(4, 0.05))
    assert facts["fine channels"] == "5 %, 6 bits, up to 4 graded spikes in 4 steps"


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), [("llama", NAMES[1]), ("opt", NAMES[0])])
def test_every_backend_computes_the_same_integers(family: str, name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(save_model(tmp_path / "model", family, num_hidden_layers=1)), out, name, num_samples=2, verify_with="none")
    segments = verify(out, "segment", choice=Choice(windows=5))
    assert segments.backends[-2:] == ("native", "stock") and segments.compared > 4_000 and not segments.mismatches
    if family == "llama":
        blocks = verify(out, "block", tokens=3)
        assert blocks.compared > 2_000 and not blocks.mismatches
    block = Bundle(out).block("blocks.0")
    assert all(op.code.channels is not None for op in block.linears())
