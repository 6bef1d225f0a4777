"""What a checkpoint asks of a kind of file, and what is said of the types that its weights had."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from kirin_lava.models.config import Config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Entry", "TensorSource", "bits_of", "told", "weights_of"]

_FLOAT_BITS = 16  # fewer are a rounding of their own, which every later comparison inherits


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies, as the header of its file says. key: its name there. dtype: in the words of the file."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str


class TensorSource(Protocol):
    """A checkpoint on disk. Making one reads no more than its config; all errors are `KirinError`s of one line.

    Attributes:
        form: the kind of file, in a word. path: the folder or file that the user named.
        config: entries as a config.json has them. config_place, config_word: where they stand, for messages.
        dtypes: types that can be read, in the words of the file.
        license: what the source states about itself, or None.
    """

    form: str
    path: Path
    config: Config
    config_place: str
    config_word: str
    dtypes: tuple[str, ...]
    license: str | None

    def entries(self) -> dict[str, Entry]:
        """Every tensor by the name that it has in transformers; names and places are checked."""

    def read(self, entry: Entry) -> Tensor:
        """One tensor as float32, in the shape of its entry."""

    def hashed(self) -> list[Path]:
        """Files beside the weights whose content decides what is converted."""

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's own tokenizer."""

    def save(self, folder: Path, names: Iterable[str]) -> list[str]:
        """Write those of the named files (config, generation config, tokenizer) that the source has; returns their names."""


def bits_of(dtype: str) -> int:
    """Bits of one value in a type, without shared scales: F32 32, BF16 16, Q4_1 4, IQ2_XXS 2."""
    found = re.search(r"\d+", dtype)
    assert found is not None, dtype
    return int(found.group())


def weights_of(form: str, entries: Iterable[Entry]) -> dict[str, Any]:
    """What the manifest says of the tensors of a model: the form of the file, how many of each type, bits of the matrices."""
    found = list(entries)
    bits = [bits_of(entry.dtype) for entry in found if len(entry.shape) > 1]
    types = dict(sorted(Counter(entry.dtype for entry in found).items(), key=lambda item: (-item[1], item[0])))
    return {"form": form, "types": types, "bits": [min(bits), max(bits)]}


def told(weights: dict[str, Any]) -> str:
    """The same in words, as in "weights were rounded to 4 bits before (GGUF; Q4_1: 210 tensors, F32: 61)"."""
    (first, count), *others = weights["types"].items()
    types = ", ".join([f"{first}: {count} tensors" if count != 1 else f"{first}: 1 tensor", *(f"{n}: {c}" for n, c in others)])
    least, most = weights["bits"]
    if least >= _FLOAT_BITS:
        return f"float weights ({weights['form']}; {types})"
    bits = f"{least}" if least == most else f"{least} to {most}"
    return f"weights were rounded to {bits} bits before ({weights['form']}; {types})"
