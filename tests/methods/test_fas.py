"""FAS: what lies between two dense layers is counted, every backend counts the same, and gated families are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kirin_lava.base.errors import FitError, UnsupportedError, UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.executor import Executor
from kirin_lava.graph.ops import Encode, Linear
from kirin_lava.methods.fas import FAS, FasOptions
from kirin_lava.methods.fas.steps import input_step, output_steps, settled
from kirin_lava.methods.method import FiringDense
from kirin_lava.methods.recipe import Recipe, RecoverySpec, load_recipe
from kirin_lava.methods.site import Site
from kirin_lava.quantize import convert
from kirin_lava.quantize.convert import convert_blocks, convert_model
from kirin_lava.quantize.student import Layer, Student
from kirin_lava.spikes.codes import INTEGER8
from kirin_lava.spikes.neurons import IntegrateFire
from kirin_lava.spikes.steps import StaticStep
from kirin_lava.tasks.plan import plan
from kirin_lava.tasks.quality.original import load_original
from kirin_lava.tasks.verify import Choice, verify
from tests.exports import export
from tests.hf_models import save_model
from tests.small_models import CONFIGS, random_checkpoint, random_rows

NAME = "fas-w8a8"
FITTED = replace(load_recipe(NAME), options=FasOptions(8, "neuron"))
FC1 = Site("blocks.0", "mlp.fc1")


@pytest.mark.parametrize("levels", [4, 8, 16])
def test_only_what_lies_between_two_dense_layers_is_counted(tmp_path: Path, levels: int) -> None:
    recipe = replace(load_recipe(NAME), options=FasOptions(levels))
    block = convert_model(random_checkpoint(tmp_path, "opt"), random_rows(CONFIGS["opt"], 4, 24), recipe).blocks[0]
    linears = {op.name: op for op in block.linears()}
    assert {name: (op.code.name, op.bits) for name, op in linears.items()} == {
        "attn.qkv": ("integer-8", 8),
        "attn.o": ("integer-8", 8),
        "mlp.fc1": ("integer-8", 8),
        "mlp.fc2": (f"rate-{levels}", 8),
    }
    assert isinstance(linears["mlp.fc1"].neuron, IntegrateFire)
    assert {op.name: isinstance(op.rule, StaticStep) for op in block.ops if isinstance(op, Encode)}["mlp.fc1.encode"]


def test_a_neuron_is_the_activation_of_its_float_sum() -> None:
    """Counts of the integers against `floor(clip(y / theta, 0, 1) L + 1/2)` of the real sum, bias included."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (40, 24)).astype(np.int8)
    unit, steps, bias = rng.random(40) / 500 + 1e-3, rng.random(40) * 4 + 1, rng.normal(0, 3, 40)
    neuron = FAS.neuron(FiringDense("mlp.fc1", weight, unit, steps, bias, INTEGER8), FC1, FasOptions())
    assert isinstance(neuron, IntegrateFire) and neuron.problem(40) is None
    sums = rng.integers(-127, 128, (2000, 24)) @ weight.T.astype(np.int64)
    real = np.floor((sums * unit + bias) / steps + 0.5).clip(0, 8)
    counted = neuron.closed(sums)
    assert (counted != real).mean() < 0.002 and np.abs(counted - real).max() <= 1  # theta is an integer
    started = replace(neuron, initial=np.zeros(40, np.int64)).closed(sums)
    assert (started != real).mean() > 0.02


def test_a_membrane_that_cannot_fit_is_refused() -> None:
    ones = np.ones(1)
    dense = FiringDense("mlp.fc1", np.full((1, 600), 127, np.int8), ones, ones, 0 * ones, INTEGER8)
    with pytest.raises(FitError, match=r"mlp\.fc1: membrane or twice the threshold of neuron 0 can reach 9677400"):
        FAS.neuron(dense, FC1, FasOptions())


