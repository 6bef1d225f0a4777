"""No evaluation on what was calibrated on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.models.passages import fingerprints
from kirin_lava.models.text import all_passages

__all__ = ["check_unseen", "require_unseen"]


def check_unseen(bundle: Bundle, content: str, name: Path) -> None:
    """Raise where the bundle was calibrated on this very text, or on any passage of it."""
    calibration = bundle.manifest["source"]["calibration"]
    if hashlib.sha256(content.encode()).hexdigest() == calibration["sha256"]:
        raise UsageError(f"{name} is the text that the bundle was calibrated on; evaluate on another one")
    require_unseen(content, calibration["passages"], name)


def require_unseen(content: str, seen: Iterable[str], name: Path) -> None:
    """Raise where the text holds a passage with one of the fingerprints `seen`."""
    again = set(fingerprints(all_passages(content))).intersection(seen)
    if again:
        raise UsageError(f"{name} holds {len(again)} of the passages that were calibrated on; evaluate on a text without them")
