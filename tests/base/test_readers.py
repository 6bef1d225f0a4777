"""One gate for files, one reader for JSON, one for YAML: what they refuse, in one line that names the file."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kirin_lava.base import readers
from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import (
    check_path,
    file_sha256,
    parse_json,
    parse_yaml,
    read_json,
    read_text,
    read_yaml,
    require_file,
)
from kirin_lava.hardware.profile import load_profile
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.tasks.report.card import source_license

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # such names are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def holes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (a_pipe, "is a pipe, not a regular file"),
    "socket": (a_socket, "is a socket, not a regular file"),
    "folder": (Path.mkdir, "is a folder, not a regular file"),
    "device without end": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a regular file"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "leads nowhere"),
    "link to itself": (lambda path: path.symlink_to(path.name), "cannot be opened: "),
    "nothing": (lambda path: None, "does not exist"),
    "holes": (holes, " 1.10 TB, "),
    "pointer": (lambda path: path.write_bytes(POINTER), "is a pointer of git-lfs, not the file itself: run `git lfs pull`"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "text": read_text,
    "json": read_json,
    "yaml": read_yaml,
    "hash": file_sha256,
    "gate": require_file,
    "recipe": lambda path: load_recipe(str(path)),
    "profile": lambda path: load_profile(str(path)),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_regular_file(tmp_path: Path, kind: str, reader: str) -> None:
    path = tmp_path / "odd.yaml"
    make, message = NO_FILES[kind]
    make(path)
    if (reader, kind) == ("hash", "pointer"):
        assert len(file_sha256(path)) == 64  # what was copied is compared, whatever it is
        return
    if reader in ("recipe", "profile") and (not os.path.exists(path) or path.is_dir()):
        message = f"no {'recipe' if reader == 'recipe' else 'energy profile'} "
    with pytest.raises(UsageError) as caught:
        READERS[reader](path)
    said = str(caught.value)
    assert message in said and "odd.yaml" in said and "\n" not in said


def test_what_nobody_may_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("{}")
    path.chmod(0)
    if os.geteuid() != 0:  # root may
        with pytest.raises(UsageError, match="cannot be opened: Permission denied"):
            read_json(path)


def test_sizes_that_no_such_file_has(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    for reader in (read_json, read_yaml, read_text):
        with pytest.raises(UsageError, match=r"huge\.json has 1\.10 TB, at most .* are read: is it the right file"):
            reader(path)
    endless = Path("/proc/self/maps")  # says that it has no bytes
    with pytest.raises(UsageError, match="has more than 100 bytes"):
        readers.read_bytes(endless, 100)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x" * 300, "a name in it has 300 bytes"),
        ("ü" * 150, "a name in it has 300 bytes"),
        ("a/" + "x" * 256, "a name in it has 256 bytes"),
        ("a\0b", "it holds a zero byte"),
        ("a/" * 2000 + "a", "it has 2001 folders one in another"),
        (("x" * 200 + "/") * 30, "it has 6029 bytes"),
    ],
)
def test_paths_that_no_system_has(path: str, message: str) -> None:
    for reader in (check_path, require_file, read_json, read_text, file_sha256):
        with pytest.raises(UsageError, match=message) as caught:
            reader(Path(path))
        assert len(str(caught.value)) < 500
    assert check_path(Path("x" * 255)) == Path("x" * 255)


JSON: list[tuple[str, str]] = [
    ('{"a": {"b": NaN}}', "w: a.b is NaN, which is no number of JSON"),
    ('{"a": [1, -Infinity]}', "w: a.1 is -Infinity, which"),
    ('{"a": 1e999}', "w: a is 1e999, which is beyond the range of numbers"),
    ('{"a": 1' + "0" * 6000 + "}", "w: a is a number of 6001 digits, at most 40 are read"),
    ('{"a": ' + "[" * 120 + "]" * 120 + "}", "w cannot be read as JSON: it is nested more than 100 deep"),
    ("[" * 100_000, "w cannot be read as JSON: it is nested too deep"),
    ('{"a": 1', "w cannot be read as JSON: Expecting"),
    ("", "w cannot be read as JSON: Expecting value"),
    ("[]", "w holds no JSON object"),
]


@pytest.mark.parametrize(("text", "message"), JSON, ids=[str(i) for i in range(len(JSON))])
def test_hostile_json(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_json(text, "w")
    assert str(caught.value).startswith(message) and len(str(caught.value)) < 200


def finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return all(map(finite, values))


@given(st.text(alphabet="{}[]:,-?!&*<>|'\"%@`#\n\t abe019.~_xo+=", max_size=60))
def test_any_text_is_plain_values_or_one_line(text: str) -> None:
    """Seeded by the profile of the tests."""
    for parse in (parse_json, parse_yaml):
        value, said = None, "w"
        try:
            value = parse(text, "w")
        except UsageError as error:
            said = str(error)
        assert finite(value) and said.startswith("w") and "\n" not in said


def test_dates_are_texts_and_yes_is_yes() -> None:
    values = parse_yaml("a: 2024-02-30\nb: 2024-01-01 10:00:00\nc: yes\nd: 0x10\ne: 1.5\nf: ~\ng: [1, x]\nh: =", "w")
    assert values == {
        "a": "2024-02-30",
        "b": "2024-01-01 10:00:00",
        "c": True,
        "d": 16,
        "e": 1.5,
        "f": None,
        "g": [1, "x"],
        "h": "=",
    }


def test_texts_keep_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(path) == "one\ntwo\nthree\n"
    path.write_bytes(b"\xff\xfea\0")
    with pytest.raises(UsageError, match=r"a\.txt cannot be read as UTF-8 text: .*; save it as UTF-8"):
        read_text(path)


def test_a_bomb_takes_no_memory() -> None:
    """In a process of its own, with 300 MB above what it has at its start."""
    code = (
        "import resource\n"
        "from kirin_lava.base.errors import UsageError\n"
        "from kirin_lava.base.readers import parse_yaml\n"
        "import kirin_lava.base.yaml_loader\n"
        "have = int(open('/proc/self/statm').read().split()[0]) * 4096 + (300 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (have, have))\n"
        "bomb = 'a0: &a0 {x: 1, y: 2}\\n' + ''.join(\n"
        "    f'a{i}: &a{i} {{<<: [' + ', '.join([f'*a{i - 1}'] * 40) + ']}\\n' for i in range(1, 9))\n"
        "for text in (bomb, '[' * 100_000, '- ' * 60_000, '{a: ' * 30_000, '? ' * 60_000, '[1, 2]: 1\\n' * 9_999):\n"
        "    try:\n        parse_yaml(text, 'w')\n    except UsageError as error:\n        assert len(str(error)) < 300\n"
        "print('done')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.stderr) == ("done\n", "")


@pytest.mark.parametrize(
    ("front", "license_"),
    [
        ("license: mit", "mit"),
        ("license: 2024-99-99", "2024-99-99"),
        ("license: &a mit\nother: *a", None),
        ("license: " + "9" * 6000, None),
        ("license: [mit]", None),
        ("x: " + "y" * 200_000 + "\nlicense: mit", None),
    ],
)
def test_front_matter_of_a_card(tmp_path: Path, front: str, license_: str | None) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    assert source_license(str(tmp_path)) == license_


def test_more_values_than_any_recipe_has() -> None:
    with pytest.raises(UsageError, match=r"line \d+: it has more than 10000 values"):
        parse_yaml("".join(f"k{i}: {{a: [1, 2, 3]}}\n" for i in range(3000)), "w")
    assert len(parse_yaml("".join(f"blocks.{i}.attn.q: 0.25\n" for i in range(2000)), "w")) == 2000
