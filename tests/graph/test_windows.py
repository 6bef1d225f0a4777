"""Sliding windows: the last positions of a cache, the same in one go, token by token, in integers, on Lava and on the chip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.block import Block, Model
from kirin_lava.graph.cache import Cache
from kirin_lava.graph.counter import Counter
from kirin_lava.graph.executor import Executor
from kirin_lava.graph.ops import Encode, Mix, Op, Score
from kirin_lava.graph.parts import sums_by_part
from kirin_lava.hardware.placement import place
from kirin_lava.hardware.shapes import shape_of_model
from kirin_lava.hardware.split import make_provable
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.processes.host import by_position
from kirin_lava.quantize.without_weights import shape_of_config
from kirin_lava.spikes.codes import INTEGER8
from kirin_lava.spikes.steps import RowBudget
from kirin_lava.tasks.verify import verify
from tests.exports import export
from tests.hardware.known_configs import PUBLIC
from tests.hf_models import VOCABULARY, save_model

WINDOW, TOKENS = 5, 17


def ids(rows: int = 2) -> Tensor:
    return torch.randint(0, VOCABULARY, (rows, TOKENS), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=["kirin-w4a4-12", "kirin-spikes"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, one of them with a window, with a host and without."""
    place = tmp_path_factory.mktemp("windows")
    changes = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
    model = save_model(place / "model", "qwen2", **changes)
    export(str(model), place / "out", request.param, num_samples=2, seq_len=24, verify_with="none")
    return place / "out"


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return Bundle(bundle).model()


def test_every_operation_of_an_attention_knows_its_window(model: Model) -> None:
    for block, window in zip(model.blocks, (None, WINDOW), strict=True):
        found = {type(op).__name__: op.window for op in block.ops if hasattr(op, "window")}
        assert len(found) == 3 and set(found.values()) == {window}
        rules = [op.rule for op in block.ops if isinstance(op, Encode) and isinstance(op.rule, RowBudget)]
        assert [rule.window for rule in rules] == [window]


@pytest.mark.parametrize("pieces", [(TOKENS,), (1,) * TOKENS, (3, 9, 1, 4)])
def test_any_split_gives_the_same_logits(model: Model, pieces: tuple[int, ...]) -> None:
    together, cache = Executor(model).forward(ids()), Cache()
    parts = torch.cat([Executor(model).forward(part, cache) for part in ids().split(pieces, 1)], 1)
    assert torch.equal(together, parts)


def test_what_a_window_has_left_behind_changes_nothing(model: Model) -> None:
    """Of a model all of whose layers have a window of 5, a token sees back as far as the layers together reach."""
    both = replace(model, blocks=(replace(model.blocks[1], name="blocks.0"), model.blocks[1]))
    reach = 2 * (WINDOW - 1)
    other = ids()
    other[:, : TOKENS - reach - 1] = 7
    run = lambda tokens: Executor(both).forward(tokens)[:, -1]  # noqa: E731
    if model.embedding.fraction is None:
        assert torch.equal(run(ids()), run(other))
        other[:, TOKENS - reach - 1] = 9
        assert not torch.equal(run(ids()), run(other))


def test_counts_are_those_of_the_window(model: Model) -> None:
    counter, shape = Counter(), shape_of_model(model)
    Executor(model, observer=counter).forward(ids(1))
    contexts = range(1, TOKENS + 1)
    stats = counter.result()
    for row, segment in zip(stats.core, shape.segments, strict=True):
        assert row.neurons == sum(segment.neurons(c) for c in contexts), row.op
        assert row.dense_macs == sum(segment.synapses(c) for c in contexts), row.op
    for work, counted in zip(shape.host, stats.host, strict=True):
        assert sum(work.at(c) for c in contexts) == counted.float_operations + counted.integer_operations, work.name
    scores = [row for row in stats.core if row.kind == "score"]
    seen = sum(min(c, WINDOW) for c in contexts)
    assert scores[1].neurons / scores[0].neurons == seen / sum(contexts)


