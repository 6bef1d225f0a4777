"""What `compare` compares: decoders, or encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kirin_lava
from kirin_lava.base.errors import UsageError
from kirin_lava.models import family_of
from kirin_lava.models.checkpoint import open_config
from kirin_lava.tasks.quality.compare_encoders import compare_encoders

__all__ = ["compared"]


def compared(figure: Path | None, model: str, **arguments: Any) -> Any:
    """A comparison of a decoder, or of an encoder, which has no perplexity, no rivals and no figure."""
    if not family_of(open_config(model)).encoder:
        return kirin_lava.compare(model, **arguments)
    others = {name: arguments.pop(name) for name in ("window", "rivals", "methods")} | {"figure": figure}
    given = [f"--{name}" for name, value in others.items() if value]
    if given:
        raise UsageError(f"{model} is an encoder, whose vectors are compared: leave out {', '.join(given)}")
    return compare_encoders(model, **arguments)
