"""LAS: ranges are found on text, sums of planes and halves are exact, nothing is left to a host, every backend agrees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Cache, Executor, cached_name
from kirin_lava.graph.ops import Decode, Encode, Linear, Mix, Op, Score, Slice, Softmax, Sum
from kirin_lava.graph.ops.op import HOST
from kirin_lava.graph.values import Codes, Value
from kirin_lava.hardware.observe import RangeObserver
from kirin_lava.hardware.ranges import block_ranges, model_ranges
from kirin_lava.hardware.split import make_provable, split_block
from kirin_lava.methods.known import LAS
from kirin_lava.methods.las import LasOptions
from kirin_lava.methods.method import Seen
from kirin_lava.methods.recipe import Recipe, load_recipe
from kirin_lava.methods.site import Site
from kirin_lava.models.layout import Attention
from kirin_lava.quantize.convert import convert_model, rotary_of
from kirin_lava.quantize.lower import lower_block
from kirin_lava.quantize.measure import measure
from kirin_lava.quantize.sites import Calibration, Sites
from kirin_lava.spikes.codes import HALVES16, PLANES, Planes, code_named, planes
from kirin_lava.spikes.neurons import DOUBLING, PLANE_BY_PLANE
from kirin_lava.spikes.ranges import FixedStep, PlaneRow, PlaneStep
from kirin_lava.tasks.plan import plan
from kirin_lava.tasks.verify import Choice, verify
from tests.exports import export
from tests.hf_models import save_model
from tests.small_models import CONFIGS, random_checkpoint, random_rows

NAMES = ("las-w8a16", "las-w8a12", "las-w8a8")


@pytest.fixture(
    scope="module",
    params=[
        ("llama", NAMES[0], "spikes"),
        ("llama", NAMES[0], "float"),
        ("opt", NAMES[2], "spikes"),
        ("opt", NAMES[1], "float"),
    ],
    ids=lambda p: "-".join(p),
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    family, name, host = request.param
    checkpoint = random_checkpoint(tmp_path_factory.mktemp("model"), family)
    return convert_model(checkpoint, random_rows(CONFIGS[family], 4, 24), replace(load_recipe(name), host=host))


def run(model: Model, observer: Any = None, length: int = 20) -> Tensor:
    ids = torch.randint(0, 40, (2, length), generator=torch.Generator().manual_seed(3))
    return Executor(model, observer=observer).forward(ids)


def whole(values: dict[str, Value], name: str) -> np.ndarray:
    """Codes or sums as int64."""
    value = values[name]
    return (value.q if isinstance(value, Codes) else value).numpy().astype(np.int64)


def test_every_sum_is_that_of_64_bit_integers(model: Model) -> None:
    """Also where it is wider than float32; products of attention by einsum."""
    compared, widest = 0, 0

    def watch(block: Block, op: Op, values: dict[str, Value]) -> None:
        nonlocal compared, widest
        if not isinstance(op, (Linear, Score, Mix)):
            return
        q, found = whole(values, op.input), whole(values, op.output)
        if isinstance(op, Linear):
            expected = q @ op.weight.T.astype(np.int64)
        else:
            kept = cast(Tensor, values[cached_name(op.cache)]).numpy().astype(np.int64)
            kept = kept.repeat(op.heads // op.kv_heads, 1)  # (B, H, J, d)
            if isinstance(op, Score):
                heads = q.reshape(*q.shape[:2], op.heads, -1)
                expected = np.einsum("blhd,bhjd->bhlj", heads, kept) * np.tri(q.shape[1], dtype=np.int64)
            else:
                expected = np.einsum("bhlj,bhjd->blhd", q, kept).reshape(found.shape)
        np.testing.assert_array_equal(found, expected)
        compared, widest = compared + found.size, max(widest, int(abs(expected).max()))

    run(model, watch)
    assert compared > 20_000 and widest > 2**23


def test_a_prompt_at_once_in_parts_and_token_by_token(model: Model) -> None:
    ids = torch.randint(0, 40, (1, 9), generator=torch.Generator().manual_seed(0))
    at_once, cache = Executor(model).forward(ids), Cache()
    one_by_one = Executor(model)
    assert torch.equal(torch.cat([one_by_one.forward(ids[:, i : i + 1], cache) for i in range(9)], 1), at_once)
    if model.blocks[0].fraction is None:
        parts = {op.name: 3 for op in model.blocks[0].linears()}
        split = replace(model, blocks=tuple(split_block(block, parts) for block in model.blocks))
        assert {type(op) for op in split.blocks[0].ops} >= {Slice, Sum}
        split.blocks[0].check("split")
        assert torch.equal(Executor(split).forward(ids), at_once)


def test_what_is_sent_is_counted(model: Model) -> None:
    """A spike for every bit; those of outliers are products, the others additions; every range is proved."""
    sent: dict[str, list[int]] = {}

    def watch(block: Block, op: Op, values: dict[str, Value]) -> None:
        if isinstance(op, Linear):
            payloads = op.code.payloads(whole(values, op.input))
            synapses = np.count_nonzero(op.weight, axis=0)
            single, far = abs(payloads) == 1, abs(payloads) > 1
            counts = (np.count_nonzero(payloads), (single.sum(-1) @ synapses).sum(), (far.sum(-1) @ synapses).sum())
            sent[f"{block.name}.{op.name}"] = [int(n) for n in counts]

    counter, ranges = Counter(), RangeObserver()
    run(model, counter)
    run(model, ranges)
    run(model, watch)
    stats = counter.result()
    hosted, planned = model.blocks[0].fraction is None, 0
    for row in stats.core:
        if row.kind == "read":
            assert [row.spikes, row.synaptic_adds, row.macs] == sent[f"{row.block}.{row.op}"] and not row.outliers
            planned += row.readouts == hosted * row.neurons * row.window
        else:
            assert row.readouts == hosted * 2 * row.neurons * row.window and row.weight_bits == 16
            assert row.neuron_updates == 2 * row.neurons * row.window
    assert planned >= 1
    for codes in stats.codes:
        if codes.encoding.startswith("planes"):
            assert codes.elements == sum(codes.histogram.values()) and codes.spikes > codes.elements - codes.silent > 0
            sizes = [abs(q) for q in codes.histogram]
            assert max(sizes) <= codes.largest < 2 * max(sizes) + 1
            if code_named(codes.encoding).wide:  # only the highest bit of a code is told apart
                assert all(size & size - 1 == 0 for size in sizes)
    assert {r.guarantee for r in model_ranges(model, ranges)} == {"proved"}


def test_nothing_is_left_to_a_host(model: Model) -> None:
    ops = [op for block in (*model.blocks, model.head) for op in block.ops]
    if model.blocks[0].fraction is None:
        assert {type(op) for op in ops} >= {Softmax, Decode, Encode}
    else:
        assert not [op.name for op in ops if op.place == HOST]
    for name in NAMES:
        assert load_recipe(name).host == "spikes" and load_recipe(name).weights.bits == 8


def test_sides_get_the_codes_that_they_should(model: Model) -> None:
    block, window = model.blocks[0], next(model.blocks[0].linears()).code.window
    encodes = {op.name.split(".")[-2]: op for op in block.ops if isinstance(op, Encode)}
    for side in "kv":
        assert encodes[side].code is HALVES16 and type(encodes[side].rule) is FixedStep and encodes[side].cached
    value, p = encodes["v"].rule, encodes["p"].rule
    assert isinstance(value, FixedStep) and isinstance(p, PlaneRow) and encodes["p"].code == planes(window, 0)
    assert p.step * 2 ** (2 * window) == value.step * (2**window + 1)
    one = torch.tensor([[[[value.step, 0.0], [value.step, value.step / 2]]]])
    found = p.encode(encodes["p"].code, one, 1, 0, "p", True)
    assert found.q.flatten().tolist() == [2**window - 1, 0, 2**window - 1, 2 ** (window - 1) - 1] and not found.clipped
    for op in (*block.linears(), *model.head.linears()):
        assert op.code in PLANES and op.code.window == window
        most = DOUBLING.reach(op.code, int(abs(op.weight.astype(int)).sum(1).max()))
        assert op.neuron == (DOUBLING if most <= STATE_MAX else PLANE_BY_PLANE)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_ranges_reach_beyond_everything_that_came_up(family: str, tmp_path: Path) -> None:
    checkpoint, recipe = random_checkpoint(tmp_path, family), load_recipe(NAMES[0])
    block = checkpoint.family.block(checkpoint.config, 0, checkpoint.load)
    rows = [torch.randn(1, length, 32, generator=torch.Generator().manual_seed(length)) for length in (9, 14, 3)]
    rows[1][0, 5, 7] = 80.0
    sites = Sites(block, recipe)
    measure(sites, rows, rotary_of(checkpoint))
    found = sites.calibration.codings
    (attention,) = (op for op in block.ops if isinstance(op, Attention))
    assert set(found) == {f"blocks.0.{op.name}" for op in block.denses()} | {f"blocks.0.{attention.name}.{s}" for s in "qkvp"}
    for name, coding in found.items():
        rule = coding.rule
        assert isinstance(rule, FixedStep) and rule.problem(8) is None and coding.name == name
    # more than what came up is clipped, and counted
    coding = found[f"blocks.0.{block.denses()[0].name}"]
    assert isinstance(coding.rule, PlaneStep) and isinstance(coding.code, Planes)
    reach = coding.rule.step * 2 ** (coding.code.window + coding.code.outlier_shift)
    x = torch.tensor([[[reach * 0.999, -reach, 3 * reach]]])
    assert coding.codes(x).clipped == 2 and abs(coding.sent(x)[0, 0] / reach - torch.tensor([1, -1, 1])).max() < 0.01


def test_probabilities_follow_the_step_of_values() -> None:
    seen = Seen(3.0, torch.linspace(-3, 3, 99))
    value = LAS.measured(Site("blocks.0", "attn", "v"), LasOptions(), seen, {})
    key = LAS.measured(Site("blocks.0", "attn", "k"), LasOptions(), seen, {})
    assert isinstance(value.rule, FixedStep) and isinstance(key.rule, FixedStep)
    assert value.rule.step == key.rule.step == 2.0**-12 and (value.rule.digits, key.rule.digits) == (23, 1)
    p = LAS.measured(Site("blocks.0", "attn", "p"), LasOptions(8), seen, {"v": value})
    assert p == p.__class__(planes(8, 0), PlaneRow(2.0**-12 * 257 / 65536, 9))
    silent = LAS.measured(Site("blocks.0", "mlp.down"), LasOptions(), Seen(0.0, torch.zeros(9)), {})
    assert silent.rule.problem(9) is None and not silent.codes(torch.zeros(1, 1, 3)).q.any()


def test_wide_fan_ins_are_split_until_a_plane_fits(tmp_path: Path) -> None:
    code = planes(16, 8)
    weight = np.full((2, 600), 127, np.int8)
    ops = (
        Encode("e", "x", "c", code, PlaneStep(2.0**-10, 1)),
        Linear("wide", "c", "s", weight, 8, code, PLANE_BY_PLANE),
        Decode("d", "s", "c", "y", np.ones(2, np.float32), None),
    )
    block, parts = make_provable(Block("blocks.0", ops, "y", 600), 8)
    assert parts == {"wide": 3} and {row.guarantee for row in block_ranges(block, 8)} == {"proved"}
    x = torch.full((1, 1, 600), 2.0**14)
    exact = 600 * 127 * (65535 / 65536) * 2.0**14
    assert _output(block, x).tolist() == [[[float(np.float32(exact))] * 2]]
    with pytest.raises(FitError, match="wide: a membrane reaches 19507200, beyond the 24-bit state"):
        _output(Block("blocks.0", ops, "y", 600), x)


def _output(block: Block, x: Tensor) -> Tensor:
    from kirin_lava.graph.executor import BlockExecutor

    return BlockExecutor(None).run(block, x, torch.arange(x.shape[1]), Cache())


def test_ranges_are_not_guessed(tmp_path: Path) -> None:
    checkpoint, recipe = random_checkpoint(tmp_path, "llama"), load_recipe(NAMES[0])
    block = checkpoint.family.block(checkpoint.config, 0, checkpoint.load)
    with pytest.raises(UsageError, match=r"blocks\.0\.attn\.qkv: LAS finds its ranges on calibration text: calibrate first"):
        lower_block(block, 32, recipe, Calibration())
    with pytest.raises(UsageError, match="planes is 4; choose one of 16, 12, 8"):
        Recipe.from_dict({"method": "las", "las": {"planes": 4}})
    with pytest.raises(UsageError, match="LAS does not train by 'distill'"):
        Recipe.from_dict({"method": "las", "recovery": {"method": "distill"}})


def test_a_plan_needs_no_text() -> None:
    found = plan("demo", NAMES[1])
    shape = found.costs.cost.shape
    assert {segment.encoding for segment in shape.segments} == {"planes-12"}
    assert all(s.readouts == 24 and s.bits == 16 and s.halves == 2 for s in shape.segments if s.kind != "read")
    assert LAS.setting(LasOptions(12)) == "A12" and "sign and 12 bits" in LAS.facts(LasOptions(12))["activations"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("las")
    out = folder / "out"
    model = str(save_model(folder / "model", "llama", num_hidden_layers=1))
    export(model, out, NAMES[0], num_samples=2, verify_with="none")
    return out


def test_a_plane_that_is_dropped_is_found_by_verify(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = verify(bundle, "segment", "reference")
    assert right.compared > 1000 and not right.mismatches
    send = Planes.spikes

    def dropped(self: Planes, sent: Any, steps: int) -> Any:
        raster = send(self, sent, steps)
        raster[..., steps - self.window + 9] = 0
        return raster

    monkeypatch.setattr(Planes, "spikes", dropped)
    wrong = verify(bundle, "segment", "reference")
    assert wrong.mismatches > 0.95 * wrong.compared * 2 / 3  # all but the products, which have no planes
    assert wrong.first is not None and "closed form" in str(wrong.first)


@pytest.mark.lava
@pytest.mark.slow
def test_every_backend_computes_the_same_integers(bundle: Path, tmp_path: Path) -> None:
    segments = verify(bundle, "segment", choice=Choice(windows=3))
    assert segments.backends[-2:] == ("native", "stock") and segments.compared > 2_000 and not segments.mismatches
    blocks = verify(bundle, "block", tokens=3)
    assert blocks.compared > 2_000 and not blocks.mismatches
    manifest = Bundle(bundle).manifest
    places = {op["place"] for block in manifest["blocks"] for op in block["ops"]}
    assert HOST not in places
    opt = tmp_path / "opt"
    export(str(save_model(tmp_path / "model", "opt", num_hidden_layers=1)), opt, NAMES[2], num_samples=2, verify_with="none")
    result = verify(opt, "block", tokens=3)
    assert result.compared > 1_000 and not result.mismatches
