"""Nothing from a file moves the cursor, and nothing is longer than a person reads."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table
from rich.text import Text

from kirin_lava.base.console import csv_lines, print_error, print_json, print_line, print_table, print_text, say
from kirin_lava.base.terminal import plain, plain_cell, plain_json, plain_line
from kirin_lava.base.units import in_bytes

EVIL = "a\x1b[2J\x9b31m\x07\x08\r\u202eb\u2066\x7f\x00"
SHOWN = "a\\x1b[2J\\x9b31m\\x07\\x08\\x0d\\u202eb\\u2066\\x7f\\x00"
UNSAFE = set(map(chr, [*range(32), *range(127, 160), 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]))


def test_control_characters_are_shown() -> None:
    assert plain(EVIL) == SHOWN and plain("größe\t☕\n") == "größe\t☕\n"
    assert plain_line("one\n\n two\u2028three") == "one two three"


@given(st.text())
def test_of_any_text_nothing_unsafe_is_left(text: str) -> None:
    assert not UNSAFE - {"\n", "\t"} & set(plain(text))
    assert not UNSAFE - {"\t"} & set(plain_line(text))
    coded = plain_json(json.dumps({"k": text}, ensure_ascii=False))
    assert not UNSAFE & set(coded) and json.loads(coded) == {"k": text}


def test_long_words_are_shortened_and_long_lines_cut() -> None:
    line = plain_line(f"no recipe {'x' * 5000}: use another")
    assert line.startswith("no recipe xxx") and line.endswith("xxx: use another") and "…(5001 letters)…" in line
    assert len(line) < 250 and plain_line("y" * 300) == "y" * 300
    assert len(plain_line("word " * 5000)) < 3100
    assert len(plain_cell("z" * 9000)) < 250


def test_everything_that_prints_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(EVIL, EVIL, title=EVIL, caption=EVIL)
    table.add_row(EVIL, Text(EVIL))
    print_table(Group(table, Text(f"note: {EVIL}")))
    print_text(EVIL)
    print_line(EVIL)
    print_json({EVIL: [EVIL]})
    print_text(csv_lines([{EVIL: EVIL}]))
    say(EVIL)
    print_error(f"{EVIL}\nsecond line")
    said = capsys.readouterr()
    assert not UNSAFE - {"\n"} & set(said.out + said.err)
    assert said.out.count("\\x1b[2J") >= 8 and said.err.count("\\x1b[2J") == 2 and "\nsecond line\n" in said.err


def test_a_table_of_safe_text_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("größe")
    table.add_row(Text("ein langes Wort", style="bold"))
    print_table(table)
    assert "größe" in capsys.readouterr().out


def test_sizes_have_the_unit_that_fits() -> None:
    sizes = [0, 1, 512, 999.4, 1000, 1460, 99_940, 999_499, 999_600, 12_345_678, 4.12e11, 3e15, 3e18]
    assert [in_bytes(size) for size in sizes] == (
        "0 bytes,1 byte,512 bytes,999 bytes,1.00 kB,1.46 kB,99.9 kB,999 kB,1.00 MB,12.3 MB,412 GB,3.00 PB,3000 PB".split(",")
    )
    assert in_bytes(1) != in_bytes(0) and not in_bytes(2_000_000).startswith("0")
