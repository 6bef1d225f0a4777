"""Files that are whole or not there: everything is written beside its place, flushed to the disk and renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import check_path, require_file

__all__ = [
    "disk_errors",
    "flush_folder",
    "inside",
    "load_arrays",
    "require_place",
    "save_arrays",
    "save_json",
    "save_text",
    "whole_file",
]

_LONGEST_NAME = 1024


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; renamed to it at the end, removed on an error."""
    temporary = check_path(path).with_name(f".{path.name}.part")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failing write does not know it
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turns errors of the file system (disk full, no permission) into a `UsageError` that names the place."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"writing {error.filename or where} failed: {error.strerror or error}") from error


def require_place(path: Path) -> None:
    """Raise `UsageError` before the work where its result could not be written to `path`."""
    with disk_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        with open(path.with_name(f".{path.name}.part"), "wb") as file:
            os.unlink(file.name)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk before what follows."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_text(path: Path, text: str) -> None:
    """Write a UTF-8 file; what UTF-8 cannot hold (bytes of a file name that are no text) is escaped as JSON does it."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def save_json(path: Path, value: Any) -> None:
    """Write JSON, the same bytes for the same value."""
    save_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def save_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write arrays as safetensors."""
    # save_file would keep the file from everybody but its owner, whatever the umask says
    image = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())})
    with whole_file(path) as temporary:
        temporary.write_bytes(image)


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read arrays; `UsageError` for a missing or damaged file."""
    try:
        require_file(path)
    except UsageError as error:
        raise UsageError(f"{error}; export again") from None
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        # a type that NumPy lacks makes it look for one, hence the last but one
        raise UsageError(f"{path} cannot be read: {error}; export again") from None


def inside(folder: Path, name: object) -> Path:
    """The file `name` in `folder`; `UsageError` for a name that leads out of it or through a link."""
    if not isinstance(name, str) or not name:
        raise UsageError(f"{folder}: {reprlib.repr(name)} is no file name")
    path = folder / name
    try:
        if len(name) < _LONGEST_NAME and folder.resolve() in path.resolve().parents:
            return path
    except (OSError, ValueError, RuntimeError):  # too long, a zero byte, a circle of links
        raise UsageError(f"{folder}: {reprlib.repr(name)} cannot be a file") from None
    raise UsageError(f"{folder}: {reprlib.repr(name)} leads out of the bundle")
