"""Kirin, arXiv 2602.08817: W4A(4&8), single spikes whose time is their value, integers for outliers, a silence threshold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, cast

from kirin_lava.methods.method import Method, Paper, Picture
from kirin_lava.spikes.codes.encodings import OFFSET, SIGNED, encoding

__all__ = ["KIRIN", "Kirin"]


class Kirin(Method):
    """See the module."""

    name: ClassVar[str] = "kirin"
    title: ClassVar[str] = "Kirin"
    paper: ClassVar[Paper | None] = Paper("Kirin", "arXiv 2602.08817", energy_reduction=0.8466, step_reduction=0.9375)
    folder: ClassVar[Path | None] = Path(__file__).parent
    windows: ClassVar[Mapping[str, int]] = MappingProxyType(
        {"offset codes (the paper's)": OFFSET.window, "signed codes": SIGNED.window}
    )
    activation_bits: ClassVar[str] = "4&8"

    def window(self, entries: Mapping[str, Any]) -> int:
        """Of the encoding that the recipe names."""
        return encoding(entries["encoding"]).window

    def picture(self) -> Picture | None:
        """A window of a neuron with a silence threshold."""
        from kirin_lava.methods.kirin import picture

        return cast(Picture, picture)


KIRIN = Kirin()
