"""The tokenizer of a checkpoint: which files make one, and what is said where they do not."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import open_file, require_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["CHAT_FILES", "TOKENIZER_FILES", "load_tokenizer"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
)
CHAT_FILES = ("chat_template.jinja", "chat_template.json")
"""The chat template, where it is not in tokenizer_config.json."""
_READ_TOO = ("config.json", *CHAT_FILES, "processor_config.json")
_MOST = 1 << 28  # bytes; the largest known have 40 MB
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\n")  # a token in base64 and its rank


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved in a folder, from local files alone.

    Raises:
        UsageError: files or packages are missing (which, is said), or a file is damaged, no regular one or too large.
    """
    for name in (*TOKENIZER_FILES, *_READ_TOO):
        if os.path.lexists(path / name):
            require_file(path / name, _MOST)
    _check_complete(path)
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare exceptions for a damaged file
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(f"{path}: the tokenizer cannot be loaded ({reason}); fetch the checkpoint again") from None
    return tokenizer


def _check_complete(path: Path) -> None:
    """Raise `UsageError` where no set of files is there that makes a tokenizer, or a package that reads it is missing."""
    there = {name for name in (*TOKENIZER_FILES, *_READ_TOO, "tekken.json") if os.path.isfile(path / name)}
    if there & {"tokenizer.json", "vocab.txt"} or {"vocab.json", "merges.txt"} <= there:
        return
    if "tokenizer.model" in there:
        with open_file(path / "tokenizer.model") as file:
            if _TIKTOKEN.match(file.read(256)):
                raise UsageError(
                    f"{path / 'tokenizer.model'} is a list of tokens as tiktoken has it, not a sentencepiece model: copy "
                    "tokenizer.json beside it, from the model's repository on the hub"
                )
        missing = [
            name for name, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")) if _lacks(module)
        ]
        if missing:
            raise UsageError(
                f"{path} has its tokenizer in tokenizer.model alone, which the packages sentencepiece and protobuf read, and "
                f"here is no {' and no '.join(missing)}: `pip install {' '.join(missing)}`, or copy tokenizer.json beside it"
            )
        return
    if "spiece.model" in there:
        return
    if "vocab.json" in there or "merges.txt" in there:
        lacking = "merges.txt" if "vocab.json" in there else "vocab.json"
        raise UsageError(
            f"{path}: of the tokenizer, {lacking} is missing; copy it from the model's repository, or tokenizer.json"
        )
    other = " (tekken.json, of Mistral's own package, is not read)" if "tekken.json" in there else ""
    raise UsageError(
        f"{path} has no tokenizer: neither tokenizer.json nor tokenizer.model nor vocab.json with merges.txt is there{other}; "
        "copy these files from the model that it was made from"
    )


def _lacks(module: str) -> bool:
    try:
        return find_spec(module) is None
    except ModuleNotFoundError:  # of the package around it
        return True
