"""HDF5 files, written from memory and read without trust.

A reader of foreign or damaged files gets arrays of the type and shape it asked for, or a `UsageError` that names file, dataset
and problem. Links out of the file, virtual and external datasets, and datasets far larger than the bytes behind them are
refused before anything is allocated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import KirinError, UsageError
from kirin_lava.base.readers import require_file

__all__ = ["Container", "save"]

Array = npt.NDArray[Any]

_MAX_BYTES = 1 << 30
_MAX_RATIO = 2048  # deflate gets to 1032 : 1
_SMALL = 1 << 20  # bytes, allocated without asking for the ratio
_CHUNK = (64, 4096)
_MOST_MEMBERS = 4096  # of a group
_LONGEST_TEXT = 4096  # letters; types and names of layers have ten
_COMPRESSED = 4096  # bytes; below, the index of the chunks would be larger than what it saves


def save(path: Path, datasets: Mapping[str, Array], attributes: Mapping[str, Mapping[str, str | int]]) -> None:
    """Write an HDF5 file.

    The image is made in memory first: on a full disk the HDF5 library would keep a broken file open.

    Args:
        path: the file.
        datasets: arrays by name; all but small ones are chunked and compressed.
        attributes: of groups, by group.

    Raises:
        OSError: as the system says it.
    """
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        for name, array in datasets.items():
            if array.ndim and array.nbytes >= _COMPRESSED:
                chunks = tuple(max(1, min(pair)) for pair in zip(array.shape, _CHUNK, strict=False))
                file.create_dataset(name, data=array, chunks=chunks, compression="gzip", compression_opts=6)
            else:
                file.create_dataset(name, data=array)
        for group, values in attributes.items():
            for key, value in values.items():
                file[group].attrs[key] = np.bytes_(value.encode()) if isinstance(value, str) else np.int64(value)
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(image)


class Container:
    """An HDF5 file to read from. Use as a context manager.

    Raises:
        UsageError: the file is missing or is no HDF5 file; so do all methods for what they cannot read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        require_file(path)
        try:
            self._file = h5py.File(path, "r")
        except BlockingIOError:
            raise UsageError(
                f"{path}: another program has it open for writing (HDF5 locks it); close it there, or set "
                "HDF5_USE_FILE_LOCKING=FALSE where nothing writes to it"
            ) from None
        except Exception as error:
            raise UsageError(f"{path}: is no HDF5 file, or a damaged one ({_first_line(error)})") from error

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        # a damaged file may refuse even this
        with contextlib.suppress(Exception):
            self._file.close()

    def error(self, name: str, problem: str) -> UsageError:
        """The error that says what is wrong with a dataset or group."""
        return UsageError(f"{self.path}: {name}: {problem}")

    def keys(self, name: str) -> list[str]:
        """Names of the members of a group, none where there is no such group."""
        with self._reading(name):
            node = self._find(name)
            if isinstance(node, h5py.Group) and len(node) > _MOST_MEMBERS:
                raise self.error(name, f"has {len(node)} members, at most {_MOST_MEMBERS} are read")
            names = list(node) if isinstance(node, h5py.Group) else []
            if not all(isinstance(member, str) for member in names):
                raise self.error(name, "has a member whose name is no text")
            return sorted(names)

    def has(self, name: str) -> bool:
        """Whether there is such a dataset or group."""
        with self._reading(name):
            return self._find(name) is not None

    def is_text(self, name: str) -> bool:
        """Whether a dataset holds strings."""
        with self._reading(name):
            return self._dataset(name).dtype.kind in "SO"

    def array(self, name: str, kinds: str, shape: tuple[int | None, ...] | None = None) -> Array:
        """A dataset.

        Args:
            name: its path.
            kinds: NumPy kinds or type strings it may have, separated by spaces: `"i u f"`, `"int8"`.
            shape: lengths of its axes, None for any; None for any shape.
        """
        with self._reading(name):
            dataset = self._dataset(name)
            dtype, found = dataset.dtype, dataset.shape
            if dtype.kind not in kinds.split() and dtype.str.lstrip("<|") not in kinds.split():
                raise self.error(name, f"has type {dtype}, not {kinds.replace(' ', ' or ')}")
            if found is None or (shape is not None and not _matches(found, shape)):
                wanted = None if shape is None else tuple("any" if n is None else n for n in shape)
                raise self.error(name, f"has shape {found}, not {wanted}")
            self._check_size(name, dataset)
            return np.asarray(dataset[()])

    def text(self, name: str) -> str:
        """A dataset that holds one string: a scalar, or the first of a row as netx reads it."""
        with self._reading(name):
            dataset = self._dataset(name)
            if dataset.dtype.kind not in "SO" or dataset.shape is None or len(dataset.shape) > 1 or dataset.size == 0:
                raise self.error(name, f"has type {dataset.dtype} and shape {dataset.shape}, not one string")
            self._check_length(name, dataset.dtype.itemsize)
            self._check_size(name, dataset)
            value = dataset[()] if not dataset.shape else dataset[0]
            return self._decoded(name, value)

    def attribute(self, group: str, key: str) -> str | int:
        """An attribute that is a string or an integer."""
        name = f"{group} attribute {key}"
        with self._reading(name):
            node = self._find(group)
            if node is None or key not in node.attrs:
                raise self.error(name, "is missing")
            attribute = node.attrs.get_id(key)
            if attribute.shape != () or attribute.dtype.kind not in "iuSO":
                raise self.error(name, f"has type {attribute.dtype} and shape {attribute.shape}, not one string or integer")
            self._check_length(name, attribute.dtype.itemsize)
            value = node.attrs[key]
            return int(value) if attribute.dtype.kind in "iu" else self._decoded(name, value)

    def _decoded(self, name: str, value: Any) -> str:
        if not isinstance(value, (str, bytes)):
            raise self.error(name, f"is a {type(value).__name__}, not a string")
        self._check_length(name, len(value))  # of a string of any length, only now
        return value if isinstance(value, str) else value.decode("utf-8")

    def _check_length(self, name: str, length: int) -> None:
        if length > _LONGEST_TEXT:
            raise self.error(name, f"is a string of {length} letters, at most {_LONGEST_TEXT} are read")

    def _find(self, name: str) -> Any:
        """The group or dataset of a path, without following a link; None where it is missing."""
        node: Any = self._file
        for part in name.split("/"):
            # asked at the lower level, because even `part in node` would open the target of an external link
            if not isinstance(node, h5py.Group) or not node.id.links.exists(part.encode()):
                return None
            if node.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
                raise self.error(name, f"{part} is a link to somewhere else, which is not followed")
            node = node[part]
        return node

    def _dataset(self, name: str) -> Any:
        node = self._find(name)
        if node is None:
            raise self.error(name, "is missing")
        if not isinstance(node, h5py.Dataset):
            raise self.error(name, "is no dataset")
        if node.is_virtual or node.external:
            raise self.error(name, "keeps its data in another file")
        return node

    def _check_size(self, name: str, dataset: Any) -> None:
        """Refuse what would fill the memory: sizes beyond any segment, and sizes that the bytes on disk cannot justify."""
        chunk = int(np.prod(dataset.chunks, dtype=np.float64)) if dataset.chunks else 0
        elements = int(np.prod(dataset.shape, dtype=np.float64))
        stored = dataset.id.get_storage_size()
        size = max(elements, chunk) * dataset.dtype.itemsize
        if size > min(_MAX_BYTES, max(_SMALL, _MAX_RATIO * stored)):
            raise self.error(name, f"claims {size} bytes (shape {dataset.shape}) with {stored} stored")

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except KirinError:
            raise
        except Exception as error:  # the HDF5 library raises whatever it likes on damaged bytes
            raise self.error(name, f"cannot be read ({_first_line(error)})") from error


def _matches(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(found) == len(shape) and all(wanted in (None, size) for size, wanted in zip(found, shape, strict=True))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
