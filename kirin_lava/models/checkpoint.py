"""Checkpoints: a folder of safetensors files and its config, read tensor by tensor.

A model is named by a local folder, a hub id (fetched by huggingface_hub, which honours HF_HOME and HF_HUB_OFFLINE), or one of
the embedded models. Only safetensors are read and no code from a checkpoint is ever run.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import torch
from torch import Tensor

from kirin_lava.base.errors import KirinError, UnsupportedError, UsageError
from kirin_lava.base.readers import check_path, file_sha256, read_json, require_file
from kirin_lava.models import family_of
from kirin_lava.models.config import Config, ConfigError
from kirin_lava.models.foreign import foreign_file, foreign_folder, foreign_names, names_in
from kirin_lava.models.layout import Family
from kirin_lava.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EMBEDDED_MODELS", "Checkpoint", "open_checkpoint", "open_config"]

_DATA = Path(__file__).parent / "data"
EMBEDDED_MODELS = {"demo": _DATA / "demo-llama", "demo-opt": _DATA / "demo-opt"}

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_DTYPES = ("F16", "BF16", "F32", "F64")
_DERIVED = "rotary_emb.inv_freq"  # older Llama files keep it; it follows from the config
_HEAD = "lm_head.weight"
_LFS = b"version https://git-lfs"
_HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "vocab*", "merges*"]
_HUB_OTHERS = ["*/*", "consolidated*"]  # the same weights in other layouts


@dataclass(frozen=True)
class _Entry:
    """Where a tensor lies, as the header of its file says."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str


