"""A verification and the model card that tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.tasks.report.card import refresh_card
from kirin_lava.tasks.verify import Verification, verify

__all__ = ["verify_and_tell"]


def verify_and_tell(bundle: Path, backend: str = "lava", **arguments: Any) -> Verification:
    """Verify a bundle as `kirin_lava.tasks.verify.verify` does, and write the card anew where the manifest has something new.

    What cannot be written is told in `Verification.unwritten`.
    """
    result = verify(bundle, backend=backend, **arguments)
    if backend == "lava" and result.unwritten is None and not result.damaged:
        try:
            refresh_card(Bundle(bundle))
        except UsageError as error:
            result.unwritten = str(error)
    return result
