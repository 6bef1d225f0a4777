"""Checkpoints: config, tensors and tokenizer of a pretrained model, read tensor by tensor.

A model is named by a local folder, a GGUF file, a hub id (fetched by huggingface_hub, which honours HF_HOME and
HF_HUB_OFFLINE), one of the embedded models, or one that a package holds. What reads a kind of file is a `TensorSource`; no code
from a checkpoint is ever run.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kirin_lava.base.errors import KirinError, UnsupportedError, UsageError
from kirin_lava.base.readers import check_path, file_sha256, read_json
from kirin_lava.graph.block import STATES
from kirin_lava.models import family_of
from kirin_lava.models.config import Config, ConfigError
from kirin_lava.models.foreign import foreign_file, foreign_names, is_gguf, names_in, only_gguf
from kirin_lava.models.layout import Family
from kirin_lava.models.sentence import sentence_facts
from kirin_lava.models.sources.folder import CONFIG, SINGLE, SafetensorsFolder
from kirin_lava.models.sources.gguf_file import GgufFile
from kirin_lava.models.sources.packaged import PACKAGED, packaged_file
from kirin_lava.models.sources.source import Entry, TensorSource, weights_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EMBEDDED_MODELS", "Checkpoint", "open_checkpoint", "open_config"]

_DATA = Path(__file__).parent / "data"
EMBEDDED_MODELS = {
    "demo": _DATA / "demo-llama",
    "demo-opt": _DATA / "demo-opt",
    "demo-gpt2": _DATA / "demo-gpt2",
    "demo-bert": _DATA / "demo-bert",
}

_HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "vocab*", "merges*"]
_HUB_OTHERS = ["*/*", "consolidated*"]  # the same weights in other layouts


class Checkpoint:
    """An opened checkpoint. Opening reads the headers of all files and checks every name, shape and type.

    Attributes:
        name: what the user called it. revision: commit of a hub model, or None.
        path: the folder or file. source: what reads it. config: its config. family: the one that converts it.

    Raises:
        UsageError: something is missing or damaged. UnsupportedError: a model that cannot be converted.
    """

    def __init__(self, path: Path, name: str, revision: str | None = None):
        self.path, self.name, self.revision = path, name, revision
        self.source = _source(path)
        self.config, self.family = self.source.config, _family(self.source.config, self.source.config_place)
        self.dimensions = self.family.dimensions(self.config)
        self._entries = self.source.entries()
        self._spare = {key for key in self._entries if self.family.spare(self.config, key)}
        self._used = self._check_names()

    def files(self) -> list[Path]:
        """The weight files, in order."""
        return sorted({entry.file for entry in self._entries.values()})

    def sha256(self) -> dict[str, str]:
        """Digest of every weight file and of the config, by file name."""
        return {p.name: file_sha256(p) for p in [*self.source.hashed(), *self.files()]}

    def weights(self) -> dict[str, Any]:
        """Types and bits of the model's tensors; see `weights_of`."""
        return weights_of(self.source.form, self._used)

    def bytes_as_float(self) -> int:
        """Bytes of the model's tensors in float32."""
        return sum(4 * prod(entry.shape) for entry in self._used)

    def load(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor as float32; `UsageError` for a missing, misshapen or damaged one, with its name and place."""
        entry = self._entries[self._find(name, shape)]
        tensor = self.source.read(entry)
        bad = ~torch.isfinite(tensor)
        if bool(bad.any()):
            place = tuple(int(i) for i in bad.nonzero()[0])
            raise UsageError(
                f"{entry.file}: {entry.key}{list(place)} is {float(tensor[place])} as float32, and {int(bad.sum())} of its "
                f"{tensor.numel()} values are NaN or infinite: the model is damaged, use another revision or fetch it again"
            )
        return tensor

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the model beside its dimensions; of a bare encoder how its states become a vector."""
        found = self.family.facts(self.config)
        return found | sentence_facts(self.path) if found.get("head") == STATES else found

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's own tokenizer."""
        return self.source.tokenizer()

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
        tokens, prefix = self.family.tokens, self.family.prefix
        for key, name in self.family.copies:
            if name in asked and key in self._entries and key not in asked:
                shape = self._entries[name].shape
                if self._entries[key].shape != shape or not torch.equal(self.load(key, shape), self.load(name, shape)):
                    raise UnsupportedError(
                        f"{self._entries[key].file} holds {key} and {name}, which differ: versions of transformers take one or "
                        "the other; supported is: one of the two alone"
                    )
        for key in [key for key in self._entries if key.endswith(self.family.lm_head) and key not in asked | self._spare]:
            embedding = next(name for name in (tokens, tokens.removeprefix(prefix), f"{prefix}{tokens}") if name in asked)
            shape = self._entries[embedding].shape
            if self._entries[key].shape != shape or not torch.equal(self.load(key, shape), self.load(embedding, shape)):
                raise UnsupportedError(
                    f"{self._entries[key].file} holds {key}, which differs from {embedding}, though config.json ties them "
                    "(tie_word_embeddings): versions of transformers run different networks; supported is: one of the two "
                    "alone, or tie_word_embeddings: false"
                )

    def _find(self, name: str, shape: tuple[int, ...]) -> str:
        """Key of a tensor's entry; files of a bare decoder lack the prefix of the others, tied ones keep the head alone."""
        family = self.family
        names = [name, name.removeprefix(family.prefix), f"{family.prefix}{name}"]
        names += [n.removesuffix(end) + older for end, older in family.older for n in names if n.endswith(end)]
        if name == family.tokens:
            names.append(family.lm_head)
        key = next((n for n in names if n in self._entries), None)
        if key is None:
            raise UsageError(f"{self.path}: the checkpoint has no tensor {name}; {len(self._entries)} others are there")
        entry = self._entries[key]
        if entry.shape != shape:
            asks = self.source.config_word
            raise UsageError(f"{entry.file}: {entry.key} has shape {entry.shape}, {asks} asks for {shape}")
        if entry.dtype not in self.source.dtypes:
            supported = ", ".join(self.source.dtypes)
            raise UnsupportedError(
                f"{entry.file}: {entry.key} is {entry.dtype}; supported are: {supported}; convert the float checkpoint"
            )
        return key

    def _check_names(self) -> list[Entry]:
        """The tensors of the model: all are there in the right shape, and no layer holds one that would be left out."""
        asked: dict[str, Entry] = {}

        def look(name: str, shape: tuple[int, ...]) -> Tensor:
            key = self._find(name, shape)
            asked[key] = self._entries[key]
            # Matrices need no storage here; families hand vectors on as arrays.
            return torch.empty(shape, device="meta") if len(shape) > 1 else torch.zeros(shape)

        try:
            self.family.rotary(self.config)
            self.family.embedding(self.config, look)
            for index in range(self.dimensions.layers):
                self.family.block(self.config, index, look)
            self.family.head(self.config, look)
        except ConfigError as error:
            raise ConfigError(f"{self.source.config_place}: {error}") from None
        known = {*asked, *self._spare}
        ends = (*self.family.derived, self.family.lm_head, *(copy for copy, _ in self.family.copies))
        for key, entry in self._entries.items():
            if key not in known and not key.endswith(ends):
                raise UnsupportedError(
                    f"{entry.file} holds {entry.key}, which a {self.config['model_type']} model with this "
                    f"{self.source.config_word.split()[-1]} has no place for ({self.dimensions.layers} layers); supported are: "
                    "checkpoints without adapters, quantisation scales, further layers or other heads"
                )
        self._check_head(set(asked))
        return list(asked.values())


def _source(path: Path) -> TensorSource:
    """What reads a folder or a file."""
    if not os.path.isdir(path):
        return GgufFile(path)
    file = only_gguf(path)
    return SafetensorsFolder(path) if file is None else GgufFile(file)


def _family(config: Config, place: str) -> Family:
    """The family that converts a config; errors name where that stands."""
    try:
        return family_of(config)
    except (UsageError, UnsupportedError) as error:
        raise type(error)(f"{place}: {error}") from None


def _checked_config(path: Path) -> Config:
    """The config of a folder or file that a family converts; weights need not be there."""
    source = _source(path)
    _family(source.config, source.config_place)
    return source.config


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Open an embedded or packaged model ("demo", "minilm"; a folder of that name is "./demo"), a folder, a GGUF file or a
    hub id.

    Raises:
        UsageError: not found, not reachable, damaged. UnsupportedError: a model that cannot be converted.
    """
    if model in EMBEDDED_MODELS:
        return Checkpoint(EMBEDDED_MODELS[model], EMBEDDED_MODELS[model].name)
    path = packaged_file(model) if model in PACKAGED else Path(model)
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        return Checkpoint(path, model if model in PACKAGED else path.resolve().name)
    if path.suffix.lower() == ".gguf":
        return Checkpoint(path, path.stem)
    embedded = f"embedded are: {', '.join(EMBEDDED_MODELS)}"
    if os.path.exists(path) or model.startswith((".", "/", "~")) or model.count("/") > 1:
        if os.path.exists(check_path(path)):
            if not is_gguf(path):
                raise foreign_file(path)
            return Checkpoint(path, path.stem)
        raise UsageError(f"{model} does not exist ({embedded})")
    return _fetch(model, revision, embedded)


def open_config(model: str, revision: str | None = None) -> Config:
    """The checked config of a model: of a folder (weights need not be there), an embedded or packaged one, a file (config.json
    or GGUF), or a hub id."""
    path = packaged_file(model) if model in PACKAGED else EMBEDDED_MODELS.get(model, Path(model))
    if os.path.isdir(path) or path.suffix.lower() == ".gguf" or (os.path.isfile(path) and is_gguf(path)):
        return _checked_config(path)
    if os.path.isfile(path):
        config = read_json(path)
        _family(config, str(path))
        return config
    return open_checkpoint(model, revision).config


def _fetch(model: str, revision: str | None, embedded: str) -> Checkpoint:
    """A checkpoint of the hub, from the local cache where it is there."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    try:
        config = Path(huggingface_hub.hf_hub_download(model, CONFIG, revision=revision))
        _family(read_json(config), str(config))  # before gigabytes are fetched
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
