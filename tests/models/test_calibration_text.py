"""What is really calibrated on: recorded, warned of where it is little, refused where nothing can be measured on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.models.calibration_text import draw_sample
from kirin_lava.models.checkpoint import EMBEDDED_MODELS
from tests.conftest import Cli
from tests.hf_models import save_model

WORDS = "the fox and the hare ran far away from the old dark wood to the sea "


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("calibration") / "model")


@pytest.mark.parametrize("text", ["a", "a\n", "aaaa" * 400, "a\n<|endoftext|>\na", "<|endoftext|>\na\n<|endoftext|>\n"])
def test_one_and_the_same_token_is_refused(cli: Cli, model: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "one.txt"
    path.write_text(text)
    for command in (
        ("export", "-m", model, "-o", tmp_path / "out", "--verify", "none"),
        ("compare", "-m", model, "fast"),
        ("budget", "-m", model),
    ):
        ran = cli(*command, "--calibration", path)
        assert ran.code == 2 and ran.out == "" and ran.err.count("\n") == 1
        assert (
            "the calibration text has no 2 different tokens (spaces left out) in " in ran.err
            or "the text holds no two tokens" in ran.err
        )
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [name for name in EMBEDDED_MODELS if name != "demo-bert"])  # an encoder has no stream
def test_tokens_that_the_tokenizer_adds_are_no_text(name: str) -> None:
    """BOS and one letter are two tokens, but one of the text."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODELS[name])
    for text in ("a", "a\n", "a\n<|endoftext|>"):
        with pytest.raises(
            UsageError, match=r"has no 2 different tokens \(spaces left out\) in 1 row: .* give a text of some sentences"
        ):
            draw_sample(tokenizer, text, 256, 32, 0)


@pytest.mark.parametrize(
    ("text", "used", "said"),
    [
        ("Hi", {"rows": 1, "tokens": 2, "tokens_per_row": 2, "different_tokens": 2}, "1 row of 2 tokens, 3 of 16"),
        (WORDS[:40], {"rows": 2, "tokens": 32, "tokens_per_row": 16, "different_tokens": 12}, "2 rows of 16 tokens, 3 of 16"),
        (WORDS * 2, {"rows": 3, "tokens": 48, "tokens_per_row": 16, "different_tokens": 15}, None),
    ],
)
def test_what_was_used_is_recorded_and_warned_of(
    cli: Cli, model: Path, tmp_path: Path, text: str, used: dict[str, int], said: str | None
) -> None:
    path, out = tmp_path / "few.txt", tmp_path / "out"
    path.write_text(text)
    options: list[Any] = ["-m", model, "--calibration", path, "--num-samples", 3, "--seq-len", 16, "-q"]
    ran = cli("export", *options, "-o", out, "--recipe", "fast", "--verify", "none", "--json")
    calibration = Bundle(out).manifest["source"]["calibration"]
    assert ran.code == 0 and {key: calibration[key] for key in used} == used
    others = [cli("compare", *options, "fast", form, "--max-rows", 1) for form in ("--json", "--csv")]
    for done in (ran, *others, cli("budget", *options, "--recipe", "fast", "--json")):
        assert done.code == 0
        wanted = "" if said is None else f"warning: the calibration text gives {said} were asked for: "
        assert done.err.startswith(wanted) and done.err.count("\n") == (said is not None)
    assert len(json.loads(ran.out)["warnings"]) == (said is not None)


def test_a_short_context_is_no_shortage(cli: Cli, model: Path, tmp_path: Path) -> None:
    """Rows as long as the model reads are all there can be; the manifest has their true length."""
    ran = cli("export", "-m", model, "-o", tmp_path / "out", "--recipe", "fast", "--verify", "none", "--num-samples", 2)
    calibration = Bundle(tmp_path / "out").manifest["source"]["calibration"]
    assert ran.err == "" and (calibration["tokens"], calibration["tokens_per_row"]) == (128, 64)
