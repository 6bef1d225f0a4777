"""How a file from outside is opened and read: one gate, one reader for JSON, one for YAML.

Nothing is believed before it is checked. A path may be a pipe that never answers, a device that never ends, a pointer that
git-lfs left behind; JSON and YAML may be nested without end, hold numbers of a million digits, or aliases that grow beyond
the memory. All of these become a `UsageError` of one line that names the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kirin_lava.base.errors import UsageError
from kirin_lava.base.terminal import plain_line
from kirin_lava.base.units import in_bytes

if TYPE_CHECKING:
    import yaml

__all__ = [
    "MOST_JSON",
    "MOST_TEXT",
    "MOST_YAML",
    "check_path",
    "file_sha256",
    "open_file",
    "parse_json",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "read_json_list",
    "read_text",
    "read_yaml",
    "require_file",
]

MOST_JSON, MOST_YAML, MOST_TEXT = 1 << 28, 1 << 16, 1 << 31
"""Bytes: larger than any manifest, recipe and calibration text."""
_LARGE, _MOST_HOLES = 1 << 30, 64
"""Bytes of a file that may be read for hours, and how many times more than is stored (a disk may compress)."""
_MOST_DEPTH = 100
_MOST_DIGITS = 40  # transformers writes 10^30 for "no limit"
_LONGEST_NAME, _LONGEST_PATH, _MOST_FOLDERS = 255, 4000, 200  # bytes, bytes, and folders one in another
_LFS = b"version https://git-lfs"
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


# ---- the gate ---------------------------------------------------------------------------------------------------------


def check_path(path: Path) -> Path:
    """The path itself, if a file system can have it.

    Raises:
        UsageError: a zero byte, a name of more than 255 bytes, a path of more than 4,000 bytes or 200 folders.
    """
    raw = os.fsencode(path)
    longest = max(raw.split(b"/"), key=len)
    problem = None
    if b"\0" in raw:
        problem = "it holds a zero byte"
    elif len(longest) > _LONGEST_NAME:
        problem = f"a name in it has {len(longest)} bytes, a file system takes {_LONGEST_NAME}"
    elif len(path.parts) > _MOST_FOLDERS:
        problem = f"it has {len(path.parts)} folders one in another, at most {_MOST_FOLDERS} are taken"
    elif len(raw) > _LONGEST_PATH:
        problem = f"it has {len(raw)} bytes, at most {_LONGEST_PATH} are taken"
    if problem is not None:
        raise UsageError(f"{plain_line(str(path))} cannot be a path: {problem}; give a shorter or another one")
    return path


def require_file(path: Path, most: int | None = None, pointers: bool = False) -> int:
    """Size in bytes of a regular file, or of the one that a link leads to.

    Args:
        most: bytes that it may have at most; None for any number.
        pointers: whether the pointer of git-lfs is fine, because the caller tells it by itself.

    Raises:
        UsageError: not there, not a regular file (a folder, pipe, socket, device), too large, a large one that is hardly more
            than holes, not readable, or a pointer.
    """
    with open_file(path, most, pointers) as file:
        return os.fstat(file.fileno()).st_size


def open_file(path: Path, most: int | None = None, pointers: bool = False) -> BinaryIO:
    """A regular file, opened for reading bytes; arguments and errors are those of `require_file`."""
    check_path(path)
    try:
        _check_kind(path, os.stat(path))  # before it is opened: a device may act on that
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # what became a pipe meanwhile does not wait
        file = os.fdopen(descriptor, "rb")
    except FileNotFoundError:
        gone = "leads nowhere" if os.path.islink(path) else "does not exist"
        raise UsageError(f"{path} {gone}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be opened: {error.strerror or error}") from None
    try:
        found = os.fstat(file.fileno())
        _check_kind(path, found)
        if most is not None and found.st_size > most:
            raise UsageError(f"{path} has {in_bytes(found.st_size)}, at most {in_bytes(most)} are read: is it the right file?")
        stored = found.st_blocks * 512
        if found.st_size > _LARGE and found.st_size > _MOST_HOLES * stored:
            sizes = f"{in_bytes(found.st_size)}, of which the disk holds {in_bytes(stored)}"
            raise UsageError(f"{path} claims {sizes}: it has more holes than content, fetch it again or write it anew")
        if not pointers and found.st_size < 1024:
            if file.read(len(_LFS)) == _LFS:
                raise UsageError(f"{path} is a pointer of git-lfs, not the file itself: run `git lfs pull`")
            file.seek(0)
    except OSError as error:
        file.close()
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: Path, most: int) -> bytes:
    """All bytes of a regular file of at most `most`; `UsageError` as in `require_file`."""
    with open_file(path, most) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > most:  # it says it is smaller, as files of /proc do, or it grows
        raise UsageError(f"{path} has more than {in_bytes(most)}: is it the right file?")
    return content


def file_sha256(path: Path) -> str:
    """Hex digest of a regular file, read in pieces; `UsageError` as in `require_file`."""
    digest = hashlib.sha256()
    with open_file(path, pointers=True) as file:
        try:
            while piece := file.read(1 << 20):
                digest.update(piece)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """UTF-8 text, with or without a byte order mark, of any system's line ends; `UsageError` where the file holds none."""
    try:
        text = read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} cannot be read as UTF-8 text: {error}; save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for test, words in _KINDS.items() if test(found.st_mode)), "something else")
        raise UsageError(f"{path} is {kind}, not a regular file")


