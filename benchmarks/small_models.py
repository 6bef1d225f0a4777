"""The small models of the tables of methods: both embedded ones and, where its folder is at hand, stories260K."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kirin_lava.models.text import CALIBRATION_TEXT, EVALUATION_TEXT

__all__ = ["models_of", "options"]


def options(description: str) -> argparse.ArgumentParser:
    """What such a table asks for: where the data lie, and how many rows it takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", nargs="?", type=Path, help="folder that holds stories260K-hf/ and text/")
    parser.add_argument("--rows", type=int, default=32, help="of the evaluation; the calibration has twice as many")
    return parser


def models_of(data: Path | None) -> list[tuple[str, Path, Path]]:
    """Model, text to calibrate on, text to evaluate on. Ends the program where a folder of data has no text."""
    models = [("demo", CALIBRATION_TEXT, EVALUATION_TEXT), ("demo-opt", CALIBRATION_TEXT, EVALUATION_TEXT)]
    if data is not None:
        text = data / "text"
        if not text.is_dir():
            sys.exit(f"{data} has no text: give the folder that holds it and stories260K-hf")
        stories = str(data / "stories260K-hf")
        models.append((stories, text / "tinystories-calibration.txt", text / "tinystories-eval.txt"))
    return models
