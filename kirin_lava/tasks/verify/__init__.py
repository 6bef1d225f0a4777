"""Verification: every integer of a bundle, computed again by every backend and compared with what the compiler recorded.

    recorded at export   integer matrix products of the compiler, kept in probe/
    reference            the same products from the weights in the `.net`
    closed form          from spike times
    stepped              the silence-threshold neuron, step by step, in NumPy
    native               Lava processes (fixed_pt)
    stock                the `.net` in unmodified lava-dl

The levels block and model compare the whole decoder on Lava with the executor, see `kirin_lava.tasks.verify.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.processes.runtime import require_lava
from kirin_lava.tasks.report.card import refresh_card
from kirin_lava.tasks.verify.blocks import verify_blocks, verify_model
from kirin_lava.tasks.verify.result import Mismatch, Row, Verification, compare
from kirin_lava.tasks.verify.segments import verify_segments

__all__ = ["Mismatch", "Row", "Verification", "compare", "verify"]

Progress = Callable[[str, int, int], None]


def verify(
    bundle: Path,
    level: str = "segment",
    backend: str = "lava",
    tokens: int = 64,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Verify a bundle; with the lava backend the manifest then says whether it is verified.

    Args:
        level: "segment", "block" or "model".
        backend: "reference" (NumPy alone) or "lava".
        tokens: of real text, for the levels block and model.
        timeout: limit in seconds of each Lava run.
    """
    if backend == "lava" or level != "segment":
        require_lava()
    opened = Bundle(bundle)
    if level == "segment":
        result = verify_segments(opened, backend, timeout, progress)
    elif level in ("block", "model"):
        run = verify_blocks if level == "block" else verify_model
        result = run(opened, tokens, timeout, progress)
    else:
        raise UsageError(f"unknown level {level!r}: choose segment, block or model")
    result.damaged = opened.damaged_files()
    if backend == "lava":
        fine = not result.mismatches and not result.damaged and result.compared > 0
        record = {
            "compared": result.compared,
            "mismatches": result.mismatches,
            "backends": list(result.backends),
            "milliseconds_per_step": result.milliseconds_per_step(),
        }

        def update(manifest: dict[str, Any]) -> None:
            manifest["verification"] = {**(manifest.get("verification") or {}), level: record}
            manifest["verified"] = fine and all(not entry["mismatches"] for entry in manifest["verification"].values())

        opened.record(update)
        if not result.damaged:
            refresh_card(opened)
    return result
