"""Reads a page: its values with their keys, the words between them, its figures, and what it would load."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Read(HTMLParser):
    """What a page says.

    Attributes:
        values: (key, format, text) of everything that carries a key.
        words: text outside of such elements, styles and the scales of figures.
        figures: attributes of every svg and img.
        loads: what the page refers to outside of itself.
        ids: every id.
    """

    values: list[tuple[str, str, str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    figures: list[dict[str, str | None]] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, str]] = []  # tag, why its text is not words

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        inherited = self._open[-1][1] if self._open else ""
        kind = inherited
        if "data-key" in attributes:
            kind = "value"
            self.values.append((attributes["data-key"] or "", attributes["data-format"] or "", ""))
        elif tag in ("style", "script", "title") or attributes.get("class") == "scale":
            kind = "other"
        if tag in ("svg", "img"):
            self.figures.append(attributes)
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            target = attributes.get(name)
            if target and not target.startswith(("#", "data:,")):
                self.loads.append(target)
        if attributes.get("id"):
            self.ids.append(attributes["id"] or "")
        if tag not in ("meta", "link", "br", "img", "input"):
            self._open.append((tag, kind))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "link", "br", "img", "input"):
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1][0] == tag, f"</{tag}> closes {self._open[-1:]} on line {self.getpos()}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        kind = self._open[-1][1] if self._open else ""
        if kind == "value":
            key, form, text = self.values[-1]
            self.values[-1] = key, form, text + data.strip("\n")
        elif kind == "" and data.strip():
            self.words.append(data.strip())


def read_page(html: str) -> Read:
    """Read a whole page; fails where elements are not closed in order."""
    page = Read()
    page.feed(html)
    page.close()
    assert not page._open
    return page
