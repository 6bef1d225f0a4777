"""The ablation of the silence threshold: no code is wrong with it, many are without, on random and on real layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.silence_ablation import Ablation, main, random_layers, real_layers
from kirin_lava.models.checkpoint import EMBEDDED_MODELS
from tests.hf_models import save_model


def require_silence(found: list[Ablation]) -> None:
    for layer in found:
        assert layer.silent == 0, layer
        assert layer.restless > 0.1 * layer.total, layer


def test_random_layers_of_both_encodings_need_silence() -> None:
    found = list(random_layers())
    assert [a.codes for a in found] == ["offset -> offset", "signed -> signed"]
    require_silence(found)


def test_a_layer_that_fires_by_itself_needs_silence(tmp_path: Path) -> None:
    found = list(real_layers(str(save_model(tmp_path / "hf", "opt"))))
    own = [(a.layer, a.codes) for a in found if a.own]
    assert own == [("hf mlp.fc1", "offset -> unsigned-16"), ("hf mlp.fc1", "signed -> unsigned-8")]
    require_silence(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EMBEDDED_MODELS))
def test_layers_of_the_embedded_models_need_silence(name: str) -> None:
    if not EMBEDDED_MODELS[name].is_dir():
        pytest.skip(f"{name} is not embedded here")
    found = list(real_layers(name))
    assert len(found) == 8 and len({a.layer for a in found}) == 4
    require_silence(found)


def test_the_command_prints_a_row_per_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(save_model(tmp_path / "hf"))]) == 0
    out = capsys.readouterr().out
    assert out.count(" % ") == 20 and out.count(" 0.0 % ") >= 10