# ---- JSON -------------------------------------------------------------------------------------------------------------


def read_json(path: Path, most: int = MOST_JSON) -> dict[str, Any]:
    """A JSON object from a file; `UsageError` names the file and what is wrong with it."""
    return parse_json(_json_text(path, most), str(path))


def read_json_list(path: Path, most: int = MOST_JSON) -> list[Any]:
    """A JSON array from a file; errors as of `read_json`."""
    value = _json_value(_json_text(path, most), str(path))
    if not isinstance(value, list):
        raise UsageError(f"{path} holds no JSON array: it begins with [ and ends with ]")
    _check_values(value, str(path))
    return value


def _json_text(path: Path, most: int) -> str:
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from None


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object; `UsageError` begins with `where`.

    Refused are numbers that JSON does not have (NaN, Infinity, 1e999), numbers of more than 40 digits, and values nested more
    than 100 deep.
    """
    value = _json_value(text, where)
    if not isinstance(value, dict):
        raise UsageError(f"{where} holds no JSON object")
    _check_values(value, where)
    return value


def _json_value(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text, parse_int=_integer, parse_float=_real, parse_constant=_Odd)
    except RecursionError:
        raise UsageError(f"{where} cannot be read as JSON: it is nested too deep") from None
    except ValueError as error:  # UnicodeDecodeError among them
        raise UsageError(f"{where} cannot be read as JSON: {error}") from None


class _Odd:
    """In the place of a number that is not taken, until it is known where it stands."""

    def __init__(self, text: str, problem: str = "which is no number of JSON") -> None:
        self.said = f"{text}, {problem}"


def _integer(text: str) -> int | _Odd:
    return (
        int(text) if len(text) <= _MOST_DIGITS else _Odd(f"a number of {len(text)} digits", f"at most {_MOST_DIGITS} are read")
    )


def _real(text: str) -> float | _Odd:
    value = float(text)
    return value if math.isfinite(value) else _Odd(plain_line(text), "which is beyond the range of numbers")


def _check_values(value: Any, where: str) -> None:
    """Level by level, without recursion."""
    level: list[tuple[str, Any]] = [("", value)]
    for _ in range(_MOST_DEPTH):
        deeper = []
        for place, holder in level:
            for key, item in holder.items() if isinstance(holder, dict) else enumerate(holder):
                if isinstance(item, (dict, list)):
                    deeper.append((f"{place}{str(key)[:80]}.", item))
                elif isinstance(item, _Odd):
                    raise UsageError(f"{where}: {plain_line(f'{place}{key}')} is {item.said}")
        if not deeper:
            return
        level = deeper
    raise UsageError(f"{where} cannot be read as JSON: it is nested more than {_MOST_DEPTH} deep")


# ---- YAML -------------------------------------------------------------------------------------------------------------


def read_yaml(path: Path, most: int = MOST_YAML) -> Any:
    """Plain values from a YAML file; None for an empty one. `UsageError` names the file and what is wrong with it."""
    try:
        return parse_yaml(read_bytes(path, most).decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} cannot be read as YAML: {error}") from None


def parse_yaml(text: str, where: str) -> Any:
    """Plain values of one YAML document: mappings, lists, texts, numbers, truth values, null. Dates stay texts.

    Raises:
        UsageError: begins with `where`; damage, a tag of another type, an alias or merge key, an entry that is there twice, a
            number that is not finite or has more than 40 digits, values nested more than 100 deep.
    """
    import yaml

    try:
        return yaml.load(text, _loader())  # a SafeLoader: no tag makes an object
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark is not None else ""
        raise UsageError(f"{where} cannot be read as YAML: {place}{plain_line(error.problem or str(error))}") from None
    except RecursionError:
        raise UsageError(f"{where} cannot be read as YAML: it is nested too deep") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise UsageError(f"{where} cannot be read as YAML: {plain_line(str(error))}") from None


def _loader() -> type[yaml.SafeLoader]:
    """The loader, a class; made when YAML is needed, so that the help does not wait for it."""
    from kirin_lava.base.yaml_loader import Loader

    return Loader
