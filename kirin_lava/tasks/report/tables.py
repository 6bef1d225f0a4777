"""What `kirin-lava report` prints: the main numbers, time steps and energy, all of them from report.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from kirin_lava.tasks.report.values import resolve, show

__all__ = ["report_tables"]

_FACTS = {  # a row is left out where its last value is unknown, or where no integers were compared
    "segments, weights": (("model.segments", "int"), ("model.weights", "int")),
    "bundle, peak memory of the export": (("export.bundle_bytes", "bytes"), ("export.peak_memory_bytes", "bytes")),
    "integers that differ, of all compared": (("exactness.mismatches", "int"), ("exactness.compared", "int")),
    "perplexity, of the original": (("evaluation.perplexity", "four"), ("evaluation.perplexity_float", "four")),
    "cosine to the original, same neighbour": (("evaluation.cosine", "four"), ("evaluation.same_neighbour", "percent2")),
    "a sentence: tokens, spikes, messages": (
        ("sentence.tokens", "int"),
        ("sentence.spikes", "int"),
        ("sentence.outliers", "int"),
    ),
    "spikes, messages per token": (("counts.total.spikes_per_token", "int"), ("counts.total.outliers_per_token", "int")),
    "segments proved, calibrated, unfit": (
        ("ranges.proved", "int"),
        ("ranges.calibrated", "int"),
        ("ranges.does_not_fit", "int"),
    ),
    "cores, chips": (("placement.cores", "int"), ("placement.chips", "int")),
    "positions that they hold, bytes and chips of each further one": (
        ("placement.context", "int"),
        ("placement.cache_bytes_per_position", "bytes"),
        ("placement.chips_per_position", "price"),
    ),
    "time step on chip, at least": (("timing.step_seconds", "si:s"),),
    "energy saved as papers count it, its claim": (
        ("energy.paper.against_dense", "percent2"),
        ("energy.paper.claimed_energy_reduction", "percent2"),
    ),
    "price lists under which the integer twin wins": (("energy.twin_wins", "int"), ("energy.priced", "int")),
}


def report_tables(data: dict[str, Any], files: Sequence[Path]) -> Group:
    """Tables for people.

    Args:
        data: content of report.json. files: what was written.
    """
    facts = Table(title=f"{data['source']['name']} by {data['recipe']['name']}", show_header=False)
    for words, values in _FACTS.items():
        found = [resolve(data, key) for key, _ in values]
        if found[-1] is not None and (found[-1] or "exactness" not in values[-1][0]):
            facts.add_row(words, ", ".join(show(value, form) for value, (_, form) in zip(found, values, strict=True)))
    for row in resolve(data, "timing.lava") or ():
        facts.add_row(f"time step, {row['what']}", show(row["seconds"], "si:s"))
    for path in files:
        facts.add_row("written", str(path))
    if "missing" in data["energy"]:
        return Group(facts)
    rate = data["steps"][-1]
    columns = ("codes", "T", "fewer", "per token", "fewer", "perplexity")
    steps = _table("time steps of a window, of a token", *columns)
    steps.caption = f"fewer: than the {rate['window']} and {rate['latency_steps']:,} of {rate['scheme']}"
    for cells in _step_rows(data):
        steps.add_row(*cells)
    energy = _table("joules per token", "prices", "FP16", "integer\ntwin", "rate\ncode", "ours", "static\npower")
    for profile in data["energy"]["profiles"]:
        totals = ["cannot run" if c["total"] is None else show(c["total"], "si:J") for c in profile["columns"]]
        static = next(column["static_joules"] for column in profile["columns"] if column["network"] == "ours")
        energy.add_row(profile["profile"]["title"], *totals, show(static, "si:J"))
    return Group(facts, steps, energy)


def _step_rows(data: dict[str, Any]) -> Iterator[list[str]]:
    """A row for each window of ours, against 8-bit spike codes; the perplexity is that of the bundle's own."""
    for row in data["steps"][:-1]:
        here = row["window"] == data["recipe"]["window"] and resolve(data, "evaluation.perplexity") is not None
        yield [
            row["scheme"],
            show(row["window"]),
            show(row["window_reduction"], "percent2"),
            show(row["latency_steps"], "int"),
            show(row["latency_reduction"], "percent2"),
            show(resolve(data, "evaluation.perplexity"), "four") if here else "",
        ]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table
