"""Training after rounding: it helps, it is repeatable, and what comes out is plain integers."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.methods.recipe import Recipe, RecoverySpec, load_recipe
from kirin_lava.models.checkpoint import Checkpoint
from kirin_lava.quantize import convert
from kirin_lava.quantize import recover as module
from kirin_lava.quantize.convert import Converted, convert_blocks, convert_model
from kirin_lava.quantize.recover import recover
from kirin_lava.quantize.student import Layer, Student
from kirin_lava.tasks.quality.original import twin_logits
from tests.hf_models import save_model

ROWS = [torch.randint(2, 250, (24,), generator=torch.Generator().manual_seed(i)) for i in range(20)]


def _recipe(method: str, steps: int = 24) -> Recipe:
    recipe = load_recipe("kirin-w4a4-12")
    return replace(recipe, weights=replace(recipe.weights, method="rtn"), recovery=RecoverySpec(method, steps))


def _distance(checkpoint: Checkpoint, recipe: Recipe) -> float:
    """Divergence of the integer network from the float original on the rows it was trained on."""
    from kirin_lava.tasks.quality.evaluate import score
    from kirin_lava.tasks.quality.original import load_original

    original = load_original(checkpoint, ROWS[0])
    result = score(Executor(convert_model(checkpoint, ROWS, recipe)), lambda ids: original(ids).logits, ROWS)
    return result.kl / result.tokens


@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize("method", ["distill", "blocks"])
def test_it_brings_the_integer_network_nearer(tmp_path: Path, kind: str, method: str) -> None:
    checkpoint = Checkpoint(save_model(tmp_path, kind), kind)
    assert _distance(checkpoint, _recipe(method, 80)) < 0.95 * _distance(checkpoint, _recipe("none"))


@pytest.mark.parametrize("encoding", ["signed", "offset"])
@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_the_student_computes_what_the_integer_network_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, encoding: str
) -> None:
    """Every quantiser is in the loop; the head's rounding, and codes that float rounding turns, are left between the two."""
    seen: list[Tensor] = []

    def leave(student: Student, *_: object) -> list[Layer]:
        with torch.no_grad():
            seen.append(student.logits(torch.stack(ROWS)))
        return student.result()

    monkeypatch.setattr(convert, "recover", leave)
    recipe = _recipe("distill")
    recipe = replace(recipe, options=replace(recipe.options, encoding=encoding, window={"signed": 8, "offset": 16}[encoding]))
    model = convert_model(Checkpoint(save_model(tmp_path, kind), kind), ROWS, recipe)
    wanted = Executor(model).forward(torch.stack(ROWS))
    assert (seen[0] - wanted).abs().mean() < 0.05 * wanted.std()


def test_a_student_learns_from_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the layers with the biases that rounding gave them."""
    seen: list[Tensor] = []

    def leave(student: Student, *_: object) -> list[Layer]:
        with torch.no_grad():
            seen.append(student.teacher(torch.stack(ROWS[:2])))
        return student.result()

    monkeypatch.setattr(convert, "recover", leave)
    checkpoint = Checkpoint(save_model(tmp_path), "model")
    recipe = replace(load_recipe("kirin-w4a4-8"), recovery=RecoverySpec("distill", 2))
    convert_model(checkpoint, ROWS, recipe)
    torch.testing.assert_close(seen[0], twin_logits(checkpoint, torch.stack(ROWS[:2])))


def _bytes(items: list[Converted]) -> list[bytes]:
    return [linear.weight.tobytes() for item in items for linear in item.block.linears()]


def test_integers_stay_integers_and_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = Checkpoint(save_model(tmp_path), "model")
    recipe = _recipe("distill", 8)
    first = list(convert_blocks(checkpoint, ROWS, recipe, seed=3))
    assert _bytes(first) == _bytes(list(convert_blocks(checkpoint, ROWS, recipe, seed=3)))
    for item in first[:-1]:
        for linear in item.block.linears():
            assert linear.weight.min() >= -8 and linear.weight.max() <= 7


def test_the_trained_graph_is_exact_token_by_token(tmp_path: Path) -> None:
    model = convert_model(Checkpoint(save_model(tmp_path, "opt"), "opt"), ROWS, _recipe("distill", 8))
    executor, cache = Executor(model), Cache()
    whole = executor.forward(ROWS[0].unsqueeze(0))
    steps = [executor.forward(token.view(1, 1), cache) for token in ROWS[0]]
    assert torch.equal(torch.cat(steps, 1), whole)


@pytest.mark.parametrize(
    ("method", "loss", "stop", "first"),
    [
        ("distill", r"distill, divergence \d\.\d{4} nats", 9, 9),  # eight steps were saved
        ("blocks", r"reconstruct block [01], error \d\.\d{4}", 5, 6),  # in the first of two layers; every step was saved
        ("blocks", r"reconstruct block [01], error \d\.\d{4}", 8, 9),  # between them
        ("blocks", r"reconstruct block [01], error \d\.\d{4}", 11, 12),  # in the second
    ],
)
def test_an_interrupted_training_goes_on_where_it_was(tmp_path: Path, method: str, loss: str, stop: int, first: int) -> None:
    checkpoint = Checkpoint(save_model(tmp_path / "model"), "model")
    recipe, scratch = _recipe(method, 16), tmp_path / "recovery.pt"
    whole = _bytes(list(convert_blocks(checkpoint, ROWS, recipe)))
    seen: list[int] = []

    def interrupt(what: str, done: int, total: int) -> None:
        assert re.fullmatch(loss, what) and total == 16
        seen.append(done)
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(convert_blocks(checkpoint, ROWS, recipe, report=interrupt, scratch=scratch))
    assert scratch.exists()
    seen.clear()
    resumed = _bytes(list(convert_blocks(checkpoint, ROWS, recipe, report=lambda w, d, t: seen.append(d), scratch=scratch)))
    assert seen[0] == first
    assert resumed == whole


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(save_model(tmp_path), "model")
    with pytest.raises(UsageError, match="whole model"):
        list(convert_blocks(checkpoint, ROWS, _recipe("distill"), stop="blocks.0"))
    with pytest.raises(UsageError, match="two rows"):
        list(convert_blocks(checkpoint, ROWS[:1], _recipe("distill")))


def test_every_row_comes_once_before_any_comes_again() -> None:
    order = torch.cat(list(islice(module._batches(7, seed=1), 5)))
    assert sorted(order[:7].tolist()) == sorted(order[7:14].tolist()) == list(range(7))
    assert recover.__module__ == module.__name__


def test_minutes_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two layers gets half of them; what was spent before an interruption counts."""
    now, seen = 0.0, list[int]()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal now
        assert total == 20, what
        now += 1.5
        seen.append(done)
        if len(seen) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "monotonic", lambda: now)
    checkpoint, scratch = Checkpoint(save_model(tmp_path / "model"), "model"), tmp_path / "recovery.pt"
    recipe = _recipe("blocks", 16)
    recipe = replace(recipe, recovery=replace(recipe.recovery, minutes=20 / 60))
    with pytest.raises(KeyboardInterrupt):
        list(convert_blocks(checkpoint, ROWS, recipe, report=tell, scratch=scratch))
    assert len(list(convert_blocks(checkpoint, ROWS, recipe, report=tell, scratch=scratch))) == 3
    assert seen[:5] == [0, 1, 3, 4, 6] and seen[5] == 6, "what was saved had taken six seconds"
    assert seen == sorted(seen) and {10, 20} <= set(seen)