def test_synapses_that_a_window_left_behind_do_no_work(model: Model) -> None:
    """A score against the keys of the window alone, one by one."""
    counter = Counter()
    block, seen = model.blocks[1], dict[str, Any]()

    def watch(at: Block, op: Op, values: dict[str, Any]) -> None:
        if at is block and isinstance(op, Score):
            seen["q"], seen["k"], seen["op"] = values[op.input], values[f"{op.cache}.cached"], op

    Executor(model, observer=watch).forward(ids(1))
    Executor(model, observer=counter).forward(ids(1))
    op, q, keys = seen["op"], seen["q"].q, seen["k"]
    expected = 0.0
    for i in range(TOKENS):
        kept = (keys[0, :, max(0, i - WINDOW + 1) : i + 1] != 0).sum(1)  # (kv_heads, d)
        spikes = op.code.spike_count(q[0, i].view(op.kv_heads, op.heads // op.kv_heads, -1))
        expected += float((spikes * kept.unsqueeze(1)).sum())
    row = next(row for row in counter.result().core if row.block == block.name and row.kind == "score")
    assert row.synaptic_adds == expected > 0


def test_a_window_is_what_is_kept_on_the_chip() -> None:
    """Of a layer with a window no more is placed, however long the text."""
    config = {**PUBLIC["phi-3-mini-4k"], "num_hidden_layers": 1, "sliding_window": 64}
    recipe = load_recipe("kirin-w4a4-8")
    sizes = [place(shape_of_config(config, recipe, 4096), context).cache_bytes for context in (32, 64, 128, 4096)]
    assert 2 * sizes[0] == sizes[1] == sizes[2] == sizes[3]
    whole = place(shape_of_config({**config, "sliding_window": None}, recipe, 4096), 128).cache_bytes
    assert whole == 2 * sizes[1]


def test_a_mix_is_split_over_the_places_of_its_window() -> None:
    """Position p has the place of p - window: neurons of a part see the positions whose places they have."""
    mix = Mix("m", "p", "v", "y", 2, 1, INTEGER8, window=6, part=4)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 100, (1, 2, 3, 9), generator=generator).float()
    own = torch.arange(6, 9)[:, None]
    column = torch.arange(9)
    codes *= (column <= own) & (column > own - 6)
    cached = torch.randint(-90, 90, (1, 1, 9, 4), generator=generator).float()
    sums = sums_by_part(mix, codes, cached)
    whole = sums_by_part(replace(mix, part=None, window=None), codes, cached)
    assert sums.shape[0] == mix.parts(9) == 2 and torch.equal(sums.sum(0), whole[0])
    first = codes * (column % 6 < 4)
    assert torch.equal(sums[0], sums_by_part(replace(mix, part=None, window=None), first, cached)[0])


def test_places_of_a_cache_in_the_order_of_positions() -> None:
    places = np.array([[6, 7, 8, 9, 5]])
    assert by_position(places, 5, 10).tolist() == [[0, 0, 0, 0, 0, 6, 7, 8, 9, 5]]
    assert by_position(places, 5, 9).tolist() == [[0, 0, 0, 0, 5, 6, 7, 8, 9]]
    assert by_position(places, 5, 3).tolist() == [[6, 7, 8]] and by_position(places, None, 4).tolist() == [[6, 7, 8, 9]]


def test_windows_that_do_not_meet_are_refused(model: Model) -> None:
    block = model.blocks[1]
    for kind, message in ((Mix, "reaches back 5 positions instead of 4"), (Score, "reaches back 4 positions instead of 5")):
        ops = tuple(replace(op, window=4) if isinstance(op, kind) else op for op in block.ops)
        with pytest.raises(UsageError, match=message):
            replace(block, ops=ops).check("here")
    ops = tuple(replace(op, window=0) if isinstance(op, Score) else op for op in block.ops)
    with pytest.raises(UsageError, match="window is 0, not a positive number"):
        replace(block, ops=ops).check("here")
    ops = tuple(
        replace(op, rule=op.rule.reaching(None)) if isinstance(op, Encode) and isinstance(op.rule, RowBudget) else op
        for op in block.ops
    )
    with pytest.raises(UsageError, match="its budget is not one for rows that reach back 5 positions"):
        replace(block, ops=ops).check("here")


def test_no_sum_of_a_window_can_overflow_however_long_the_text(model: Model) -> None:
    block = make_provable(model.blocks[1], 1 << 20)[0]
    assert [op.part for op in block.ops if isinstance(op, Mix)] == [None]


@pytest.mark.lava
@pytest.mark.slow
def test_a_window_is_exact_on_lava(bundle: Path) -> None:
    """Longer than the window, so that places of the cache are taken again."""
    found = verify(bundle, "block", tokens=WINDOW + 4)
    assert found.compared > 5_000 and not found.mismatches
