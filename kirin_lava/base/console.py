"""What the commands print: results on stdout, talk on stderr. rich is loaded when there is something to print.

Names and texts come from files of anybody: all that is printed goes through `kirin_lava.base.terminal`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kirin_lava.base.errors import UsageError
from kirin_lava.base.terminal import plain, plain_cell, plain_json, plain_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "ReaderGoneError",
    "Report",
    "csv_lines",
    "drop_stdout",
    "flush_stdout",
    "print_error",
    "print_json",
    "print_line",
    "print_table",
    "print_text",
    "progress_bar",
    "say",
    "survive_any_text",
]

_WIDEST = 10_000
_RATE_SECONDS = 600  # by which the time left is estimated: a layer of a large model takes minutes

Report = Callable[[str, int, int], None]
"""Called with what is done now, how many parts are done and how many there are."""


class ReaderGoneError(Exception):
    """Nobody reads the standard output any more (`| head -1`): the program ends without a word, as others do."""


def print_json(value: Any) -> None:
    """Plain values as JSON on stdout; numbers that JSON does not have become null."""
    _write(plain_json(json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)) + "\n")


def print_text(text: str) -> None:
    """Text on stdout as it is, but for what a terminal would obey; nothing is added."""
    _write(plain(text))


def print_line(text: str) -> None:
    """One line on stdout."""
    _write(f"{plain_line(text)}\n")


def csv_lines(rows: Sequence[dict[str, Any]]) -> str:
    """A header and a line per row; all rows have the entries of the first. Control characters are escaped."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for cells in (list(rows[0]), *([row[name] for name in rows[0]] for row in rows)):
        writer.writerow([plain(cell) if isinstance(cell, str) else cell for cell in cells])
    return out.getvalue()


def print_table(table: RenderableType) -> None:
    """A table on stdout: as wide as the terminal, or as its words and numbers need where that is too narrow."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    table = _safe(table)
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
    with _stdout_errors():
        console.print(table, crop=False, soft_wrap=False)


def say(text: str) -> None:
    """One line of talk on stderr, broken by the terminal alone."""
    if sys.stderr is not None:
        _console(sys.stderr).print(plain_line(text), soft_wrap=True)


def print_error(text: str) -> None:
    """One line that says what went wrong, on stderr."""
    if sys.stderr is not None:
        lines = "\n".join(map(plain_line, text.splitlines()))
        _console(sys.stderr).print(f"error: {lines}", style="red", soft_wrap=True)


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Report | None]:
    """A bar on stderr, on terminals only."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Seconds that a part takes, once one is done."""

        def render(self, task: Task) -> Text:
            return Text(f"{1 / task.speed:.3g} s each" if task.speed else "")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(sys.stderr), transient=True, speed_estimate_period=_RATE_SECONDS) as bar:
        task = bar.add_task("start", total=1)
        yield lambda what, done, total: bar.update(task, description=plain_line(what), completed=done, total=total)


def flush_stdout() -> None:
    """Have everything written.

    Raises:
        UsageError: it cannot be (a full disk). ReaderGoneError: nobody is there who reads it.
    """
    with _stdout_errors():
        pass


def drop_stdout() -> None:
    """Forget what is not written yet: Python would try again at its end, and complain."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    except (OSError, ValueError, AttributeError):  # it is no file
        pass


def survive_any_text() -> None:
    """Characters that a terminal's encoding lacks become escapes instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _write(text: str) -> None:
    with _stdout_errors():
        sys.stdout.write(text)


@contextlib.contextmanager
def _stdout_errors() -> Iterator[None]:
    """Around what writes to stdout; flushes it."""
    if sys.stdout is None:
        raise UsageError("there is no standard output to write to: it was closed before the program began")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        raise ReaderGoneError from None
    except OSError as error:
        drop_stdout()
        raise UsageError(f"writing to the standard output failed: {error.strerror or error}") from None


def _console(stream: Any) -> Console:
    from rich.console import Console

    # Names and texts come from files: nothing in them is markup.
    return Console(file=stream, markup=False, highlight=False, emoji=False)


def _safe(part: Any) -> Any:
    """A table, text or group of them with safe text in every place; what is safe already stays the object it is."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if isinstance(part, str):
        return plain_cell(part)
    if isinstance(part, Text):
        safe = plain_cell(part.plain)
        if safe == part.plain:
            return part
        return Text(safe, part.style, justify=part.justify, overflow=part.overflow, no_wrap=part.no_wrap)
    if isinstance(part, Group):
        return Group(*map(_safe, part.renderables))
    if isinstance(part, Table):
        part.title, part.caption = _safe(part.title), _safe(part.caption)
        for column in part.columns:
            column.header, column.footer = _safe(column.header), _safe(column.footer)
            column._cells[:] = map(_safe, column._cells)
    return part


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
