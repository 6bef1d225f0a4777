"""Foreign text on a terminal: names, types and messages from files of anybody, made safe and short enough to print.

An escape sequence in a file's type string could colour, hide or retype what a terminal shows; a bidi control could turn a name
around. Such characters are shown as Python writes them (`\\x1b`, `\\u202e`).
"""

from __future__ import annotations

import re

__all__ = ["plain", "plain_cell", "plain_json", "plain_line"]

# C0 without tab and line feed, DEL and C1 (U+009B alone begins an escape sequence), and all of Unicode's Bidi_Control
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_BREAKS = re.compile("[ \t]*[\n\x0b\x0c\r\x85\u2028\u2029]+[ \t]*")
_LONG_WORD = re.compile(r"\S{301,}")
_WORD_HEAD, _WORD_TAIL = 120, 60
_LINE_HEAD, _LINE_TAIL = 2300, 600


def plain(text: str) -> str:
    """The text with control characters and bidi controls as escapes; tabs and line feeds stay."""
    return _UNSAFE.sub(_escape, text)


def plain_json(text: str) -> str:
    """JSON that was written without escapes beyond those it needs: what a terminal would obey becomes `\\u001b`."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain_line(text: str) -> str:
    """One line for people: safe, without line breaks, words of more than 300 letters and the whole shortened in the middle."""
    return _cut(plain_cell(_BREAKS.sub(" ", text.strip())), _LINE_HEAD, _LINE_TAIL)


def plain_cell(text: str) -> str:
    """Text for a cell of a table: safe, words of more than 300 letters shortened in the middle."""
    return _LONG_WORD.sub(lambda found: _cut(found[0], _WORD_HEAD, _WORD_TAIL), plain(text))


def _cut(text: str, head: int, tail: int) -> str:
    if len(text) <= head + tail:
        return text
    return f"{text[:head]}…({len(text)} letters)…{text[-tail:]}"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
