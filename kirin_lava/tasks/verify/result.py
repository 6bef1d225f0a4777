"""What a verification found: one row per segment or port, and the first integer that differs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from kirin_lava.base.errors import VerificationError
from kirin_lava.export.coverage import complete, words

__all__ = ["Found", "Mismatch", "Row", "Verification", "compare"]

Integers = npt.NDArray[np.integer[Any]]


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
    """One segment (or port) of the table. compared counts integers over all backends; ms are per time step; seconds are those
    that Lava took for it, start-up included."""

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
    seconds: float | None = None


@dataclass
class Found:
    """What was found of one unit, a segment or a block. each: windows or tokens that it was run on."""

    rows: list[Row]
    first: Mismatch | None
    each: int


@dataclass
class Verification:
    """Result of a verification.

    Attributes:
        backends: what was compared with the recorded integers.
        damaged: files whose bytes are not those of the export.
        unwritten: why the manifest does not say so, where it could not be written.
        covered: see `kirin_lava.export.coverage`; None where everything is covered by its nature.
        drawn: what was left out, for people; empty where nothing was. resumed: units found by an earlier run that
            did not come to its end.
    """

    level: str
    backends: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    first: Mismatch | None = None
    damaged: list[str] = field(default_factory=list)
    unwritten: str | None = None
    covered: dict[str, Any] | None = None
    drawn: str = ""
    resumed: int = 0

    def take(self, name: str, found: Found) -> None:
        """Add what was found of a unit of `covered`."""
        assert self.covered is not None
        self.rows += found.rows
        self.first = self.first or found.first
        integers = [sum(getattr(row, number) for row in found.rows) for number in ("compared", "mismatches")]
        self.covered["units"][name] = [found.each, *integers]

    def entry(self) -> dict[str, Any]:
        """What the manifest keeps."""
        entry = {
            "compared": self.compared,
            "mismatches": self.mismatches,
            "damaged": len(self.damaged),
            "backends": list(self.backends),
            "milliseconds_per_step": self.milliseconds_per_step(),
        }
        return entry if self.covered is None else {**entry, "covered": self.covered}

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

    def milliseconds_per_step(self) -> dict[str, float]:
        """Mean wall time of a time step on Lava over the rows, by form, "native" or "stock"; empty where none was measured."""
        times = {"native": [row.ms_native for row in self.rows], "stock": [row.ms_stock for row in self.rows]}
        known = {form: [ms for ms in found if ms is not None] for form, found in times.items()}
        return {form: sum(found) / len(found) for form, found in known.items() if found}

    def summary(self) -> str:
        """One line for people."""
        state, entry = "verified", self.entry()
        if not self.compared or self.mismatches or self.damaged:
            state = "NOT VERIFIED"
        elif not complete(entry):
            state = "verified in part"
        text = f"{state}: {self.compared} integers compared ({', '.join(self.backends)}), {self.mismatches} mismatches"
        if complete(entry) and not self.drawn:
            return text
        return f"{text}; {words(entry)}{self.drawn and f' ({self.drawn})'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"compared": self.compared, "mismatches": self.mismatches}

    def table(self) -> Table:
        """One row per segment."""
        table = Table(title=f"{self.level} level: recorded integers against {', '.join(self.backends)}")
        timed = any(row.ms_native is not None or row.ms_stock is not None for row in self.rows)
        columns = ["segment", "kind", "in", "out", "T", "spikes", "silent", "outliers", "compared", "wrong"]
        for column in columns + (["native ms per step", "stock ms per step"] if timed else []):
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