def test_steps_are_of_least_squared_error() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 6, generator=generator) * torch.tensor([1.0, 1.0, 5.0, 0.1, 1.0, 1.0])
    x[:, 4] = -1
    x[0, 5] = 1000

    def error(step: Tensor) -> Tensor:
        return ((x / step + 0.5).floor().clamp(0, 8) * step - x.clamp_min(0)).square().sum(0)

    steps = output_steps(x, 8)
    for other in (0.8, 1.25):
        assert (error(steps) <= error(other * steps))[:4].all()
    assert steps[4] > 0 and steps[2] > 3 * steps[0] > 15 * steps[3]
    assert output_steps(-x.abs(), 8).gt(0).all(), "nothing is active"
    assert input_step(torch.zeros(3, 4), 0.0) == 1.0
    assert input_step(x[:, :2], float(x[:, :2].abs().max())) == pytest.approx(float(x[:, :2].abs().max()) / 127, rel=0.3)


def counted(sums: Tensor, steps: Tensor, starts: Tensor, levels: int) -> Tensor:
    return (sums / steps + starts).floor().clamp(0, levels) * steps


def test_thresholds_and_starts_fit_the_quantised_sums_of_the_layer_and_then_of_every_neuron() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(3000, 6, generator=generator) * torch.tensor([1.0, 1.0, 4.0, 0.5, 1.0, 1.0])
    sums = wanted * torch.tensor([1.0, 0.8, 1.0, 1.0, 1.3, 1.0]) + torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.3])
    steps, half = output_steps(wanted, 4), torch.full((6,), 0.5)

    reader = torch.randn(5, 6, generator=generator)

    def wrong(steps: Tensor, starts: Tensor) -> float:
        return float(((counted(sums, steps, starts, 4) - wanted.clamp_min(0)) @ reader.T).square().sum())

    layer, neuron = (settled(sums, wanted, steps, reader, 4, fine=fine) for fine in (False, True))
    assert len(set((layer[0] / steps).tolist())) == 1 and len(set(layer[1].tolist())) == 1
    assert wrong(*layer) < wrong(steps, half) and wrong(*neuron) < 0.92 * wrong(*layer)
    assert all(torch.equal(a, b) for a, b in zip(neuron, settled(sums, wanted, steps, reader, 4), strict=True))


def test_fitting_lessens_what_a_layer_behind_quantised_ones_is_off_by(tmp_path: Path) -> None:
    checkpoint, rows = random_checkpoint(tmp_path, "opt"), random_rows(CONFIGS["opt"], 20, 24)
    exact = load_original(checkpoint, rows[0])(torch.stack(rows)).logits
    off = {}
    for fit in ("none", "neuron"):
        recipe = replace(load_recipe(NAME), options=FasOptions(4, fit))
        off[fit] = float((Executor(convert_model(checkpoint, rows, recipe)).forward(torch.stack(rows)) - exact).square().mean())
    assert off["neuron"] < 0.97 * off["none"]


def test_a_layer_that_is_left_out_still_has_the_next_ones_fitted_behind_it(tmp_path: Path) -> None:
    checkpoint, rows, recipe = random_checkpoint(tmp_path, "opt"), random_rows(CONFIGS["opt"], 4, 24), FITTED
    whole = list(convert_blocks(checkpoint, rows, recipe))
    part = list(convert_blocks(checkpoint, rows, recipe, skip=lambda name: name == "blocks.0"))
    assert [item.block.name for item in part] == [item.block.name for item in whole[1:]]
    neurons = [next(op.neuron for op in items.block.linears() if op.name == "mlp.fc1") for items in (whole[1], part[0])]
    assert all(isinstance(neuron, IntegrateFire) for neuron in neurons)
    for name in ("theta", "initial", "offset"):
        np.testing.assert_array_equal(getattr(neurons[0], name), getattr(neurons[1], name))


