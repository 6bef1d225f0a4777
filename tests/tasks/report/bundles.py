"""Small bundles for the tests: random weights, converted once per session."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from kirin_lava.methods.kirin import KirinOptions
from kirin_lava.methods.recipe import Recipe
from tests.exports import export
from tests.hf_models import save_model

TEXT = "The cat sat on the mat. It was warm and the sun was high. The dog ran to the gate and the bird sang.\n\n" * 12


@cache
def small_bundle(folder: Path, kind: str, encoding: str) -> Path:
    """A bundle of a random model; the same one for the same arguments."""
    out = folder / f"{kind}-{encoding}"
    model = save_model(folder / f"{kind}-hf", kind)
    if kind == "llama":
        (model / "README.md").write_text("---\nlicense: mit\n---\n")
    text = folder / "calibration.txt"
    text.write_text("A small boat went over the lake. The wind was kind and the water was blue.\n\n" * 8)
    recipe = Recipe(name=f"test-{encoding}", options=KirinOptions(encoding=encoding))
    export(str(model), out, recipe, calibration=text, num_samples=2, seq_len=32)
    return out
