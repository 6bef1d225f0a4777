"""A GGUF file as the source of a checkpoint: weights as llama.cpp stores them, quantised or not, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import save_json
from kirin_lava.base.readers import open_file
from kirin_lava.models.sources.gguf_config import config_of, generation_of, hf_name, is_turned
from kirin_lava.models.sources.gguf_header import GgufTensor, read_gguf
from kirin_lava.models.sources.gguf_tokens import tokenizer_of
from kirin_lava.models.sources.source import Entry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["GgufFile"]

_PIECE = 1 << 22  # values that are made float at a time
_PLAIN = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
_DTYPES = (
    *("F16", "F32", "F64", "BF16", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4"),
)
"""What the library makes float."""


class GgufFile:
    """A `TensorSource`. Opening reads and checks the head of the file; no tensor is read.

    Raises:
        UsageError, UnsupportedError: see `read_gguf` and `config_of`.
    """

    form = "GGUF"
    config_word = "its metadata"
    dtypes: tuple[str, ...] = _DTYPES
    license: str | None

    def __init__(self, path: Path):
        self.path = path
        self.config_place = str(path)
        self._header = read_gguf(path)
        self.config = config_of(self._header)
        self.license = self._header.text("general.license") or None

    def entries(self) -> dict[str, Entry]:
        """All tensors, by their names in transformers."""
        return {hf_name(t.name): Entry(self.path, t.name, t.shape, t.dtype) for t in self._header.tensors.values()}

    def read(self, entry: Entry) -> Tensor:
        """One tensor as float32; of llama files, the rows of q and k in the order of transformers."""
        tensor = self._header.tensors[entry.key]
        rows = torch.empty(prod(tensor.shape[:-1]), tensor.shape[-1])
        step = max(1, _PIECE // tensor.shape[-1])
        width = tensor.size // len(rows)
        with open_file(self.path) as file:
            try:
                file.seek(tensor.start)
                for start in range(0, len(rows), step):
                    part = rows[start : start + step]
                    part.copy_(torch.from_numpy(self._floats(file.read(len(part) * width), tensor, tuple(part.shape))))
            except OSError as error:
                raise UsageError(f"{self.path}: tensor {tensor.name} cannot be read: {error.strerror or error}") from None
        found = rows.reshape(tensor.shape)
        return self._paired(found) if is_turned(self._header, tensor.name) else found

    def hashed(self) -> list[Path]:
        """None: all is in the one file."""
        return []

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Made from the metadata."""
        return tokenizer_of(self._header)

    def save(self, folder: Path, names: Iterable[str]) -> list[str]:
        """The config, ids of special tokens, and the tokenizer with its chat template."""
        save_json(folder / "config.json", self.config)
        save_json(folder / "generation_config.json", generation_of(self._header))
        written = {"config.json", "generation_config.json"}
        # The template goes into tokenizer_config.json: a bundle has no other place for it.
        written |= {Path(path).name for path in self.tokenizer().save_pretrained(str(folder), save_jinja_files=False)}
        return [name for name in names if name in written and (folder / name).is_file()]

    def _floats(self, data: bytes, tensor: GgufTensor, shape: tuple[int, ...]) -> np.ndarray:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        if len(data) * prod(tensor.shape) != tensor.size * prod(shape):
            raise UsageError(f"{self.path}: tensor {tensor.name} ends early: the file has changed, fetch it again")
        with np.errstate(all="ignore"):  # what is not finite is found, and told with its place, by whoever asked
            if tensor.dtype in _PLAIN:
                return np.frombuffer(data, _PLAIN[tensor.dtype]).reshape(shape).astype(np.float32)
            packed = np.frombuffer(data, np.uint8).reshape(shape[0], -1)
            found: np.ndarray = dequantize(packed, GGMLQuantizationType[tensor.dtype])
            return found.reshape(shape)

    def _paired(self, rows: Tensor) -> Tensor:
        """Rows of q or k, head by head, from neighbours (0, 1), (2, 3), ... to halves (0, d/2), (1, d/2 + 1), ...

        A rotary embedding turns pairs of rows. llama.cpp pairs neighbours, transformers row i with row i + d/2.
        """
        width = self.config["head_dim"]
        if not isinstance(width, int) or width <= 0 or width % 2 or len(rows) % width:
            raise UsageError(f"{self.path}: {len(rows)} rows of q or k are no heads of an even width {width}")
        heads = rows.reshape(len(rows) // width, width // 2, 2, *rows.shape[1:])
        return heads.transpose(1, 2).reshape(rows.shape)
