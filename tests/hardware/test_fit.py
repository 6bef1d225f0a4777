"""A long context: parts of positions that are proved, at any context, and what they cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kirin_lava.base.errors import FitError
from kirin_lava.base.loihi2 import STATE_MAX
from kirin_lava.graph.executor import Executor
from kirin_lava.graph.ops import Linear, Mix
from kirin_lava.hardware.bounds import Arrivals, code_extremes, payload_extremes
from kirin_lava.hardware.energy import energy_table
from kirin_lava.hardware.fit import SegmentFit, require_planned_fit
from kirin_lava.hardware.observe import RangeObserver
from kirin_lava.hardware.placement import place
from kirin_lava.hardware.profile import load_profile
from kirin_lava.hardware.ranges import PROVED, UNFIT, block_ranges, model_ranges
from kirin_lava.hardware.split import MOST_PARTS, make_provable, parts_needed, provable_part
from kirin_lava.hardware.traffic import traffic
from kirin_lava.hardware.work import assumed_work
from kirin_lava.methods.kirin import KirinOptions, Outliers
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.quantize.convert import convert_model
from kirin_lava.quantize.without_weights import fit_of_config, shape_of_config
from kirin_lava.spikes.codes import UNSIGNED16
from kirin_lava.spikes.codes.ttfs import Ttfs
from kirin_lava.spikes.steps import RowBudget
from tests.conftest import Cli
from tests.small_models import CONFIGS, random_checkpoint, random_rows

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


def test_wide_messages_are_split_while_it_pays() -> None:
    """At SmolLM2's width: 12 bits of 1 % of a token are proved whole, of 10 % in parts; 16 bits no number of parts is worth."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (4, 576)).astype(np.int8)
    found = []
    for bits, budget in ((12, 5), (12, 57), (16, 57)):
        largest = 2 ** (bits - 1) - 1
        code = Ttfs(f"m{bits}", 16, 0, -largest, largest, spike_min=-15, spike_max=15)
        found.append(parts_needed(Linear("l", "a", "b", weight, 8, code), Arrivals(code, budget)))
    assert found[0] == 1 and found[1] in range(2, MOST_PARTS) and found[2] is None


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
