"""The documentation as the tests see it: pages, their code blocks, and what stands beside them.

<!-- not run: REASON -->    before a block that needs a download, a board, or Lava where another test runs the same
<!-- prints -->             before a text block: exactly what the block before it prints
<!-- after: PAGE -->        anywhere in a page: its blocks run in a copy of the folder that PAGE's blocks left
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "after", "all_pages", "blocks_of", "label"]

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>not run: .+?|prints) -->\n)?```(?P<language>[a-z]+)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_TAKEN = re.compile(r'^--8<-- "([^":]+)(?::([\w-]+))?"$', re.MULTILINE)
_AFTER = re.compile(r"<!-- after: (\S+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text, and what its mark says."""

    page: str
    line: int
    language: str
    code: str
    mark: str

    @property
    def runs(self) -> bool:
        """Whether it is to be run."""
        return self.language in ("python", "bash") and not self.mark


def all_pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def label(page: Path) -> str:
    """The page's path below the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            label(page), text.count("\n", 0, found.start("code")), found["language"], _whole(found["code"]), found["mark"] or ""
        )
        for found in _FENCE.finditer(text)
    ]


def _whole(code: str) -> str:
    """The code of a block with what it takes from files."""
    return _TAKEN.sub(lambda found: _section(ROOT / found[1], found[2]), code)


def _section(path: Path, name: str | None) -> str:
    text = path.read_text(encoding="utf-8")
    if name is None:
        return text
    start, end = (f"# --8<-- [{word}:{name}]\n" for word in ("start", "end"))
    assert text.count(start) == text.count(end) == 1, f"{path} has no section {name}"
    return text.partition(start)[2].partition(end)[0]


def after(page: Path) -> Path | None:
    """The page whose folder this one goes on in, if any."""
    found = _AFTER.search(page.read_text(encoding="utf-8"))
    return None if found is None else ROOT / found[1]
