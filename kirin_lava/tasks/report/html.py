"""The parts that a page is made of: values with their keys, tables that scroll in their own box, figures with two widths."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from kirin_lava.tasks.report.draw import Draw, svg
from kirin_lava.tasks.report.values import fill, resolve, show

__all__ = ["Page", "escape", "section", "table"]


def escape(text: object) -> str:
    """Text of unknown origin as HTML."""
    return html.escape(str(text), quote=True)


class Page:
    """Writes values of one report. Every value carries its key, so that a reader (and a test) can look it up."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self._figures = 0

    def get(self, key: str) -> Any:
        """The value of a key; None where there is none."""
        return resolve(self.report, key)

    def value(self, key: str, form: str = "plain") -> str:
        """A value as an element."""
        shown = escape(show(self.get(key), form))
        return f'<data data-key="{escape(key)}" data-format="{escape(form)}">{shown}</data>'

    def fill(self, text: str, **bases: str) -> str:
        """HTML with values in it: `{key}` or `{key|format}`, where the first part of a key may be a name of `bases`."""

        def put(key: str, form: str) -> str:
            first, dot, rest = key.partition(".")
            return self.value(bases.get(first, first) + dot + rest, form)

        return fill(text, put)

    def cells(self, base: str, *fields: str) -> list[str]:
        """Values of one row, each field as `name` or `name|format`."""
        return [self.fill(f"{{row.{field}}}", row=base) for field in fields]

    def count(self, key: str) -> range:
        """Positions of a list."""
        return range(len(self.get(key) or ()))

    def missing(self, key: str) -> str | None:
        """A sentence instead of a part that the report does not have; None where it has it."""
        part = self.get(key)
        if isinstance(part, dict) and "missing" in part:
            return f'<p class="missing">Not here: {self.value(f"{key}.missing")}.</p>'
        return None

    def figure(self, name: str, draw: Draw, data: Any, heights: tuple[int, int], label: str, caption: str) -> str:
        """A figure drawn for desks and for phones.

        Args:
            heights: of the wide and of the narrow form, in pixels.
            label: what it shows, for those who do not see it. caption: HTML.
        """
        self._figures += 1
        forms = "".join(
            f'<div class="{"narrow" if narrow else "wide"}">{svg(name, draw, data, narrow, height, label)}</div>'
            for narrow, height in zip((False, True), heights, strict=True)
        )
        title = f"<b>Figure {self._figures}.</b>"  # a name, not a value
        return f'<figure id="figure-{escape(name)}">{forms}<figcaption>{title} {caption}</figcaption></figure>'


def section(name: str, title: str, *parts: str | None) -> str:
    """A section with a heading; parts that are None are left out."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{escape(title)}</h2>\n{body}</section>'


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table in a box of its own that scrolls where the page is narrow.

    Args:
        columns, rows: HTML. words: how many columns from the left hold words; the others hold numbers.
    """

    def cells(tag: str, row: Sequence[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(f"<{tag}{scope}{'' if i < words else ' class=n'}>{cell}</{tag}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}"><table><caption>{escape(title)}</caption>'
        f"<thead><tr>{cells('th', columns)}</tr></thead><tbody>{body}</tbody></table></div>"
    )
