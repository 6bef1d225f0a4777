"""Folders and repositories that hold a model in another form: what it is, and the way to one that can be read."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from kirin_lava.base.errors import KirinError, UnsupportedError, UsageError
from kirin_lava.base.readers import open_file, read_json

__all__ = ["foreign_file", "foreign_folder", "foreign_names", "is_gguf", "names_in", "only_gguf"]

_SAVE = "load it with transformers and save it anew (`from_pretrained`, then `save_pretrained`), which writes safetensors"
_OTHERS = {".bin": "a pickle", ".pt": "a pickle", ".pth": "a pickle", ".ckpt": "a pickle"}
_OURS = ("model.safetensors", "model.safetensors.index.json")
_FRAMEWORKS = {".h5": "weights of TensorFlow", ".msgpack": "weights of Flax", ".onnx": "an ONNX graph"}


def names_in(folder: Path) -> list[str]:
    """Names of what lies in a folder, sorted; `UsageError` where that cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise UsageError(f"{folder} cannot be listed: {error.strerror or error}") from None


def foreign_folder(folder: Path) -> KirinError | None:
    """As `foreign_names`, of a folder; an adapter's base model is named, too."""
    names = names_in(folder)
    base = ""
    if "adapter_config.json" in names:
        try:
            base = str(read_json(folder / "adapter_config.json").get("base_model_name_or_path") or "")
        except UsageError:  # the adapter is told by its name
            base = ""
    return foreign_names(names, str(folder), base)


def foreign_names(names: Collection[str], where: str, base: str = "") -> KirinError | None:
    """What a folder without a `model.safetensors`, or without a config.json, seems to be; None where nothing tells.

    Args:
        names: of its files. where: it, for the message. base: the base model of an adapter, where that is known.
    """
    found = sorted(names)
    gguf = [name for name in found if name.lower().endswith(".gguf")]
    adapter = [name for name in found if name.startswith(("adapter_config.", "adapter_model."))]
    native = [name for name in found if name.startswith("consolidated")]
    if "manifest.json" in found or "journal.json" in found:
        return UsageError(f"{where} is a bundle, not a checkpoint: give the model that it was made from")
    if adapter:
        of = f" of {base}" if base else ""
        return UnsupportedError(
            f"{where} holds an adapter{of} (LoRA or the like: {adapter[0]}), not a whole model: merge it into its base model "
            "with peft (`merge_and_unload`, then `save_pretrained`) and give that folder"
        )
    if gguf:
        return _gguf(where, gguf)
    if native and ("params.json" in found or "tekken.json" in found):
        return UnsupportedError(
            f"{where} has its authors' own layout (params.json, {native[0]}), which is not read: give the checkpoint as "
            "transformers has it (on the hub, the repository with config.json and model.safetensors; of Llama, a name with "
            "-hf), or convert it with transformers' convert_llama_weights_to_hf.py"
        )
    for name in found:
        suffix = os.path.splitext(name)[1]
        if suffix in _OTHERS and not name.startswith("training_args"):
            return UsageError(
                f"{where}: there is no model.safetensors, and {name} is {_OTHERS[suffix]}, which is never opened: save it as "
                f"safetensors where you trust it: {_SAVE}"
            )
        if suffix in _FRAMEWORKS:
            return UsageError(
                f"{where}: there is no model.safetensors, and {name} holds {_FRAMEWORKS[suffix]}, which are not read: {_SAVE}"
            )
    if "snapshots" in found:
        return UsageError(f"{where} is a model in the hub's cache: give a folder in {where}/snapshots, or the model's hub id")
    return None


def foreign_file(path: Path) -> KirinError:
    """What to say of a file in the place of a checkpoint that is no GGUF file."""
    return UsageError(f"{path} is a file; give the folder of the checkpoint, or a GGUF file")


def is_gguf(path: Path) -> bool:
    """Whether a file is meant for one, by its name or its first letters; `UsageError` where it is no regular file."""
    if path.suffix.lower() == ".gguf":
        return True
    with open_file(path, pointers=True) as file:
        return file.read(4) == b"GGUF"


def only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds one and no other model; None where it holds none, several, or others too."""
    names = names_in(folder)
    found = [name for name in names if name.lower().endswith(".gguf")]
    return folder / found[0] if len(found) == 1 and not _beside(names) and not set(_OURS) & set(names) else None


def _beside(names: Collection[str]) -> list[str]:
    """What makes a folder with a GGUF file more than that: adapters, bundles, weights in other forms."""
    marks = ("adapter_config.", "adapter_model.", "consolidated", "manifest.json", "journal.json")
    suffixes = {*_OTHERS, *_FRAMEWORKS}
    others = [name for name in names if os.path.splitext(name)[1] in suffixes and not name.startswith("training_args")]
    return sorted({*others, *(name for name in names if name.startswith(marks))})


def _gguf(where: str, files: list[str]) -> KirinError:
    if where.endswith("(on the hub)"):
        return UnsupportedError(f"{where} holds a model in GGUF form ({_some(files)}): fetch one file and give it (-m FILE)")
    beside = " beside other models" if len(files) == 1 else ""
    return UsageError(
        f"{where} holds no model.safetensors, but {_some(files)}{beside}: give the file that is meant "
        f"(-m {os.path.join(where, files[0])})"
    )


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
