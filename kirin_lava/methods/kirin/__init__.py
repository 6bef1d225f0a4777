"""Kirin, arXiv 2602.08817: W4A(4&8), single spikes whose time is their value, integers for outliers, a silence threshold."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from kirin_lava.methods.method import Method, Paper

__all__ = ["KIRIN", "Kirin"]


class Kirin(Method):
    """See the module."""

    name: ClassVar[str] = "kirin"
    title: ClassVar[str] = "Kirin"
    paper: ClassVar[Paper | None] = Paper("Kirin", "arXiv 2602.08817", energy_reduction=0.8466, step_reduction=0.9375)
    folder: ClassVar[Path | None] = Path(__file__).parent


KIRIN = Kirin()
