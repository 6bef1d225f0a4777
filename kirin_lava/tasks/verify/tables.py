"""Level segment, where neurons compute between the segments: their tables, on Lava, at both ends of every cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kirin_lava.export.bundle import Bundle
from kirin_lava.graph.ops.integer import IntegerOp
from kirin_lava.processes.runtime import run_job
from kirin_lava.spikes.tables import Table, formula_named, table
from kirin_lava.tasks.verify.result import Row, Verification

__all__ = ["arguments_of", "compare_tables", "tables_of", "verify_tables"]

_NEURONS, _RANDOM = 64, 2000


def tables_of(bundle: Bundle) -> dict[str, tuple[Table, list[str]]]:
    """The tables of a bundle by name, each with the blocks that hold it; copies are alike, reading a block sees to that."""
    found: dict[str, tuple[Table, list[str]]] = {}
    for name in bundle.block_names:
        for op in bundle.block(name).ops:
            for each in op.tables() if isinstance(op, IntegerOp) else ():
                known = found.setdefault(each.name, (each, []))[1]
                if name not in known:
                    known.append(name)
    return found


def arguments_of(name: str) -> npt.NDArray[np.int64]:
    """(steps, neurons) arguments of a table: both ends of every cell, its middle, what lies outside, and random ones."""
    formula = formula_named(name)
    edges = np.concatenate([part.start + (np.arange(part.count + 1) << part.shift) for part in formula.ranges])
    middles = np.concatenate(
        [part.start + (np.arange(part.count) << part.shift) + (1 << part.shift - 1) for part in formula.ranges]
    )
    stop = formula.ranges[-1].stop
    random = np.random.default_rng(0).integers(0, stop, _RANDOM)
    asked = np.concatenate([edges - 1, edges, edges + 1, middles, random, [-(2**23), 2**25, stop + 5]]).astype(np.int64)
    return np.resize(asked, (-(-len(asked) // _NEURONS), _NEURONS))


def verify_tables(bundle: Bundle, result: Verification, timeout: float | None) -> None:
    """Compare the bundle's table neurons on Lava with their formulas; nothing happens where there are none."""
    found = tables_of(bundle)
    if found:
        compare_tables([each for each, _ in found.values()], result, timeout)


def compare_tables(tables: list[Table], result: Verification, timeout: float | None) -> None:
    """Table neurons on Lava, with these entries, against the executor's function with the entries of the formula."""
    asked = [arguments_of(each.name) for each in tables]
    answers = run_job(_ask, tables, asked, timeout=timeout)
    for each, arguments, answer in zip(tables, asked, answers, strict=True):
        expected = table(each.name)(torch.from_numpy(arguments)).numpy()
        row = Row(f"table {each.name}", "table neuron", 1, 1, 1, 0, arguments.size, 0)
        result.rows.append(row)
        result.note(row, "native", expected, answer)


def _ask(tables: list[Table], arguments: list[npt.NDArray[Any]]) -> Any:
    from kirin_lava.processes.tables import ask_tables

    return ask_tables(tables, arguments)
