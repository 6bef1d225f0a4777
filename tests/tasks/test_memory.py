"""Memory: verification works in parts, and an export takes what its plan says."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kirin_lava.base.errors import VerificationError
from kirin_lava.graph.ops import Linear
from kirin_lava.hardware import estimate
from kirin_lava.spikes.codes import OFFSET, SIGNED
from kirin_lava.spikes.neurons import READ_OUT
from kirin_lava.spikes.neurons.silence import Silence
from kirin_lava.spikes.stock.ranges import exact_sums
from kirin_lava.tasks.verify import segments
from tests.conftest import Cli
from tests.hf_models import save_model

WIDE: dict[str, Any] = {  # width and vocabulary of SmolLM2-135M
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 1,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
COMPUTE = {"reference": segments._by_products, "closed form": segments._by_times, "stepped": segments._by_steps}


def command(*arguments: object) -> dict[str, Any]:
    """What a command prints as JSON, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "kirin_lava", *map(str, arguments), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


@pytest.mark.slow
@pytest.mark.parametrize("model", ["demo", "width and vocabulary of SmolLM2"])
def test_an_export_takes_the_memory_of_its_plan(model: str, cli: Cli, tmp_path: Path) -> None:
    source = model if model == "demo" else save_model(tmp_path / "hf", **WIDE)
    export = ["export", "-m", source, "-o", tmp_path / "out", "--num-samples", 4, "--seq-len", 64]

    def plan_of(*more: str) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(cli(*export, *more, "--dry-run", "--json").out)["export"]
        return values

    planned, took = plan_of(), command(*export, "--quiet")["peak_memory_bytes"]
    plan = planned["peak_memory_bytes"]
    print(f"{model}: plan {plan / 1e9:.3f} GB ({planned['peak_phase']}), measured {took / 1e9:.3f} GB, {plan / took:.2f}")
    assert 0.8 < plan / took < 1.25
    assert plan == max(planned["phase_bytes"].values()) == planned["phase_bytes"][planned["peak_phase"]]
    assert set(planned["phase_bytes"]) == {"conversion", "verification"}
    unverified = plan_of("--verify", "none")
    assert set(unverified["phase_bytes"]) == {"conversion"}


@pytest.mark.parametrize("name", COMPUTE)
def test_a_wide_segment_is_verified_in_parts(name: str) -> None:
    rng = np.random.default_rng(0)
    linear = Linear("lm_head", "codes", "sums", rng.integers(-100, 100, (40_000, 64)).astype(np.int8), 8, OFFSET)
    codes = rng.integers(OFFSET.code_min, OFFSET.code_max + 1, (16, 64))
    tracemalloc.start()
    try:
        sums = COMPUTE[name](linear, codes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(sums, exact_sums(linear.weight, codes))
    assert peak < 3 * estimate.VERIFY_BYTES  # at once its events alone take six times as much


@pytest.mark.parametrize("name", COMPUTE)
@pytest.mark.parametrize("fires", [False, True])
def test_parts_lie_side_by_side(name: str, fires: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    neuron = Silence(SIGNED, rng.integers(20, 200, 37), rng.integers(-300, 300, 37), 1) if fires else READ_OUT
    linear = Linear("mlp.up", "codes", "out", rng.integers(-8, 8, (37, 10)).astype(np.int8), 4, SIGNED, neuron)
    low, high = SIGNED.code_span(messages=False)
    codes = rng.integers(low, high + 1, (5, 10))
    whole = COMPUTE[name](linear, codes)
    monkeypatch.setattr(estimate, "VERIFY_BYTES", estimate._EVENT_BYTES * codes.size * 8)
    parts = list(segments._parts(linear, codes))
    assert [len(part.weight) for part in parts] == [8, 8, 8, 8, 5]
    assert [part.name for part in parts][-1] == "mlp.up[32:37]"
    np.testing.assert_array_equal(COMPUTE[name](linear, codes), whole)
    assert whole.shape == (5, 37) and len(np.unique(whole)) > 5


def test_an_overflow_in_a_part_names_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.ones((20, 600), np.int8)
    weight[17] = 127
    linear, codes = Linear("down", "codes", "sums", weight, 8, SIGNED), np.full((1, 600), SIGNED.code_max)
    monkeypatch.setattr(estimate, "VERIFY_BYTES", estimate._EVENT_BYTES * codes.size * 8)
    with pytest.raises(VerificationError, match=r"down\[16:20\]: neuron 1 reaches"):
        segments._by_steps(linear, codes)
