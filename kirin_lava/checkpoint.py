"""Checkpoints: a folder of safetensors files and its config, read tensor by tensor.

A model is named by a local folder, a hub id (fetched by huggingface_hub, which honours HF_HOME and HF_HUB_OFFLINE), or one of
the embedded models. Only safetensors are read and no code from a checkpoint is ever run.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from torch import Tensor

from kirin_lava.errors import UnsupportedError, UsageError
from kirin_lava.models import family_of
from kirin_lava.models.layout import Config, Family

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EMBEDDED_MODELS", "Checkpoint", "file_sha256", "load_tokenizer", "open_checkpoint"]

_DATA = Path(__file__).parent / "data"
EMBEDDED_MODELS = {"demo": _DATA / "demo-llama", "demo-opt": _DATA / "demo-opt"}

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "vocab*", "merges*"]


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; `UsageError` names the file and what is wrong with it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no JSON object")
    return value


class Checkpoint:
    """An opened checkpoint folder.

    Attributes:
        name: what the user called it. revision: commit of a hub model, or None.
        path: the folder. config: its parsed config.json. family: the one that converts it.
    """

    def __init__(self, path: Path, name: str, revision: str | None = None):
        if not path.is_dir():
            raise UsageError(f"{path} is not a folder")
        self.path, self.name, self.revision = path, name, revision
        self.config: Config = read_json(path / "config.json")
        self.family: Family = family_of(self.config)
        self.dimensions = self.family.dimensions(self.config)
        self._files = self._tensor_files()

    def files(self) -> list[Path]:
        """The weight files, in order."""
        return sorted(set(self._files.values()))

    def sha256(self) -> dict[str, str]:
        """Digest of every weight file and of the config, by file name."""
        return {p.name: file_sha256(p) for p in [self.path / "config.json", *self.files()]}

    def load(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor as float32; `UsageError` for a missing, misshapen or damaged one, with its name and place."""
        for candidate in (name, name.removeprefix("model."), f"model.{name}"):
            if candidate in self._files:
                break
        else:
            raise UsageError(f"{self.name}: the checkpoint has no tensor {name!r}; {len(self._files)} others are there")
        path = self._files[candidate]
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(candidate)
        except (OSError, safetensors.SafetensorError) as error:
            raise UsageError(f"{path}: tensor {candidate!r} cannot be read: {error}") from None
        if tuple(tensor.shape) != shape:
            raise UsageError(f"{self.name}: {candidate} has shape {tuple(tensor.shape)}, config.json asks for {shape}")
        if not tensor.is_floating_point():
            raise UnsupportedError(f"{self.name}: {candidate} is {tensor.dtype}; only float checkpoints are converted")
        tensor = tensor.to(torch.float32)
        bad = ~torch.isfinite(tensor)
        if bool(bad.any()):
            place = tuple(int(i) for i in bad.nonzero()[0])
            count = int(bad.sum())
            raise UsageError(f"{self.name}: {candidate}{list(place)} is {float(tensor[place])}; {count} such values in it")
        return tensor

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's own tokenizer."""
        return load_tokenizer(self.path)

    def _tensor_files(self) -> dict[str, Path]:
        """File of every tensor, by name; names in an index must be plain file names."""
        if (self.path / INDEX).exists():
            index = read_json(self.path / INDEX).get("weight_map")
            if not isinstance(index, dict) or not index:
                raise UsageError(f"{self.path / INDEX} has no weight_map")
            for name, file in index.items():
                if not isinstance(file, str) or file != Path(file).name or not file.endswith(".safetensors"):
                    raise UsageError(f"{self.path / INDEX}: {name} points to {file!r}, not to a safetensors file beside it")
                if not (self.path / file).is_file():
                    raise UsageError(f"{self.path}: the weight file {file} is missing; fetch the checkpoint again")
            return {name: self.path / file for name, file in index.items()}
        single = self.path / SINGLE
        if not single.is_file():
            others = sorted(p.name for p in self.path.glob("*.bin")) + sorted(p.name for p in self.path.glob("*.pt*"))
            hint = f" ({others[0]} is a pickle, which is never opened: save it as safetensors)" if others else ""
            raise UsageError(f"{self.path}: no {SINGLE} or {INDEX}{hint}")
        try:
            with safetensors.safe_open(single, framework="pt") as file:
                return dict.fromkeys(file.keys(), single)
        except (OSError, safetensors.SafetensorError) as error:
            raise UsageError(f"{single} is damaged: {error}") from None


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Open a local folder, an embedded model ("demo", "demo-opt") or a hub id, in this order.

    Raises:
        UsageError: not found, not reachable, damaged. UnsupportedError: a model that cannot be converted.
    """
    path = Path(model)
    if path.is_dir():
        return Checkpoint(path, path.resolve().name)
    if model in EMBEDDED_MODELS:
        return Checkpoint(EMBEDDED_MODELS[model], EMBEDDED_MODELS[model].name)
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UsageError(f"{model} is not a folder with a checkpoint")
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        config = huggingface_hub.hf_hub_download(model, "config.json", revision=revision)
        family_of(read_json(Path(config)))  # before gigabytes are fetched
        folder = Path(huggingface_hub.snapshot_download(model, revision=revision, allow_patterns=_HUB_FILES))
    except HFValidationError:
        raise UsageError(f"{model!r} is neither a folder nor a hub id; embedded are: {', '.join(EMBEDDED_MODELS)}") from None
    except Exception as error:  # requests, httpx and hub errors share no base class
        if isinstance(error, (UsageError, UnsupportedError)):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"{model!r} is no folder here and could not be fetched from the hub: {reason} "
            f"(embedded are: {', '.join(EMBEDDED_MODELS)})"
        ) from None
    return Checkpoint(folder, model, revision=folder.name)


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved in a folder, from local files alone."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare exceptions for a damaged file
        raise UsageError(f"{path}: the tokenizer cannot be loaded: {error}") from None
    return tokenizer
