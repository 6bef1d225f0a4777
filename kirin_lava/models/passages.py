"""Passages of a text and their fingerprints, by which a text that was calibrated on is told again in another file.

A passage is a line of some length, without regard to its spaces; a paragraph of shorter lines (a text that was wrapped) is
one, too. A very long line is cut where its own words say so, so that a sentence added to it changes the passages near it
alone. So it does not matter how documents are separated, or whether they are.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator

__all__ = ["cut", "fingerprints", "passages"]

_SHORTEST = 80  # letters; what is shorter stands in many texts ("The End.")
_LONGEST = 2000  # letters of a line that is not cut
_CHUNK = 400  # letters after which a long line may be cut
_ANCHORS = 16  # one in so many words ends a chunk
_WORD = re.compile(r"\S+")


def cut(text: str) -> Iterator[tuple[int, int, str]]:
    """First letter, end, and words of every passage of a text, in order."""
    lines: list[tuple[int, int]] = []
    place = 0
    for line in f"{text}\n\n".split("\n"):
        if line and not line.isspace():
            lines.append((place, place + len(line)))
        elif lines:
            yield from _of_paragraph(text, lines)
            lines = []
        place += len(line) + 1


def passages(text: str) -> list[str]:
    """The passages of a text, in order."""
    return [passage for _, _, passage in cut(text)]


def fingerprints(found: Iterable[str]) -> list[str]:
    """Hashes of passages, sorted, each once."""
    return sorted({hashlib.sha256(passage.encode()).hexdigest()[:16] for passage in found})


def _of_paragraph(text: str, lines: list[tuple[int, int]]) -> list[tuple[int, int, str]]:
    found = [part for start, stop in lines for part in _of_line(text, start, stop)]
    whole = None if found else _passage(text, lines[0][0], lines[-1][1])
    return [whole] if whole else found


def _passage(text: str, start: int, stop: int) -> tuple[int, int, str] | None:
    words = " ".join(text[start:stop].split())
    return (start, stop, words) if len(words) >= _SHORTEST else None


def _of_line(text: str, start: int, stop: int) -> Iterator[tuple[int, int, str]]:
    place = start
    if stop - start > _LONGEST:
        for word in _WORD.finditer(text, start, stop):
            if word.end() - place >= _CHUNK and zlib.crc32(word[0].encode()) % _ANCHORS == 0:
                chunk = _passage(text, place, word.end())
                if chunk:
                    yield chunk
                place = word.end()
    rest = _passage(text, place, stop)
    if rest:
        yield rest
