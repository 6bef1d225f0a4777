"""The whole way from a checkpoint to a bundle that computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.block import Model
from kirin_lava.graph.executor import Executor
from kirin_lava.hardware.observe import RangeObserver
from kirin_lava.hardware.ranges import SegmentRange, model_ranges
from kirin_lava.methods.recipe import DEFAULT_RECIPE
from kirin_lava.models.passages import fingerprints, passages
from tests.conftest import Cli
from tests.exports import export
from tests.hf_models import save_model

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"recipe": "fast", "num_samples": 2, "seq_len": 16, "verify_with": "none"}
IDS = torch.tensor([[0, 80, 112, 101, 34, 67, 99, 100, 34, 120]])
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 16}),
    ("opt", {}),
    ("opt", {"do_layer_norm_before": False, "tie_word_embeddings": False}),
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("pipeline") / "llama", num_hidden_layers=3)


@pytest.mark.parametrize("recipe", ["kirin-w8a5-12", "kirin-w4a4-8"])
@pytest.mark.parametrize(("kind", "changes"), VARIANTS, ids=[f"{kind}-{'-'.join(c) or 'plain'}" for kind, c in VARIANTS])
def test_every_family_becomes_a_bundle(tmp_path: Path, kind: str, changes: dict[str, Any], recipe: str) -> None:
    """It verifies, and computes nearly what the original does."""
    folder = save_model(tmp_path / "model", kind, **changes)
    result = export(str(folder), tmp_path / "out", **{**SMALL, "recipe": recipe, "verify_with": "reference"})
    assert result.verification is not None and result.verification.mismatches == 0 < result.verification.compared
    assert result.segments == 9 and result.peak_memory_bytes > 0 and result.bytes > 0
    model = Bundle(tmp_path / "out").model()
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    with torch.inference_mode():
        wanted = original(IDS).logits
    got = Executor(model).forward(IDS)
    error = float((got - wanted).norm() / (wanted - wanted.mean()).norm())
    assert error < (0.25 if recipe == "kirin-w8a5-12" else 0.5)


def test_any_number_of_threads_gives_the_same_digest(llama: Path, tmp_path: Path) -> None:
    digests = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            out = tmp_path / str(threads)
            digests.append(export(str(llama), out, **{**SMALL, "recipe": "kirin-w4a4-8", "num_samples": 6}).digest)
        finally:
            torch.set_num_threads(1)
    assert len(set(digests)) == 1


def test_what_is_told_of_an_export(llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text(f"A text of my own.\n<|endoftext|>\nAnd another paragraph of it, {'longer ' * 12}than the first one.\n")
    seen: list[tuple[str, int, int]] = []
    result = export(str(llama), tmp_path / "out", **SMALL, calibration=text, seed=3, progress=lambda *what: seen.append(what))
    assert (result.path, result.model, result.recipe, result.segments) == (str(tmp_path / "out"), "llama", "fast", 13)
    assert seen == [("open the checkpoint", 0, 1), *(("convert layers", done, 4) for done in range(5))]
    values = json.loads(json.dumps(result.to_dict()))
    assert values["digest"] == result.digest and values["verification"] is None
    assert list(values["phase_seconds"]) == ["read", "convert"]
    assert list(values["block_seconds"]) == ["blocks.0", "blocks.1", "blocks.2", "head"]
    assert list(values["block_seconds"]["blocks.0"]) == ["read", "calibrate", "round", "lower", "probe", "write"]
    parts = sum(sum(block.values()) for block in values["block_seconds"].values())
    assert 0 < parts < values["phase_seconds"]["convert"] < sum(values["phase_seconds"].values()) < values["seconds"]
    manifest = Bundle(tmp_path / "out").manifest
    calibration = manifest["source"]["calibration"]
    assert (calibration["text"], calibration["rows"], calibration["tokens_per_row"], calibration["seed"]) == (
        "mine.txt",
        2,
        16,
        3,
    )
    assert calibration["passages"] == fingerprints(passages(text.read_text())) and len(calibration["passages"]) == 1
    assert set(manifest["source"]["sha256"]) == {"config.json", "model.safetensors"}
    assert {"python", "torch", "numpy", "h5py"} <= set(manifest["versions"])
    assert (manifest["verified"], manifest["physical_fit_verified"]) == (False, False)


@pytest.mark.parametrize("changes", [{}, {"recover": "blocks", "steps": 4}, {"recover": "distill", "steps": 4}], ids=str)
def test_the_same_seed_gives_the_same_bundle_and_another_other_weights(
    llama: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Twice here and once in a process of its own, which orders its sets in another way."""
    wanted = {**SMALL, "recipe": DEFAULT_RECIPE, "num_samples": 5, **changes}
    first, again, other = (export(str(llama), tmp_path / str(i), **wanted, seed=seed) for i, seed in enumerate((7, 7, 8)))
    assert first.digest == again.digest
    files = [Bundle(tmp_path / str(i)).manifest["files"] for i in (0, 2)]
    assert first.digest != other.digest
    assert any(files[0][name] != files[1][name] for name in files[0] if name.startswith("net/"))
    options = ["--recipe", DEFAULT_RECIPE, "--num-samples", "5", "--seq-len", "16", "--verify", "none", "--seed", "7", "--json"]
    options += [part for name, value in changes.items() for part in (f"--{name}", str(value))]
    ran = subprocess.run(
        [sys.executable, "-m", "kirin_lava", "export", "-m", str(llama), "-o", str(tmp_path / "process"), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "3", "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["digest"] == first.digest


def test_rows_are_no_longer_than_the_context(llama: Path, tmp_path: Path) -> None:
    export(str(llama), tmp_path / "out", **{**SMALL, "seq_len": 100_000})
    assert Bundle(tmp_path / "out").manifest["source"]["calibration"]["tokens_per_row"] == 64


@pytest.mark.parametrize("layers", [(0, 3), (3, 3), (2, 1), (-1, 0), (0, 10**9)])
def test_layers_that_are_not_there(llama: Path, tmp_path: Path, layers: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=rf"layers {layers[0]}-{layers[1]} are not within 0-2"):
        export(str(llama), tmp_path / "out", **SMALL, layers=layers)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty: give a text with at least one sentence"),
        (b"\n\n", "is empty"),
        (b"\xff\xfe", "cannot be read as UTF-8 text"),
        ("caf\ufffd".encode(), "broken by a wrong decoding"),
        (b"<|endoftext|>", "the text holds no two tokens"),
    ],
)
def test_calibration_texts_without_text(cli: Cli, llama: Path, tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(text)
    ran = cli("export", "-m", llama, "-o", tmp_path / "out", "--calibration", path)
    assert ran.code == 2 and message in ran.err and ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_one_short_sentence_is_enough(llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Hi")
    result = export(str(llama), tmp_path / "out", **{**SMALL, "recipe": "kirin-w4a4-8"}, calibration=text)
    assert Bundle(tmp_path / "out").manifest["source"]["calibration"]["rows"] == 1 and result.segments == 13


def test_a_site_that_the_model_lacks(cli: Cli, llama: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("kirin: {outliers: {sites: {mlp.fc1: 0.2}}}\n")
    ran = cli("export", "-m", llama, "-o", tmp_path / "out", "--recipe", recipe)
    assert ran.code == 2 and "outliers.sites names 'mlp.fc1', which this model does not have: attn.qkv" in ran.err


def test_dead_channels_and_constant_weights(tmp_path: Path) -> None:
    """Rows and columns of zeros, a dead embedding and a norm of zeros: exact, and no division by zero."""
    folder = save_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"][:] = 0
    tensors["model.layers.0.self_attn.o_proj.weight"][3] = 0
    tensors["model.layers.0.mlp.down_proj.weight"][:, 5] = 0
    tensors["model.layers.1.mlp.up_proj.weight"][:] = 0.25
    tensors["model.layers.1.post_attention_layernorm.weight"][:] = 0
    tensors["model.embed_tokens.weight"][40] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for recipe in ("kirin-w4a4-8", "kirin-w4a4-12"):
        result = export(str(folder), tmp_path / recipe, **{**SMALL, "recipe": recipe, "verify_with": "reference"})
        assert result.verification is not None and result.verification.mismatches == 0
        assert bool(torch.isfinite(Executor(Bundle(tmp_path / recipe).model()).forward(IDS)).all())


PEAK = """
import sys
from pathlib import Path
import torch
from kirin_lava.base.memory import peak_memory
from tests.exports import export
torch.set_num_threads(1)
arguments = dict(recipe="fast", num_samples=2, seq_len=16, verify_with="reference")
export(sys.argv[1], Path(sys.argv[3], "small"), **arguments)
before = peak_memory()
export(sys.argv[2], Path(sys.argv[3], "large"), **arguments)
print(peak_memory() - before)
"""


def test_the_model_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    """Many layers need hardly more memory than one; in a process of its own, because only the peak of a process is known."""
    shape: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 1024}
    one = save_model(tmp_path / "one", num_hidden_layers=1, **shape)
    many = save_model(tmp_path / "many", num_hidden_layers=10, **shape)
    size = (many / "model.safetensors").stat().st_size
    assert size > 30e6
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAK, str(one), str(many), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < size / 2


def test_the_chip_is_checked_for_the_context_that_is_asked_for(
    refused: Callable[..., str], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_model(tmp_path / "hf", num_hidden_layers=1)
    assert "a context of 65 positions is outside 1..64" in refused(5, model, "--context", 65)
    asked: list[int | None] = []

    def note(model: Model, observed: RangeObserver, context: int | None = None) -> list[SegmentRange]:
        asked.append(context)
        return model_ranges(model, observed, context)

    monkeypatch.setattr("kirin_lava.tasks.export.model_ranges", note)
    small = ("--num-samples", 2, "--seq-len", 12, "--recipe", "fast", "--verify", "none", "--target", "loihi2", "--force")
    for context, wanted in ((), 64), (("--context", 20), 20):
        ran = cli("export", "-m", model, "-o", tmp_path / "out", *small, *context)
        assert ran.code == 0, ran.err
        assert asked.pop() == wanted
