"""Makes a report: report.json and layers.csv beside the manifest, one HTML page, and PNGs on demand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Group

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, require_place, save_json, save_text
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.manifest import JOURNAL, MANIFEST
from kirin_lava.methods.known import method_named
from kirin_lava.methods.recipe import DEFAULT_RECIPE, load_recipe
from kirin_lava.models.checkpoint import open_config
from kirin_lava.models.text import EVALUATION_TEXT
from kirin_lava.tasks.draw import require_matplotlib, save_png
from kirin_lava.tasks.report.card import refresh_card
from kirin_lava.tasks.report.figures import drawings
from kirin_lava.tasks.report.gather import gather
from kirin_lava.tasks.report.methods import methods_part
from kirin_lava.tasks.report.page import page_html
from kirin_lava.tasks.report.planned import planned_part
from kirin_lava.tasks.report.tables import report_tables

__all__ = ["Report", "make_report"]

Progress = Callable[[str, int, int], None]

_LAVA_TOKENS = 16
_ROWS = 32


@dataclass(frozen=True)
class Report:
    """A report that was made. data: content of report.json. files: what was written. unwritten: why others were not."""

    data: dict[str, Any]
    files: tuple[Path, ...]
    unwritten: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        return self.data

    def table(self) -> Group:
        """The main numbers, time steps, energy and the files."""
        return report_tables(self.data, self.files)


def make_report(
    bundle: Path,
    text: Path | None = None,
    html: Path | None = None,
    figures: Path | None = None,
    max_rows: int | None = _ROWS,
    profiles: Sequence[str] = (),
    context: int | None = None,
    methods: Path | None = None,
    lava: bool = False,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Report:
    """Make the report of a bundle, or, of a folder with a config.json and no bundle, that of a dry run by the default recipe.

    Args:
        text: to evaluate and count on; None for the text that comes with the program.
        html: the page; None for report.html in the bundle; of a dry run nothing else is written.
        figures: folder for the figures as PNG, or None.
        max_rows: rows of the text that perplexity is measured on; None for all.
        profiles: names or YAML files of energy profiles; empty for those that come with the program.
        context: positions that the caches on chip hold and that sums are bounded for; None for the smaller of the model's
            positions and 4096.
        methods: what `kirin-lava compare --methods --json` printed of the same model; it becomes a section with a figure.
        lava: also run every block on Lava and count spikes and outliers there. timeout: limit in seconds of each such run.

    Raises:
        BackendError: matplotlib (or, with `lava`, Lava) is missing.
        UsageError: no bundle, a damaged one, the text that it was calibrated on, or a table of methods on another model.
        VerificationError: Lava computes or counts something else.
    """
    require_matplotlib()
    for path in (html, None if figures is None else figures / "window.png"):
        if path is not None:
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            require_place(path)
    if not any((bundle / name).is_file() for name in (MANIFEST, JOURNAL)) and (bundle / "config.json").is_file():
        if text or figures or lava or methods:
            raise UsageError(
                f"{bundle} holds no converted model: a report of its config.json has no text, figures, methods or run on Lava"
            )
        return _planned_report(bundle, html, profiles, context)
    say = progress or (lambda what, done, total: None)
    compared = None if methods is None else methods_part(methods, Bundle(bundle).manifest["source"])
    counted = _counted_on_lava(bundle, timeout, say) if lava else None
    opened = Bundle(bundle)
    data = gather(opened, text or EVALUATION_TEXT, max_rows, profiles, context, say)
    if counted is not None:
        data["exactness"]["lava"] = counted
    if compared is not None:
        data["methods"] = compared
    data = json.loads(json.dumps(data, allow_nan=False))  # the page is drawn from what the file holds
    page = html or bundle / "report.html"
    files: list[Path] = []
    unwritten: list[str] = []

    def attempt(path: Path, write: Callable[[], object]) -> None:
        try:
            with disk_errors(path):
                write()
            files.append(path)
        except UsageError as error:
            unwritten.append(str(error))

    attempt(bundle / "report.json", lambda: save_json(bundle / "report.json", data))
    attempt(bundle / "layers.csv", lambda: save_text(bundle / "layers.csv", _csv(data["segments"])))
    if not unwritten:
        attempt(bundle / "README.md", lambda: refresh_card(opened))
        files = [path for path in files if path.name != "README.md"]
    say("draw the page", 0, 1)
    attempt(page, lambda: save_text(page, page_html(data)))
    for path, draw in _figures(figures, data, say):
        attempt(path, draw)
    return Report(data, tuple(files), tuple(unwritten))


def _planned_report(folder: Path, html: Path | None, profiles: Sequence[str], context: int | None) -> Report:
    """The report of a model whose weights are not at hand."""
    recipe, name = load_recipe(DEFAULT_RECIPE), folder.absolute().name
    planned = planned_part(open_config(str(folder)), name, recipe, profiles, context)
    data = json.loads(json.dumps(planned, allow_nan=False))
    if html is None:
        return Report(data, ())
    with disk_errors(html):
        save_text(html, page_html(data))
    return Report(data, (html,))


def _counted_on_lava(bundle: Path, timeout: float | None, progress: Progress) -> list[dict[str, Any]]:
    """Rows of a verification of all blocks, which counts spikes and outliers on Lava's connections."""
    from kirin_lava.tasks.verify import verify

    result = verify(bundle, level="block", backend="lava", tokens=_LAVA_TOKENS, timeout=timeout, progress=progress)
    result.require()
    rows: list[dict[str, Any]] = result.to_dict()["rows"]
    return rows


def _csv(rows: list[dict[str, Any]]) -> str:
    """One line per segment; the numbers are those of report.json."""
    buffer = io.StringIO()
    if rows:
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return buffer.getvalue()


def _figures(folder: Path | None, data: dict[str, Any], progress: Progress) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Files to be and what writes each."""
    if folder is None:
        return
    found = drawings(data, method_named(data["method"]["name"]))
    for index, (name, drawing) in enumerate(found.items()):
        progress("draw figures", index, len(found))
        path = folder / f"{name}.png"
        yield path, partial(save_png, path, drawing.draw, drawing.data, drawing.heights[0])
