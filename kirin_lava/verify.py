"""Verification: every integer of a bundle, computed again by every backend and compared with what the compiler recorded.

    recorded at export   integer matrix products of the compiler, kept in probe/
    reference            the same products from the weights in the `.net`
    closed form          from spike times
    stepped              the silence-threshold neuron, step by step, in NumPy
    native               Lava processes (fixed_pt)
    stock                the `.net` in unmodified lava-dl

The levels block and model compare the whole decoder on Lava with the executor, see `kirin_lava.verify_blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table

from kirin_lava import neuron
from kirin_lava.coding import encode_raster, is_outlier, is_silent
from kirin_lava.errors import FitError, UsageError, VerificationError
from kirin_lava.export.bundle import Bundle, Probe
from kirin_lava.export.netx_read import Segment
from kirin_lava.graph import Linear
from kirin_lava.reference import ExactMatmul, fire
from kirin_lava.runtime import require_lava, run_job

__all__ = ["Mismatch", "Row", "Verification", "compare", "verify"]

Integers = npt.NDArray[np.integer[Any]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Mismatch:
    """The first integer that differs."""

    where: str
    backend: str
    window: int
    neuron: int
    expected: int
    got: int

    def __str__(self) -> str:
        place = f"{self.where}, {self.backend}, window {self.window}, neuron {self.neuron}"
        return f"{place}: expected {self.expected}, got {self.got}"


@dataclass
class Row:
    """One segment (or port) of the table. compared counts integers over all backends; ms are per time step."""

    name: str
    kind: str
    inputs: int
    outputs: int
    window: int
    spikes: int
    outliers: int
    silent: int
    compared: int = 0
    mismatches: int = 0
    ms_native: float | None = None
    ms_stock: float | None = None


@dataclass
class Verification:
    """Result of a verification.

    Attributes:
        backends: what was compared with the recorded integers.
        damaged: files whose bytes are not those of the export.
    """

    level: str
    backends: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    first: Mismatch | None = None
    damaged: list[str] = field(default_factory=list)

    @property
    def compared(self) -> int:
        """Integers compared."""
        return sum(row.compared for row in self.rows)

    @property
    def mismatches(self) -> int:
        """Integers that differ."""
        return sum(row.mismatches for row in self.rows)

    def note(self, row: Row, backend: str, expected: Integers, got: Integers) -> None:
        """Compare integers of one segment, (windows, N) each, and count them into its row."""
        wrong = compare(expected, got)
        row.compared += expected.size
        row.mismatches += int(wrong.sum())
        if wrong.any() and self.first is None:
            window, column = (int(i) for i in np.argwhere(wrong)[0])
            values = int(expected[window, column]), int(got[window, column])
            self.first = Mismatch(row.name, backend, window, column, *values)

    def require(self) -> None:
        """Raise `VerificationError` for a mismatch, a damaged file, or where nothing was compared."""
        if self.first is not None:
            raise VerificationError(f"{self.mismatches} of {self.compared} integers differ; first: {self.first}")
        if self.damaged:
            raise VerificationError(f"{self.damaged[0]} is not the file that was exported ({len(self.damaged)} such files)")
        if not self.compared:
            raise VerificationError("nothing was compared: the bundle has no segments")

    def summary(self) -> str:
        """One line for people."""
        state = "verified" if not self.mismatches and not self.damaged else "NOT VERIFIED"
        return f"{state}: {self.compared} integers compared ({', '.join(self.backends)}), {self.mismatches} mismatches"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"compared": self.compared, "mismatches": self.mismatches}

    def table(self) -> Table:
        """One row per segment."""
        table = Table(title=f"{self.level} level: recorded integers against {', '.join(self.backends)}")
        timed = any(row.ms_native is not None or row.ms_stock is not None for row in self.rows)
        columns = ["segment", "kind", "inputs", "outputs", "T", "spikes", "silent", "outliers", "compared", "mismatches"]
        for column in columns + (["native ms/step", "stock ms/step"] if timed else []):
            table.add_column(column, justify="left" if column in ("segment", "kind") else "right")
        for row in self.rows:
            counts = (row.inputs, row.outputs, row.window, row.spikes, row.silent, row.outliers, row.compared, row.mismatches)
            times = [("" if ms is None else f"{ms:.2f}") for ms in (row.ms_native, row.ms_stock)] if timed else []
            table.add_row(row.name, row.kind, *map(str, counts), *times)
        return table


def compare(expected: Integers, got: Integers) -> npt.NDArray[np.bool_]:
    """Where two arrays of integers (windows, N) differ; everywhere, where their shapes do."""
    if expected.shape != got.shape:
        raise VerificationError(f"a result has the shape {got.shape} instead of {expected.shape}")
    wrong: npt.NDArray[np.bool_] = expected.astype(np.int64) != got.astype(np.int64)
    return wrong


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
        result = _verify_segments(opened, backend, timeout, progress)
    elif level in ("block", "model"):
        from kirin_lava.verify_blocks import verify_blocks, verify_model

        run = verify_blocks if level == "block" else verify_model
        result = run(opened, tokens, timeout, progress)
    else:
        raise UsageError(f"unknown level {level!r}: choose segment, block or model")
    result.damaged = opened.damaged_files()
    if backend == "lava":
        fine = not result.mismatches and not result.damaged and result.compared > 0
        record = {"compared": result.compared, "mismatches": result.mismatches, "backends": list(result.backends)}

        def update(manifest: dict[str, Any]) -> None:
            manifest["verification"] = {**(manifest.get("verification") or {}), level: record}
            manifest["verified"] = fine and all(not entry["mismatches"] for entry in manifest["verification"].values())

        opened.record(update)
    return result


def _segments(bundle: Bundle) -> Iterator[tuple[str, Segment, Probe]]:
    for name in bundle.block_names:
        probes = bundle.probes(name)
        for segment in bundle.segments(name, intact=False):
            if segment.linear.name not in probes:
                raise UsageError(f"{bundle.path}/probe/{name}.safetensors has no probe of {segment.linear.name}")
            yield name, segment, probes[segment.linear.name]


def _verify_segments(bundle: Bundle, backend: str, timeout: float | None, progress: Progress | None) -> Verification:
    backends = ("reference", "closed form", "stepped") + (("native", "stock") if backend == "lava" else ())
    result = Verification("segment", backends)
    work: list[tuple[str, Linear, Integers]] = []
    probes: list[Probe] = []
    for block, segment, probe in _segments(bundle):
        linear, codes = segment.linear, probe.codes.astype(np.int64)
        row = _row(f"{block}.{linear.name}", linear, codes)
        result.rows.append(row)
        for name, compute in (("reference", _by_products), ("closed form", _by_times), ("stepped", _by_steps)):
            result.note(row, name, probe.result, compute(linear, codes))
        work.append((str(segment.path), linear, codes))
        probes.append(probe)
    if backend == "lava":
        from kirin_lava.verify_lava import run_segments

        report = progress or (lambda what, done, total: None)
        steps = lambda done, total: report("Lava steps", done, total)  # noqa: E731
        answers = run_job(run_segments, work, timeout=timeout, on_progress=steps)
        for row, probe, (_, linear, _), answer in zip(result.rows, probes, work, answers, strict=True):
            row.ms_native, row.ms_stock = answer.ms_native, answer.ms_stock
            result.note(row, "native", probe.result, answer.native)
            expected: Integers = probe.result
            if linear.fire is not None and not answer.stock_fires:  # its fire phase does not fit stock Lava
                expected = _by_products(_without_fire(linear), probe.codes.astype(np.int64))
            result.note(row, "stock", expected, answer.stock)
    return result


def _row(name: str, linear: Linear, codes: Integers) -> Row:
    enc = linear.encoding
    outliers, silent = int(is_outlier(codes, enc).sum()), int(is_silent(codes, enc).sum())
    spikes = codes.size - outliers - silent
    outputs, inputs = linear.weight.shape
    return Row(name, "fire" if linear.fire else "read", inputs, outputs, enc.window, spikes, outliers, silent)


def _without_fire(linear: Linear) -> Linear:
    return Linear(linear.name, linear.input, linear.output, linear.weight, linear.bits, linear.encoding)


def _by_products(linear: Linear, codes: Integers) -> Integers:
    enc = linear.encoding
    matmul = ExactMatmul(linear.weight, max(-enc.code_min, enc.code_max), torch.device("cpu"))
    sums = matmul(torch.from_numpy(codes).float())
    if linear.fire is not None:
        sums = fire(sums, linear.fire, linear.name)
    return sums.numpy().astype(np.int64)


def _by_times(linear: Linear, codes: Integers) -> Integers:
    spikes, outliers = encode_raster(codes, linear.encoding)
    v = neuron.membranes(neuron.Events.of(spikes + outliers), linear.weight)
    v -= linear.encoding.zero * linear.weight.astype(np.int64).sum(1)
    return v if linear.fire is None else neuron.codes_of(v, linear.fire)


def _by_steps(linear: Linear, codes: Integers) -> Integers:
    period = linear.encoding.window if linear.fire is None else max(linear.encoding.window, linear.fire.encoding.window)
    spikes, outliers = encode_raster(codes, linear.encoding, period)
    payload = (spikes + outliers).transpose(1, 0, 2).reshape(codes.shape[1], -1)
    try:
        return neuron.simulate(linear, payload, period)
    except FitError as error:
        raise VerificationError(f"the stepped neuron overflows where the reference does not: {error}") from error
