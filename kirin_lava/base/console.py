"""What the commands print: results on stdout, talk on stderr. rich is loaded when there is something to print."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Report", "csv_lines", "print_error", "print_json", "print_table", "progress_bar", "say", "survive_any_text"]

_WIDEST = 10_000

Report = Callable[[str, int, int], None]
"""Called with what is done now, how many parts are done and how many there are."""


def print_json(value: Any) -> None:
    """Plain values as JSON on stdout; numbers that JSON does not have become null."""
    sys.stdout.write(json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def csv_lines(rows: Sequence[dict[str, Any]]) -> str:
    """A header and a line per row; all rows have the entries of the first."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def print_table(table: RenderableType) -> None:
    """A table on stdout: as wide as the terminal, or as its words and numbers need where that is too narrow."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    console = _console(sys.stdout)
    wide = console.options.update(max_width=_WIDEST)
    for part in table.renderables if isinstance(table, Group) else [table]:
        if not isinstance(part, Table):
            continue
        part.box = box.SIMPLE_HEAD if part.show_header else None  # narrow, and easy to copy from
        for column in part.columns:
            # rich would cut the words of the widest column, and counts on the longest word even where nothing may wrap
            sizes = [console.measure(cell, options=wide) for cell in (column.header, *column.cells)]
            column.min_width = max(size.maximum if column.no_wrap else size.minimum for size in sizes)
    # set on the console: print(width=...) would be cut to the width of the terminal again
    console.width = max(console.width, console.measure(table, options=wide).minimum)
    console.print(table, crop=False, soft_wrap=False)


def say(text: str) -> None:
    """One line of talk on stderr, broken by the terminal alone."""
    _console(sys.stderr).print(text, soft_wrap=True)


def print_error(text: str) -> None:
    """One line that says what went wrong, on stderr."""
    _console(sys.stderr).print(f"error: {text}", style="red", soft_wrap=True)


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Report | None]:
    """A bar on stderr, on terminals only."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(sys.stderr), transient=True) as bar:
        task = bar.add_task("start", total=1)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def survive_any_text() -> None:
    """Characters that a terminal's encoding lacks become escapes instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _console(stream: Any) -> Console:
    from rich.console import Console

    # Names and texts come from files: nothing in them is markup.
    return Console(file=stream, markup=False, highlight=False, emoji=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
