"""Verification: every integer of a bundle, computed again by every backend and compared with what the compiler recorded.

    recorded at export   integer matrix products of the compiler, kept in probe/
    reference            the same products from the weights in the `.net`
    closed form          from spike times
    stepped              the silence-threshold neuron, step by step, in NumPy
    native               Lava processes (fixed_pt)
    stock                the `.net` in unmodified lava-dl

Where neurons compute between the segments, their tables are asked on Lava, too, see `kirin_lava.tasks.verify.tables`.

The levels block and model compare the whole decoder on Lava with the executor, see `kirin_lava.tasks.verify.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.processes.runtime import require_lava
from kirin_lava.tasks.verify.blocks import verify_blocks, verify_model
from kirin_lava.tasks.verify.result import Mismatch, Row, Verification, compare
from kirin_lava.tasks.verify.segments import FORMS, verify_segments
from kirin_lava.tasks.verify.tables import verify_tables
from kirin_lava.tasks.verify.walk import Choice, Walk

__all__ = ["Choice", "Mismatch", "Row", "Verification", "compare", "verify"]

Progress = Callable[[str, int, int], None]


def verify(
    bundle: Path,
    level: str = "segment",
    backend: str = "lava",
    tokens: int = 64,
    timeout: float | None = None,
    progress: Progress | None = None,
    choice: Choice = Choice(),
) -> Verification:
    """Verify a bundle; with the lava backend the manifest then says what was compared, and whether it is verified.

    Where it cannot be written, `Verification.unwritten` tells: what was computed is not lost. A verification on Lava that is
    killed, or passes its limit, goes on where it was when it is called again, segment by segment or block by block.

    Args:
        level: "segment", "block" or "model".
        backend: "reference" (NumPy alone) or "lava".
        tokens: of real text, for the levels block and model.
        timeout: limit in seconds of each Lava run: a segment, a block, or a step of the whole model.
        choice: how much of it, for the levels segment and block.
    """
    if backend == "lava" or level != "segment":
        require_lava()
    opened = Bundle(bundle)
    damaged = opened.damaged_files()
    if not damaged:  # else that is told with what was compared
        for name in opened.block_names:
            opened.block(name)  # its wiring, which segments alone do not show
    walk, kept = None, backend == "lava" and not damaged  # a journal is about the files of the digest
    if level == "segment":
        result = Verification(level, (*FORMS, *(("native", "stock") if backend == "lava" else ())))
        walk = Walk(opened, result, choice, choice.windows, kept, progress)
        verify_segments(opened, walk, result, choice.windows, timeout)
        if backend == "lava" and not damaged:
            verify_tables(opened, result, timeout)
    elif level == "block":
        result = Verification(level, ("native block network",))
        walk = Walk(opened, result, choice, tokens, kept, progress)
        verify_blocks(opened, walk, result, tokens, timeout)
    elif level == "model":
        result = verify_model(opened, tokens, timeout, progress)
    else:
        raise UsageError(f"unknown level {level!r}: choose segment, block or model")
    result.damaged = opened.damaged_files()
    if walk is not None and kept and result.damaged:
        walk.forget()  # somebody changed a file while it ran
    if backend == "lava":
        try:
            opened.record(level, result.entry())
            if walk is not None:
                walk.forget()
        except UsageError as error:
            result.unwritten = str(error)
    return result
