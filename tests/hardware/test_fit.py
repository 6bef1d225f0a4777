"""A long context: parts of positions that are proved, at any context, and what they cost."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kirin_lava.base.errors import FitError, UsageError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.export.serial import block_from_json, block_to_json
from kirin_lava.graph.block import Block
from kirin_lava.graph.cache import Cache
from kirin_lava.graph.executor import BlockExecutor, Executor
from kirin_lava.graph.ops import Decode, Encode, Linear, Mix
from kirin_lava.hardware.bounds import Arrivals, code_extremes, payload_extremes
from kirin_lava.hardware.energy import energy_table
from kirin_lava.hardware.fit import SegmentFit, require_planned_fit
from kirin_lava.hardware.observe import RangeObserver
from kirin_lava.hardware.placement import place
from kirin_lava.hardware.profile import load_profile
from kirin_lava.hardware.ranges import PROVED, UNFIT, block_ranges, model_ranges
from kirin_lava.hardware.split import make_provable, provable_part, reach_of
from kirin_lava.hardware.traffic import traffic
from kirin_lava.hardware.work import assumed_work
from kirin_lava.methods.kirin import KirinOptions, Outliers
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.quantize.convert import convert_model
from kirin_lava.quantize.without_weights import fit_of_config, shape_of_config
from kirin_lava.spikes.codes import OFFSET, SIGNED, UNSIGNED16, SpikeCode, integer, offset, signed
from kirin_lava.spikes.codes.ttfs import Ttfs
from kirin_lava.spikes.steps import RowBudget, StaticStep, TokenBudget
from tests.conftest import Cli
from tests.small_models import CONFIGS, random_checkpoint, random_rows

AT_START = (torch.arange(1), Cache())
LONG = {**CONFIGS["llama"], "max_position_embeddings": 8192}


def recipe(ratio: float):  # type: ignore[no-untyped-def]
    return replace(load_recipe("fast"), options=KirinOptions("offset", outliers=Outliers(0.1, sites={"attn.p": ratio})))


@pytest.mark.parametrize(("ratio", "part", "parts"), [(0.02, 1639, 5), (0.1, 256, 32), (0.0, 4096, 2)])
def test_the_parts_of_a_long_context_are_proved_up_to_the_limit(ratio: float, part: int, parts: int) -> None:
    """b messages of 255 and spikes of 15, times 127: as many positions as fit, cut evenly."""
    plan = next(s for s in shape_of_config(LONG, recipe(ratio)).segments if s.kind == "mix")
    assert (plan.part, len(plan.fan_ins(8192))) == (part, parts)
    budget = max(1, int(ratio * 8192)) if ratio else 0

    def reach(positions: int) -> int:
        few = min(budget, positions)
        return 127 * (few * 255 + (positions - few) * 15)

    assert reach(part) <= STATE_MAX < reach(-(-8192 // (parts - 1)))  # one part fewer would not do
    rows = fit_of_config(LONG, recipe(ratio))
    assert {row.guarantee for row in rows} == {PROVED}
    assert {(row.parts, row.positions) for row in rows if row.kind == "mix"} == {(parts, part)}


def test_no_probabilities_pass_the_bound_and_some_reach_it() -> None:
    """The step follows the row, so that a sum of probabilities of 1 bounds nothing: b large ones and J - b small ones."""
    positions, rule = 200, RowBudget(0.1)
    most = 20 * 255 + 180 * 15
    small = 2.0**-9  # a bound that is rounded up to binary digits stays what it is
    row = torch.full((1, 1, 1, positions), small)
    row[..., :20] = 255.4 / 15.499 * small
    assert float(row.sum()) < 1
    rng = np.random.default_rng(0)
    rows = [row, *(torch.from_numpy(rng.exponential(1, (1, 1, 1, positions)) ** power).float() for power in (0.1, 1, 3, 9))]
    sums = []
    for x in rows:
        codes = rule.encode(UNSIGNED16, x, 1, positions - 1, "p", True)
        sums.append(float(codes.q.sum()))
    assert max(sums) == sums[0] == most
    seen = Arrivals(UNSIGNED16, rule.budget(UNSIGNED16, positions))
    assert code_extremes(np.ones((1, positions), np.int8), seen).high.tolist() == [most]


def test_messages_of_a_token_are_bounded_by_the_largest_weights() -> None:
    """Wide messages, few of them: against every choice of which inputs send one, by brute force over their places."""
    code = Ttfs("wide", 16, 0, -2047, 2047, spike_min=-15, spike_max=15)
    rng = np.random.default_rng(3)
    weight = rng.integers(-127, 128, (5, 7)).astype(np.int8)
    best = np.zeros(5, np.int64)
    for first in range(7):
        for second in range(7):
            largest = np.full(7, 15)
            largest[[first, second]] = 2047
            best = np.maximum(best, (np.abs(weight.astype(np.int64)) * largest).sum(1))
    span = payload_extremes(weight, Arrivals(code, 2))
    assert span.high.tolist() == best.tolist() == (-span.low).tolist()
    anything = payload_extremes(weight, Arrivals(code))
    assert (anything.high > best).all()


@given(st.sampled_from([signed(16, 12), signed(8, 16), offset(12), SIGNED]), st.integers(0, 2**31), st.integers(21, 4000))
def test_a_reach_holds_and_costs_nothing_below_it(code: SpikeCode, seed: int, reach: int) -> None:
    """Codes of rows by themselves: those that sum to no more are what they were, the others sum to no more now."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.standard_t(1, (6, 20)) ** 3).float()[None]
    plain = TokenBudget(0.1).encode(code, x, 1, 0, "x", False)
    held = TokenBudget(0.1, reach).encode(code, x, 1, 0, "x", False)
    before, after = plain.q.abs().sum(-1), held.q.abs().sum(-1)
    assert float(after.max()) <= reach
    assert torch.equal(held.q[before <= reach], plain.q[before <= reach])
    assert (held.step >= plain.step).all() and (code.is_message(held.q).sum(-1) <= 2).all()
    assert torch.equal(held.q[:, 3:4], TokenBudget(0.1, reach).encode(code, x[:, 3:4], 1, 0, "x", False).q)


