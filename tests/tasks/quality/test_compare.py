"""Recipes and rivals in one table, and the protocol behind it."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kirin_lava.base.console import print_table
from kirin_lava.base.errors import UsageError
from kirin_lava.methods.kirin import Outliers
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.text import CALIBRATION_TEXT, EVALUATION_TEXT
from kirin_lava.tasks.options import Sample, Training
from kirin_lava.tasks.quality.compare import compare
from kirin_lava.tasks.quality.contenders import Comparison, Contender
from kirin_lava.tasks.quality.evaluate import evaluate, score
from kirin_lava.tasks.quality.original import load_original
from kirin_lava.tasks.quality.rivals import RIVALS, build_rival, min_max, symmetric
from tests.conftest import Cli
from tests.exports import export
from tests.hf_models import save_model

WORDS = "the fox and the hare ran far away from the old dark wood to the sea "


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Calibration and evaluation text."""
    folder = tmp_path_factory.mktemp("texts")
    learn, judge = folder / "learn.txt", folder / "judge.txt"
    learn.write_text("\n\n".join(WORDS * 3 for _ in range(6)))
    judge.write_text("\n\n".join(WORDS[::-1] * 3 for _ in range(4)))
    return learn, judge


def test_one_table_for_ours_and_rivals(tmp_path: Path, texts: tuple[Path, Path]) -> None:
    model = save_model(tmp_path / "model")
    result = compare(
        str(model), ["kirin-w4a4-12"], texts[1], Sample(texts[0], 4, 32), Training("blocks", 2), window=48, rivals=True
    )
    assert [row.name for row in result.contenders] == ["kirin-w4a4-12", "kirin-w4a4-12, blocks", *RIVALS]
    ours, rivals = result.contenders[:2], {row.name: row for row in result.contenders[2:]}
    for row in ours:
        assert row.silent_share is not None and row.outlier_share is not None and row.spikes_per_element is not None
        assert row.silent_share + row.outlier_share + row.spikes_per_element == pytest.approx(1)
        assert row.window == 8 and row.bundle_bytes is not None and row.bundle_bytes > 1000
    assert {row.method for row in ours} == {"kirin"} and {row.method for row in rivals.values()} == {"rival"}
    assert rivals["w8a8"].kl < rivals["min-max"].kl  # twice the bits
    assert "48 tokens" in result.protocol
    lines = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [float(line["kl"]) for line in lines] == [row.kl for row in result.contenders]


def test_the_tables_fit_into_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ("kirin-w4a5-12", "kirin-w4a4-8, distill")
    rows = [
        Contender(name, "kirin", 1.0649, 0.0762, 0.8708, 16, 0.339, 0.5822, 0.0784, 0.2317, 12481.0, 4, 123, 1_190_000, 185.0)
        for name in names
    ]
    found = Comparison(
        "stories260K-hf", "evaluation.txt", "rows of 256 tokens", 65, 9, 4.2, (*rows, Contender("w8a8", "rival", 1, 0, 1))
    )
    print_table(found.table())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [sum(name in line for line in lines) for name in (*names, "w8a8")] == [2, 2, 1], "a rival sends nothing"


def test_what_works_is_not_lost_with_what_fails(cli: Cli, texts: tuple[Path, Path], tmp_path: Path) -> None:
    """A recipe for a site that the model does not have: the other's row is printed, then the error, with its exit code."""
    model, bad = save_model(tmp_path / "model"), tmp_path / "bad.yaml"
    bad.write_text("name: bad\nkirin: {outliers: {sites: {mlp.fc1: 0.2}}}\n")
    ran = cli("compare", bad, "fast", "-m", model, "--text", texts[1], "--calibration", texts[0], "--seq-len", 32, "-q")
    assert ran.code == 2 and "left out: bad: " in ran.err and "mlp.fc1" in ran.err
    assert any(line.split()[:2] == ["fast", "kirin"] for line in ran.out.splitlines())
    with pytest.raises(UsageError, match=r"mlp\.fc1"):
        compare(str(model), [str(bad)], texts[1], Sample(texts[0], 4, 32))


def test_as_many_rows_as_were_asked_for(texts: tuple[Path, Path], tmp_path: Path) -> None:
    model = str(save_model(tmp_path / "model"))
    whole = compare(model, ["fast"], texts[1], Sample(texts[0], 4, 8)).rows
    assert whole > 5
    assert compare(model, ["fast"], texts[1], Sample(texts[0], 4, 8), max_rows=whole - 1).rows == whole - 1


def test_windows_are_measured_against_those_of_8_bit_spikes() -> None:
    rows = [Contender("", "kirin", 1, 0, 1, window=window).to_dict()["window_reduction"] for window in (16, 8, None)]
    assert rows == [0.9375, 0.96875, None]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["demo", "demo-opt", "demo-gpt2"])
def test_the_recipes_keep_the_embedded_models(model: str) -> None:
    """At most a tenth of all codes are outliers, and the perplexity hardly changes."""
    recipes = ["kirin-w4a4-8", "kirin-w4a4-12", "kirin-w8a5-12", "kirin-w4a5-12"]
    for row in compare(model, recipes, sample=Sample(rows=16), max_rows=4).contenders:
        assert row.outlier_share is not None and row.outlier_share <= 0.1, row.name
        assert row.perplexity_ratio < 1.02, row.name


