"""Bundles of random models, so small that stock Lava runs them in seconds."""

from __future__ import annotations

from pathlib import Path

from tests.exports import export
from tests.hf_models import save_model

TEXT = "A small boat went over the lake. The wind was kind and the water was blue.\n\n" * 8


def small_bundle(folder: Path, kind: str, recipe: str) -> Path:
    """One decoder layer and a head, random."""
    model = save_model(folder / "hf", kind, num_hidden_layers=1)
    (folder / "text.txt").write_text(TEXT)
    export(str(model), folder / "out", recipe, calibration=folder / "text.txt", num_samples=4, seq_len=32, verify_with="none")
    return folder / "out"