def test_a_reach_holds_to_the_last_unit_where_float32_cannot_count_it() -> None:
    """Sums above 2^24 that are one more than the reach."""
    width = 6000
    x = torch.full((1, 8, width), 15.0)
    x[..., : width // 10] = 32767.0
    x[0, :, -1] = torch.arange(8) * 2 % 15
    code = signed(16, 16)
    plain = TokenBudget(0.1).encode(code, x, 1, 0, "x", False)
    sums = plain.q.double().abs().sum(-1).flatten().long().tolist()
    assert torch.equal(plain.q, x) and min(sums) > 2**24
    for row, total in enumerate(sums):
        held = TokenBudget(0.1, total - 1).encode(code, x[:, row : row + 1], 1, 0, "x", False)
        assert float(held.q.double().abs().sum()) < total


def test_codes_of_a_reach_are_bounded_by_brute_force() -> None:
    """All codes of three inputs whose magnitudes sum to 9 at most, in u, v and at the window's end."""
    weight = np.array([[3, -5, 2], [-8, 0, 1], [7, 7, 7]], np.int8)
    for code in (replace(SIGNED, code_min=-8, code_max=8, spike_min=-3, spike_max=3), replace(OFFSET, code_min=-9, code_max=9)):
        every = np.array(list(itertools.product(range(code.code_min, code.code_max + 1), repeat=3)))
        some = every[(np.abs(every).sum(1) <= 9) & (code.is_message(every).sum(1) <= 2)]
        seen = Arrivals(code, 2, 9)
        span, sums = code_extremes(weight, seen), some @ weight.T.astype(np.int64)
        assert (span.low <= sums.min(0)).all() and (sums.max(0) <= span.high).all()
        if code.zero == 0:
            assert span.high.tolist() == sums.max(0).tolist() == [43, 65, 63]
        states, raster = payload_extremes(weight, seen), code.payloads(some)
        u = np.cumsum(np.einsum("nk,bkt->bnt", weight.astype(np.int64), raster), axis=-1)
        for state in (u, np.cumsum(u, axis=-1)):
            assert (states.low <= state.min((0, 2))).all() and (state.max((0, 2)) <= states.high).all()


@pytest.mark.parametrize("bits", [12, 16])
def test_wide_messages_are_held_instead_of_split(bits: int) -> None:
    """At SmolLM2's widest: what 8-bit weights could make of it decides how far a token may reach."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (4, 1536)).astype(np.int8)
    code = signed(16, bits)
    ops = (
        Encode("encode", "x", "codes", code, TokenBudget(0.1)),
        Linear("wide", "codes", "sums", weight, 8, code),
        Decode("decode", "sums", "codes", "y", np.ones(4, np.float32), None),
    )
    block = Block("b", ops, "y", 1536)
    (before,) = block_ranges(block, 1)
    held, parts = make_provable(block, 1)
    (after,) = block_ranges(held, 1)
    assert before.guarantee != PROVED and after.guarantee == PROVED and parts == {}
    encode = held.ops[0]
    assert isinstance(encode, Encode) and isinstance(encode.rule, TokenBudget) and encode.rule.reach is not None
    assert 66_000 < encode.rule.reach < 90_000  # with codes of 15 and 127 * 66,051 = STATE_MAX
    x = torch.full((1, 1, 1536), 0.01)
    x[..., :153] = 1.0  # a token that would pass the membrane
    with pytest.raises(FitError, match="24-bit state"):
        BlockExecutor(None).run(replace(block, ops=(ops[0], replace(ops[1], weight=np.abs(weight)), ops[2])), x, *AT_START)
    BlockExecutor(None).run(replace(held, ops=(encode, replace(ops[1], weight=np.abs(weight)), ops[2])), x, *AT_START)
    values, arrays = block_to_json(held, lambda op: f"{op.name}.net")
    assert values["ops"][0]["rule"] == {"kind": "TokenBudget", "ratio": 0.1, "reach": encode.rule.reach}
    again = block_from_json(values, arrays, lambda name: next(held.linears()), 1536)
    assert again.ops[0] == encode or again.ops[0].rule == encode.rule  # type: ignore[attr-defined]
    values["ops"][0]["rule"]["reach"] = 1536
    with pytest.raises(UsageError, match="reach 1536 is not above its 1536 codes"):
        block_from_json(values, arrays, lambda name: next(held.linears()), 1536).check("here")


def test_a_step_that_does_not_depend_on_the_token_has_no_reach() -> None:
    """Its segment is split, however wide its messages are."""
    code, rng = signed(16, 12), np.random.default_rng(0)
    ops = (
        Encode("encode", "x", "codes", code, StaticStep(0.5)),
        Linear("wide", "codes", "sums", rng.integers(-127, 128, (4, 1536)).astype(np.int8), 8, code),
        Decode("decode", "sums", "codes", "y", np.ones(4, np.float32), None),
    )
    held, parts = make_provable(Block("b", ops, "y", 1536), 1)
    encode = held.ops[0]
    assert isinstance(encode, Encode) and encode.rule == StaticStep(0.5) and parts["wide"] > 1


def test_what_is_not_wide_is_split_as_before() -> None:
    """8-bit messages, integers without spikes, and tokens whose spikes alone could sum to more."""
    weight = np.full((1, 8192), 127, np.int8)
    for code in (SIGNED, integer(12), signed(16, 12)):
        assert reach_of(Linear("l", "a", "b", weight, 8, code)) is None
    assert reach_of(Linear("l", "a", "b", weight[:, :4000], 8, signed(16, 12))) is not None


def test_a_model_is_split_for_the_context_that_is_asked_for(tmp_path: Path) -> None:
    """Only as far as it must; a bundle of a short context carries no parts at all."""
    checkpoint = random_checkpoint(tmp_path, "llama")
    model = convert_model(checkpoint, random_rows(CONFIGS["llama"]), recipe(0.02))
    block = model.blocks[0]
    mix = next(op for op in block.ops if isinstance(op, Mix))
    assert mix.part is None and make_provable(block, 64)[1] == {}
    most = next(n for n in range(3000, 5000) if provable_part(block, mix, n) is not None) - 1
    split, parts = make_provable(block, most + 1)
    assert parts == {"attn.mix": 2} and next(op.part for op in split.ops if isinstance(op, Mix)) == -(-(most + 1) // 2)
    for context in (1, most, most + 1):
        assert all(row.guarantee == PROVED for row in block_ranges(split, context)), context
    assert [r.guarantee == PROVED for r in block_ranges(block, most + 1) if r.kind == "mix"] == [False]


def test_observed_membranes_are_those_of_the_parts(tmp_path: Path) -> None:
    model = convert_model(random_checkpoint(tmp_path, "llama"), random_rows(CONFIGS["llama"]), recipe(0.1))
    blocks = tuple(
        replace(b, ops=tuple(replace(op, part=3) if isinstance(op, Mix) else op for op in b.ops)) for b in model.blocks
    )
    observer = RangeObserver()
    Executor(replace(model, blocks=blocks), observer=observer).forward(torch.stack(random_rows(CONFIGS["llama"], seed=5)))
    for row in model_ranges(replace(model, blocks=blocks), observer, 12):
        if row.kind == "mix":
            seen, worst = row.calibrated["membrane"], row.worst["membrane"]
            assert len(seen.low) == 32 and worst.outer()[1] == 127 * (255 + 2 * 15)
            assert (worst.low <= seen.low).all() and (seen.high <= worst.high).all() and seen.high.max() > 0


def test_parts_have_cores_of_their_own_and_are_read_out() -> None:
    """Against the same model that could do without: as many synapses, more neurons, more bits to the host."""
    shape = shape_of_config(LONG, recipe(0.02))
    whole = replace(
        shape, segments=tuple(replace(s, part=0) for s in shape.segments), host=tuple(h for h in shape.host if not h.part)
    )
    mixes = []
    for plan in (whole, shape):
        work, placement = assumed_work(plan, 8192), place(plan, 8192)
        moved = traffic(work, placement)
        index = next(i for i, s in enumerate(plan.segments) if s.kind == "mix")
        placed, sent, done = placement.segments[index], moved.segments[index], work.segments[index]
        energy = energy_table(work, load_profile("horowitz-45nm"))
        mixes.append((placed, sent, done, energy, work))
    (placed, sent, done, energy, work), (in_parts, sent_parts, done_parts, energy_parts, work_parts) = mixes
    assert done_parts.readouts == done_parts.neurons == 5 * done.readouts and done_parts.parts == 5
    assert done_parts.dense_macs == done.dense_macs and done_parts.spikes == done.spikes
    assert in_parts.neurons == 5 * 32 and in_parts.lines == placed.lines and in_parts.cache_bytes == placed.cache_bytes
    assert sent_parts.to_host_bits == 5 * sent.to_host_bits
    assert in_parts.core_copies <= placed.core_copies
    for network, more in (("ours", 24 * 2 * 4 * 32), ("fp16", 0)):
        counts, counts_parts = energy.column(network).counts, energy_parts.column(network).counts
        assert counts_parts["host_bit"] - counts["host_bit"] == pytest.approx(more)
    assert work_parts.host_operations - work.host_operations == 2 * 4 * 32


def test_a_dry_run_for_the_chip_takes_the_whole_context(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LONG))
    arguments = ("export", "-m", tmp_path, "-o", tmp_path / "out", "--dry-run", "--recipe", "kirin-w4a4-8")
    plain, chip = cli(*arguments, "--json"), cli(*arguments, "--json", "--target", "loihi2")
    assert plain.code == chip.code == 0, chip.err
    values = json.loads(chip.out)
    assert values["placement"]["context"] == values["ranges"]["positions"] == 8192
    assert json.loads(plain.out)["placement"]["context"] == 4096
    ranges = values["ranges"]
    assert ranges["fits"] and ranges["proved"] == len(ranges["segments"]) == 13
    shorter = json.loads(cli(*arguments, "--json", "--target", "loihi2", "--context", 1000).out)
    assert {row["positions"] for row in shorter["ranges"]["segments"]} == {0}
    text = " ".join(cli(*arguments, "--target", "loihi2").out.split())
    (part,) = {row["positions"] for row in ranges["segments"]} - {0}
    assert "13 of 13, for 8,192 positions" in text and f"in parts of {part:,} positions" in text


def test_what_cannot_fit_is_refused_before_there_are_weights() -> None:
    rows = [SegmentFit("blocks.0", "a", "mix", PROVED), SegmentFit("blocks.0", "b", "score", UNFIT)]
    require_planned_fit(rows[:1], 9)
    with pytest.raises(FitError, match=r"1 segments do not fit Loihi 2 at 9 positions(.|\n)*blocks.0 b"):
        require_planned_fit(rows, 9)
