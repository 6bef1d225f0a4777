"""A folder of safetensors files with a config.json, as transformers saves it. No code from it is ever run."""

from __future__ import annotations

import os
import reprlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import read_json, require_file
from kirin_lava.models.foreign import foreign_folder
from kirin_lava.models.sources.source import Entry
from kirin_lava.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CONFIG", "SINGLE", "SafetensorsFolder"]

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
_LFS = b"version https://git-lfs"


class SafetensorsFolder:
    """A `TensorSource`.

    Raises:
        UsageError: config.json is missing or damaged. UnsupportedError, UsageError: the folder is something else.
    """

    form = "safetensors"
    config_word = CONFIG
    dtypes: tuple[str, ...] = ("F16", "BF16", "F32", "F64")
    license: str | None = None

    def __init__(self, path: Path):
        self.path = path
        self.config_place = str(path / CONFIG)
        if not os.path.lexists(path / CONFIG):
            found = foreign_folder(path)
            if found is not None:
                raise found
        self.config = read_json(path / CONFIG)

    def entries(self) -> dict[str, Entry]:
        """All tensors, by name; a tensor must be in the file that the index gives for it."""
        found = {entry.key: entry for file in self._weight_files() for entry in _read_header(file)}
        if not os.path.lexists(self.path / SINGLE):
            for name, file in self._index().items():
                if name not in found or found[name].file.name != file:
                    raise UsageError(f"{self.path / file} holds no tensor {name}, though {INDEX} says so; fetch both again")
        return found

    def read(self, entry: Entry) -> Tensor:
        """One tensor as float32."""
        try:
            with safetensors.safe_open(entry.file, framework="pt") as file:
                tensor: Tensor = file.get_tensor(entry.key).to(torch.float32)
        except (OSError, safetensors.SafetensorError) as error:
            raise UsageError(f"{entry.file}: tensor {entry.key} cannot be read: {error}; fetch the file again") from None
        return tensor

    def hashed(self) -> list[Path]:
        """The config."""
        return [self.path / CONFIG]

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The one saved in the folder."""
        return load_tokenizer(self.path)

    def save(self, folder: Path, names: Iterable[str]) -> list[str]:
        """Copies of those that are there."""
        found = [name for name in names if (self.path / name).is_file()]
        for name in found:
            shutil.copyfile(self.path / name, folder / name)
        return found

    def _weight_files(self) -> list[Path]:
        """Files that hold the weights: the single one before the index, as transformers takes them."""
        if os.path.lexists(self.path / SINGLE):  # a link that leads nowhere is told as one
            return [self.path / SINGLE]
        if os.path.lexists(self.path / INDEX):
            return sorted({self.path / file for file in self._index().values()})
        missing = UsageError(f"{self.path}: there is no {SINGLE} and no {INDEX}; fetch the checkpoint again")
        raise foreign_folder(self.path) or missing

    def _index(self) -> dict[str, str]:
        """File name of every tensor of a sharded checkpoint; the files lie beside the index."""
        path = self.path / INDEX
        index = read_json(path).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise UsageError(f"{path} has no weight_map; fetch it again")
        for name, file in index.items():
            if not isinstance(file, str) or file != Path(file).name or not file.endswith(".safetensors"):
                raise UsageError(f"{path}: {name} points to {reprlib.repr(file)}, not to a safetensors file beside it")
            if not os.path.lexists(self.path / file):
                raise UsageError(f"{self.path}: the weight file {file} is missing; fetch the checkpoint again")
        return index


def _read_header(path: Path) -> list[Entry]:
    """What a safetensors file holds. The library checks sizes and offsets against the length of the file."""
    if not str(path).isprintable() and os.fsencode(path).decode(errors="ignore") != str(path):
        raise UsageError(f"{path}: the path is no UTF-8, which safetensors needs; rename the folder")
    require_file(path, pointers=True)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            return [Entry(path, key, tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()]
    except (OSError, safetensors.SafetensorError) as error:
        with open(path, "rb") as raw:
            pointer = raw.read(len(_LFS)) == _LFS
        way_out = "it is a pointer of git-lfs, run `git lfs pull`" if pointer else "it is damaged, fetch it again"
        raise UsageError(f"{path} cannot be read as safetensors ({error}): {way_out}") from None