class Checkpoint:
    """An opened checkpoint folder. Opening reads the headers of all files and checks every name, shape and type.

    Attributes:
        name: what the user called it. revision: commit of a hub model, or None.
        path: the folder. config: its parsed config.json. family: the one that converts it.

    Raises:
        UsageError: something is missing or damaged. UnsupportedError: a model that cannot be converted.
    """

    def __init__(self, path: Path, name: str, revision: str | None = None):
        self.path, self.name, self.revision = path, name, revision
        self.config, self.family = _read_config(path / "config.json")
        self.dimensions = self.family.dimensions(self.config)
        self._entries = {entry.key: entry for file in self._weight_files() for entry in _read_header(file)}
        self._check_index()
        self._check_names()

    def files(self) -> list[Path]:
        """The weight files, in order."""
        return sorted({entry.file for entry in self._entries.values()})

    def sha256(self) -> dict[str, str]:
        """Digest of every weight file and of the config, by file name."""
        return {p.name: file_sha256(p) for p in [self.path / "config.json", *self.files()]}

    def load(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor as float32; `UsageError` for a missing, misshapen or damaged one, with its name and place."""
        entry = self._find(name, shape)
        try:
            with safetensors.safe_open(entry.file, framework="pt") as file:
                tensor: Tensor = file.get_tensor(entry.key).to(torch.float32)
        except (OSError, safetensors.SafetensorError) as error:
            raise UsageError(f"{entry.file}: tensor {entry.key} cannot be read: {error}; fetch the file again") from None
        bad = ~torch.isfinite(tensor)
        if bool(bad.any()):
            place = tuple(int(i) for i in bad.nonzero()[0])
            raise UsageError(
                f"{entry.file}: {entry.key}{list(place)} is {float(tensor[place])} as float32, and {int(bad.sum())} of its "
                f"{tensor.numel()} values are NaN or infinite: the model is damaged, use another revision or fetch it again"
            )
        return tensor

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's own tokenizer."""
        return load_tokenizer(self.path)

    def check_tokens(self, rows: Iterable[Tensor]) -> None:
        """Raise `UsageError` for a token id that the embedding does not have."""
        largest = max((int(row.max()) for row in rows if len(row)), default=0)
        if largest >= self.dimensions.vocabulary:
            raise UsageError(
                f"{self.path}: the tokenizer gives token id {largest}, the model has a vocabulary of "
                f"{self.dimensions.vocabulary}: they do not belong together, fetch the model's own tokenizer"
            )

    def _check_head(self, asked: set[str]) -> None:
        """A head that config.json ties to the embedding is equal to it, where it is in the files as well."""
        for key in [key for key in self._entries if key.endswith(_HEAD) and key not in asked]:
            embedding = next(name for name in asked if name.endswith("embed_tokens.weight"))
            shape = self._entries[embedding].shape
            if self._entries[key].shape != shape or not torch.equal(self.load(key, shape), self.load(embedding, shape)):
                raise UnsupportedError(
                    f"{self._entries[key].file} holds {key}, which differs from {embedding}, though config.json ties them "
                    "(tie_word_embeddings): versions of transformers run different networks; supported is: one of the two "
                    "alone, or tie_word_embeddings: false"
                )

    def _find(self, name: str, shape: tuple[int, ...]) -> _Entry:
        """Entry of a tensor; older files of a bare decoder lack the prefix `model.`, tied ones may keep the head alone."""
        names = [name, name.removeprefix("model."), f"model.{name}"]
        if name.endswith("embed_tokens.weight"):
            names.append("lm_head.weight")
        entry = next((self._entries[n] for n in names if n in self._entries), None)
        if entry is None:
            raise UsageError(f"{self.path}: the checkpoint has no tensor {name}; {len(self._entries)} others are there")
        if entry.shape != shape:
            raise UsageError(f"{entry.file}: {entry.key} has shape {entry.shape}, config.json asks for {shape}")
        if entry.dtype not in _DTYPES:
            raise UnsupportedError(
                f"{entry.file}: {entry.key} is {entry.dtype}; supported are: {', '.join(_DTYPES)}; convert the float checkpoint"
            )
        return entry

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

    def _check_index(self) -> None:
        """A tensor must be in the file that the index gives for it."""
        if os.path.lexists(self.path / SINGLE):
            return
        for name, file in self._index().items():
            if name not in self._entries or self._entries[name].file.name != file:
                raise UsageError(f"{self.path / file} holds no tensor {name}, though {INDEX} says so; fetch both again")

    def _check_names(self) -> None:
        """All tensors of the model are there in the right shape, and no layer holds one that would be left out."""
        asked: set[str] = set()

        def look(name: str, shape: tuple[int, ...]) -> Tensor:
            asked.add(self._find(name, shape).key)
            # Matrices need no storage here; families hand vectors on as arrays.
            return torch.empty(shape, device="meta") if len(shape) > 1 else torch.zeros(shape)

        try:
            self.family.rotary(self.config)
            self.family.embedding(self.config, look)
            for index in range(self.dimensions.layers):
                self.family.block(self.config, index, look)
            self.family.head(self.config, look)
        except ConfigError as error:
            raise ConfigError(f"{self.path / 'config.json'}: {error}") from None
        for key in self._entries:
            if key not in asked and not key.endswith(_DERIVED) and not key.endswith(_HEAD):
                raise UnsupportedError(
                    f"{self._entries[key].file} holds {key}, which a {self.config['model_type']} model with this config.json "
                    f"has no place for ({self.dimensions.layers} layers); supported are: checkpoints without "
                    "adapters, quantisation scales, further layers or other heads"
                )
        self._check_head(asked)


def _read_config(path: Path) -> tuple[Config, Family]:
    """A config.json and the family that converts it; errors name the file, or say what else the folder is."""
    if not os.path.lexists(path):
        found = foreign_folder(path.parent)
        if found is not None:
            raise found
    config = read_json(path)
    try:
        return config, family_of(config)
    except (UsageError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None


def _read_header(path: Path) -> list[_Entry]:
    """What a safetensors file holds. The library checks sizes and offsets against the length of the file."""
    if not str(path).isprintable() and os.fsencode(path).decode(errors="ignore") != str(path):
        raise UsageError(f"{path}: the path is no UTF-8, which safetensors needs; rename the folder")
    require_file(path, pointers=True)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            return [_Entry(path, key, tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()]
    except (OSError, safetensors.SafetensorError) as error:
        with open(path, "rb") as raw:
            pointer = raw.read(len(_LFS)) == _LFS
        way_out = "it is a pointer of git-lfs, run `git lfs pull`" if pointer else "it is damaged, fetch it again"
        raise UsageError(f"{path} cannot be read as safetensors ({error}): {way_out}") from None


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Open an embedded model ("demo", "demo-opt"; a folder of that name is "./demo"), a local folder or a hub id.

    Raises:
        UsageError: not found, not reachable, damaged. UnsupportedError: a model that cannot be converted.
    """
    if model in EMBEDDED_MODELS:
        return Checkpoint(EMBEDDED_MODELS[model], EMBEDDED_MODELS[model].name)
    path = Path(model)
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        return Checkpoint(path, path.resolve().name)
    embedded = f"embedded are: {', '.join(EMBEDDED_MODELS)}"
    if os.path.exists(path) or model.startswith((".", "/", "~")) or model.count("/") > 1:
        if os.path.exists(check_path(path)):
            raise foreign_file(path)
        raise UsageError(f"{model} does not exist ({embedded})")
    return _fetch(model, revision, embedded)


def open_config(model: str, revision: str | None = None) -> Config:
    """The checked config.json of a model: of a folder (weights need not be there), an embedded model, a file, or a hub id."""
    path = EMBEDDED_MODELS.get(model, Path(model))
    if os.path.isdir(path):
        return _read_config(path / "config.json")[0]
    if os.path.isfile(path):
        return _read_config(path)[0]
    return open_checkpoint(model, revision).config


def _fetch(model: str, revision: str | None, embedded: str) -> Checkpoint:
    """A checkpoint of the hub, from the local cache where it is there."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    try:
        config = huggingface_hub.hf_hub_download(model, "config.json", revision=revision)
        _read_config(Path(config))  # before gigabytes are fetched
        folder = huggingface_hub.snapshot_download(
            model, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_OTHERS
        )
        if not any(name.endswith(".safetensors") for name in names_in(Path(folder))):
            raise _foreign_repository(model, revision) or errors.EntryNotFoundError(f"it has no {SINGLE}")
    except errors.HFValidationError:
        raise UsageError(f"{reprlib.repr(model)} is neither a folder here nor a hub id; {embedded}") from None
    except KirinError:
        raise
    except Exception as error:  # requests, httpx and hub errors share no base class
        missing = isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError)
        foreign = _foreign_repository(model, revision) if missing else None
        if foreign is not None:
            raise foreign from None
        if constants.HF_HUB_OFFLINE:
            reason = "it is not in the local cache and HF_HUB_OFFLINE is set: unset it or give a folder"
        elif isinstance(error, errors.GatedRepoError):
            reason = "its authors restrict it: accept their terms on its page and log in with `hf auth login`"
        elif isinstance(error, errors.RepositoryNotFoundError):
            reason = "the hub has no such model that is open to you"
        elif isinstance(error, errors.RevisionNotFoundError):
            reason = f"it has no revision {revision}"
        elif isinstance(error, errors.LocalEntryNotFoundError):
            reason = "it is not in the local cache and the hub cannot be reached"
        else:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"{model} is no folder here and cannot be fetched from the hub: {reason} ({embedded})") from None
    return Checkpoint(Path(folder), model, revision=Path(folder).name)


def _foreign_repository(model: str, revision: str | None) -> KirinError | None:
    """What a repository of the hub seems to be that lacks a config or safetensors; None where that cannot be told."""
    import huggingface_hub

    try:
        siblings = huggingface_hub.model_info(model, revision=revision).siblings or []
    except Exception:  # what it could say is not needed: the error before it stands
        return None
    return foreign_names([file.rfilename for file in siblings if "/" not in file.rfilename], f"{model} (on the hub)")
