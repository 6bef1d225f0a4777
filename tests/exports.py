"""An export with its choices side by side, so that tests can keep them in one dictionary and change some."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import kirin_lava
from kirin_lava.methods.recipes import DEFAULT_RECIPE
from kirin_lava.tasks.export import ExportResult
from kirin_lava.tasks.options import Checks, Output, Sample, Training

NAMES = {
    "calibration": (Sample, "text"),
    "num_samples": (Sample, "rows"),
    "seq_len": (Sample, "tokens"),
    "verify_with": (Checks, "backend"),
    "recover": (Training, "method"),
}
"""Options of the command line that are called by other words in the groups."""


def export(
    model: str, out: Path | str, recipe: Any = DEFAULT_RECIPE, calibration: Path | None = None, **choices: Any
) -> ExportResult:
    """`kirin_lava.export` with the options of the command line."""
    choices["calibration"] = calibration
    groups: dict[type, dict[str, Any]] = {kind: {} for kind in (Sample, Training, Checks, Output)}
    owners = {field.name: (kind, field.name) for kind in groups for field in fields(kind)} | NAMES
    rest = {name: choices.pop(name) for name in ("revision", "progress") if name in choices}
    for name, value in choices.items():
        kind, field = owners[name]
        groups[kind][field] = value
    return kirin_lava.export(model, out, recipe, *(kind(**values) for kind, values in groups.items()), **rest)