def test_a_killed_fine_tuning_goes_on_to_the_same_thresholds(tmp_path: Path) -> None:
    checkpoint, rows = random_checkpoint(tmp_path, "opt"), random_rows(CONFIGS["opt"], 8, 12)
    recipe, scratch = replace(FITTED, recovery=RecoverySpec("distill", 16)), tmp_path / "tuning.pt"
    told: list[int] = []

    def converted(report: Any, saved: Path | None) -> list[np.ndarray]:
        items = convert_blocks(checkpoint, rows, recipe, seed=5, report=report, scratch=saved)
        fired = [op.neuron for item in items for op in item.block.linears() if isinstance(op.neuron, IntegrateFire)]
        return [array for neuron in fired for array in (neuron.theta, neuron.initial, neuron.offset)]

    def kill(what: str, done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    whole = converted(lambda what, done, total: None, None)
    with pytest.raises(KeyboardInterrupt):
        converted(kill, scratch)
    resumed = converted(lambda what, done, total: told.append(done), scratch)
    assert told == list(range(9, 17)) and len(whole) == 6
    for before, after in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_gated_families_are_refused_with_the_names_of_others(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnsupportedError, match=r"blocks\.0: FAS replaces a ReLU directly .* FAS converts: opt;"):
        convert_model(random_checkpoint(tmp_path, kind), random_rows(CONFIGS[kind], 2, 12), load_recipe(NAME))


def test_a_plan_says_the_same() -> None:
    assert {s.encoding for s in plan("demo-opt", NAME).costs.cost.shape.segments} >= {"rate-8", "integer-8"}
    with pytest.raises(UnsupportedError, match="FAS converts: opt"):
        plan("demo", NAME)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"levels": 6}, "levels is 6; choose one of 4, 8, 16"),
        ({"fit": "all"}, "fit is 'all'"),
        ({"steps": 8}, "unknown entry 'steps'"),
    ],
)
def test_a_section_that_says_nothing_sensible_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.from_dict({"method": "fas", "fas": section})


def test_training_moves_thresholds_and_biases_and_the_student_counts_as_the_network_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps and biases of the firing layer are moved by hand here; the integer network must follow the student."""
    rows = random_rows(CONFIGS["opt"], 20, 24)
    seen: list[Tensor] = []

    def move(student: Student, *_: object) -> list[Layer]:
        with torch.no_grad():
            for name, tensor in student.trained.items():
                if name.endswith("mlp.fc1/log_step"):
                    tensor += 0.4
                elif name.endswith("mlp.fc1/bias"):
                    tensor += 0.3
            seen.append(student.logits(torch.stack(rows)))
        return student.result()

    checkpoint, recipe = random_checkpoint(tmp_path, "opt"), load_recipe(NAME)
    before = Executor(convert_model(checkpoint, rows, recipe)).forward(torch.stack(rows))
    monkeypatch.setattr(convert, "recover", move)
    model = convert_model(checkpoint, rows, replace(recipe, recovery=RecoverySpec("distill", 8)))
    after = Executor(model).forward(torch.stack(rows))
    moved, apart = (after - before).abs().mean(), (after - seen[0]).abs().mean()
    assert apart < 0.05 * after.std() and apart < 0.3 * moved


@pytest.mark.lava
@pytest.mark.slow
def test_every_backend_counts_the_same(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(save_model(tmp_path / "model", "opt", num_hidden_layers=1)), out, NAME, num_samples=2, verify_with="none")
    segments = verify(out, "segment", choice=Choice(windows=5))
    assert segments.backends[-2:] == ("native", "stock") and segments.compared > 4_000 and not segments.mismatches
    blocks = verify(out, "block", tokens=3)
    assert blocks.compared > 2_000 and not blocks.mismatches
    stored = {s.linear.name: s for s in Bundle(out).segments("blocks.0")}
    refused = stored["mlp.fc1"].refused
    assert refused is not None and "set v to 0 when they fire" in refused and isinstance(stored["mlp.fc1"].linear, Linear)