# ---- what was calibrated on is never evaluated on ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("seen") / "model")


@pytest.fixture
def mixed(texts: tuple[Path, Path], tmp_path: Path) -> Path:
    """The evaluation text with one document of the calibration text in its middle, and other spaces around it."""
    one, *rest = texts[1].read_text().split("\n\n")
    path = tmp_path / "mixed.txt"
    path.write_text("\n\n".join([one, f"  {WORDS * 3}\n", *rest]))
    return path


def test_no_comparison_on_what_was_calibrated_on(model: Path, texts: tuple[Path, Path], mixed: Path) -> None:
    for text, calibration, message in (
        (texts[0], texts[0], "are the same"),
        (mixed, texts[0], r"mixed\.txt holds 1 of the passages that were calibrated on"),
        (texts[0], mixed, r"learn\.txt holds 1 of the passages"),
        (None, EVALUATION_TEXT, "are the same"),
        (CALIBRATION_TEXT, None, "are the same"),
    ):
        with pytest.raises(UsageError, match=message):
            compare(str(model), ["fast"], text, Sample(calibration))


def test_no_evaluation_on_what_was_calibrated_on(model: Path, texts: tuple[Path, Path], mixed: Path, tmp_path: Path) -> None:
    out, built_in = tmp_path / "out", tmp_path / "built-in"
    export(str(model), out, "fast", texts[0], num_samples=1, seq_len=48, verify_with="none")
    export(str(model), built_in, "fast", num_samples=1, seq_len=48, verify_with="none")
    for bundle, text, message in (
        (out, texts[0], "is the text that the bundle was calibrated on"),
        (out, mixed, r"mixed\.txt holds 1 of the passages"),
        (built_in, CALIBRATION_TEXT, "is the text that the bundle was calibrated on"),
    ):
        for stride in (None, 16):
            with pytest.raises(UsageError, match=message):
                evaluate(bundle, text, seq_len=32, stride=stride)
    assert evaluate(built_in, EVALUATION_TEXT, seq_len=32, max_rows=1).tokens == 31
    assert evaluate(out, texts[1], seq_len=32, max_rows=1).tokens == 31


def test_rivals_get_as_many_channels_as_the_recipe_has_outliers(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(save_model(tmp_path / "model")))
    rows = [torch.randint(2, 250, (24,), generator=torch.Generator().manual_seed(i)) for i in range(4)]
    recipe = load_recipe("fast")
    outliers = Outliers(ratio=0.25, sites={"blocks.1.attn.o": 0.5})
    recipe = replace(recipe, options=replace(recipe.options, outliers=outliers))
    blocks = build_rival(checkpoint, "channel", rows, recipe)._blocks
    salient = [{name: float(chosen.float().mean()) for name, chosen in rules.salient.items()} for _, rules in blocks]
    assert salient[0] == dict.fromkeys(salient[0], 0.25) and len(salient[0]) == 4
    assert salient[1] == {**salient[0], "attn.o": 0.5} and salient[2] == {}  # the head is 8 bit


def test_rivals_have_as_many_levels_as_they_say() -> None:
    x = torch.linspace(-0.5, 1, 4096).unsqueeze(0)
    assert len(symmetric(torch.linspace(-1, 1, 4096).unsqueeze(0), 7).unique()) == 15
    assert len(min_max(x, 15).unique()) == 16


def test_the_float_perplexity_is_that_of_transformers(tmp_path: Path, texts: tuple[Path, Path]) -> None:
    model = save_model(tmp_path / "model")
    export(str(model), tmp_path / "out", "fast", texts[0], num_samples=4, seq_len=48, verify_with="none")
    result = evaluate(tmp_path / "out", texts[1], seq_len=32, layer_errors_too=True)
    network = load_original(open_checkpoint(str(model)), torch.tensor([5, 80, 101]))
    tokenizer_rows = result.rows
    assert tokenizer_rows > 2 and result.ratio == pytest.approx(result.perplexity / result.perplexity_float)
    ids = torch.randint(2, 250, (3, 16), generator=torch.Generator().manual_seed(1))

    class Same:
        device = torch.device("cpu")

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return network(tokens).logits

    found = score(Same(), lambda tokens: network(tokens).logits, list(ids))
    with torch.inference_mode():
        expected = F.cross_entropy(network(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert found.perplexity_float == pytest.approx(math.exp(expected), rel=1e-5)
    assert found.kl == pytest.approx(0, abs=1e-9) and found.agreed == found.tokens == 45
    worst = min(result.layer_errors, key=lambda error: error.local_db)
    assert 3 < worst.local_db < 60 and len(result.layer_errors) == 2 * 4 + 1


def test_windows_with_a_stride_score_every_token_once(tmp_path: Path, texts: tuple[Path, Path]) -> None:
    from kirin_lava.models.text import read_text
    from kirin_lava.models.tokenizer import load_tokenizer

    model = save_model(tmp_path / "model")
    export(str(model), tmp_path / "out", "fast", texts[0], num_samples=2, seq_len=48, verify_with="none")
    ids = load_tokenizer(model)(read_text(texts[1])).input_ids
    for length, stride in ((32, 10), (48, 17), (40, 39)):
        assert evaluate(tmp_path / "out", texts[1], seq_len=length, stride=stride).tokens == len(ids) - 1
