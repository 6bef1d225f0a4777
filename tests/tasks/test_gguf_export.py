"""A GGUF file through the commands: converted, told of, run, and compared with the very weights that it has."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

import kirin_lava
from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import save_json
from kirin_lava.base.readers import file_sha256
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.manifest import MANIFEST, SOURCE_FILES, sealed
from kirin_lava.models.sources.gguf_file import GgufFile
from kirin_lava.models.text import read_text, token_rows
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.prompt import stop_ids
from kirin_lava.tasks.quality.evaluate import evaluate
from tests.conftest import Cli
from tests.exports import export
from tests.gguf_models import save_gguf
from tests.hf_models import save_model

SMALL: dict[str, Any] = {"recipe": "fast", "num_samples": 2, "seq_len": 16, "verify_with": "none"}
ROUNDED = "weights were rounded to 4 to 8 bits before (GGUF; Q4_1: 15 tensors, F32: 5, Q8_0: 1)"
WORDS = "the fox and the hare ran far away from the old dark wood to the sea "


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, PreTrainedModel]:
    """File, bundle, and the network in transformers."""
    folder = tmp_path_factory.mktemp("gguf")
    network = save_gguf(folder / "tiny.gguf", matrices=lambda name: "Q8_0" if name == "token_embd.weight" else "Q4_1")
    export(str(folder / "tiny.gguf"), folder / "out", **SMALL)
    (folder / "judge.txt").write_text(WORDS[::-1] * 12)
    return folder / "tiny.gguf", folder / "out", network


def test_the_manifest(made: tuple[Path, Path, PreTrainedModel]) -> None:
    file, out, _ = made
    bundle = Bundle(out)
    source = bundle.manifest["source"]
    assert (source["name"], source["model"], source["license"]) == ("tiny", str(file), "mit")
    assert source["sha256"] == {"tiny.gguf": file_sha256(file)}
    assert source["weights"] == {"form": "GGUF", "types": {"Q4_1": 15, "F32": 5, "Q8_0": 1}, "bits": [4, 8]}
    names = {path.name for path in out.iterdir()} & set(SOURCE_FILES)
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert names <= set(bundle.manifest["files"]) and "tokenizer.model" not in names and not bundle.damaged_files()
    assert load_tokenizer(out)("the fox").input_ids == GgufFile(file).tokenizer()("the fox").input_ids
    assert stop_ids(out) == {1}


def test_what_is_told(cli: Cli, made: tuple[Path, Path, PreTrainedModel], tmp_path: Path) -> None:
    """Card, report and `inspect` say what the weights went through, and of a float checkpoint that they are float."""
    file, out, _ = made
    assert f"| of the source | {ROUNDED} |" in (out / "README.md").read_text()
    assert "**tiny** (a local file)" in " ".join((out / "README.md").read_text().split())
    ran = cli("report", out, "--text", file.parent / "judge.txt", "--max-rows", "1", "--html", tmp_path / "page.html")
    assert ran.code == 0, ran.err
    assert json.loads((out / "report.json").read_text())["source"]["weights"] == ROUNDED
    assert ROUNDED in (tmp_path / "page.html").read_text() and "(a file)" in (tmp_path / "page.html").read_text()
    assert "weights were rounded to 4 to 8 bits before" in " ".join(cli("inspect", out).out.split())
    folder = save_model(tmp_path / "model", num_hidden_layers=1)
    export(str(folder), tmp_path / "float", **SMALL)
    card = (tmp_path / "float" / "README.md").read_text()
    assert "| of the source | float weights (safetensors; F32: 12 tensors) |" in card and "(a local folder)" in card


def test_the_original_is_the_network_that_the_file_holds(cli: Cli, made: tuple[Path, Path, PreTrainedModel]) -> None:
    file, out, network = made
    text = file.parent / "judge.txt"
    ids = torch.stack(token_rows(load_tokenizer(out), read_text(text), 32))
    nll = F.cross_entropy(network(ids).logits[:, :-1].flatten(0, 1).double(), ids[:, 1:].flatten())
    result = evaluate(out, text, seq_len=32, layer_errors_too=True)
    assert result.perplexity_float == pytest.approx(math.exp(nll), rel=1e-5)
    assert 0.5 < result.ratio < 2
    ran = cli("compare", "-m", file, "fast", "--text", text, "--seq-len", "32", "--num-samples", "2", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["perplexity_float"] == pytest.approx(math.exp(nll), rel=1e-5)
    original = kirin_lava.load(out).original()
    torch.testing.assert_close(original(ids).logits, network(ids).logits, rtol=1e-4, atol=1e-4)


def test_run(cli: Cli, made: tuple[Path, Path, PreTrainedModel]) -> None:
    ran = cli("run", made[1], "--prompt", "the fox", "--max-new-tokens", "4")
    assert ran.code == 0 and "the fox" in ran.out


def test_a_dry_run_reads_no_tensor(cli: Cli, made: tuple[Path, Path, PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(GgufFile, "read")
    ran = cli("export", "-m", made[0], "-o", made[0].parent / "none", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["model"] and not (made[0].parent / "none").exists()


def test_a_file_that_changed_since(made: tuple[Path, Path, PreTrainedModel], tmp_path: Path) -> None:
    file, out, _ = made
    save_gguf(tmp_path / "tiny.gguf", matrices="Q4_1", seed=1)
    with pytest.raises(UsageError, match="is not the checkpoint that was converted: its token embeddings differ"):
        evaluate(out, file.parent / "judge.txt", original=str(tmp_path / "tiny.gguf"))


def test_the_digest_does_not_depend_on_what_is_told(made: tuple[Path, Path, PreTrainedModel]) -> None:
    """Types follow from the hash of the file: bundles of earlier versions, which do not state them, keep their digests."""
    bundle = Bundle(made[1])
    manifest = json.loads(json.dumps(bundle.manifest))
    del manifest["source"]["weights"]
    assert sealed(manifest)["digest"] == bundle.digest()


@pytest.mark.parametrize(
    "weights",
    [None, [], {}, {"form": "GGUF", "types": {}, "bits": [4, 4]}, {"form": "GGUF", "types": {"F32": "1"}, "bits": [4, 4]}]
    + [{"form": "GGUF", "types": {"F32": 1}, "bits": bits} for bits in ([4], [4, "4"], [4, True], "44")]
    + [{"form": 3, "types": {"F32": 1}, "bits": [4, 4]}],
)
def test_types_in_a_manifest_are_not_believed(
    cli: Cli, made: tuple[Path, Path, PreTrainedModel], tmp_path: Path, weights: Any
) -> None:
    manifest = json.loads((made[1] / MANIFEST).read_text())
    manifest["source"]["weights"] = weights
    save_json(tmp_path / MANIFEST, sealed(manifest))
    ran = cli("inspect", tmp_path)
    assert ran.code == 2 and "the bundle is damaged, export again" in ran.err and "source.weights" in ran.err
