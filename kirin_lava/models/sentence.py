"""How the states of a text become one vector: what sentence-transformers keeps beside a checkpoint.

    modules.json                  the steps: the encoder, pooling, maybe a normalisation
    1_Pooling/config.json         the pooling: mean of all tokens, or the first token
    sentence_bert_config.json     the longest text

Where these files are not there, states are averaged over the tokens and normalised.
"""

from __future__ import annotations

import os
import reprlib
from pathlib import Path
from typing import Any

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.base.files import inside
from kirin_lava.base.readers import read_json, read_json_list
from kirin_lava.models.config import MOST_POSITIONS, flag, positive

__all__ = ["FIRST", "MEAN", "sentence_facts"]

MEAN, FIRST = "mean", "first"
_MODULES, _LENGTH = "modules.json", "sentence_bert_config.json"
_POOLINGS = {"pooling_mode_mean_tokens": MEAN, "pooling_mode_cls_token": FIRST}
_OTHERS = (
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)


def sentence_facts(path: Path) -> dict[str, Any]:
    """`pooling` (mean or first), `normalize` and, where it is stated, `sentence_tokens`, of a checkpoint.

    Raises:
        UnsupportedError: a pooling or a step that is neither of the above. UsageError: a damaged file.
    """
    found: dict[str, Any] = {"pooling": MEAN, "normalize": True}
    if os.path.isfile(path / _LENGTH):
        entries = read_json(path / _LENGTH)
        if entries.get("max_seq_length") is not None:
            found["sentence_tokens"] = positive(entries, "max_seq_length", most=MOST_POSITIONS)
    if not os.path.isfile(path / _MODULES):
        return found
    found["normalize"] = False
    for step, folder in _steps(path / _MODULES):
        if step == "Pooling":
            found["pooling"] = _pooling(inside(path, f"{folder}/config.json"))
        elif step == "Normalize":
            found["normalize"] = True
        elif step != "Transformer":
            raise UnsupportedError(
                f"{path / _MODULES} has a step {reprlib.repr(step)}; supported are: Transformer, Pooling, Normalize"
            )
    return found


def _steps(path: Path) -> list[tuple[str, str]]:
    """Kind and folder of every step."""
    steps = read_json_list(path)
    found = []
    for step in steps:
        kind, folder = (step.get(key) for key in ("type", "path")) if isinstance(step, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise UsageError(f"{path}: a step is {reprlib.repr(step)}; fetch the file again")
        found.append((kind.rpartition(".")[2], folder))
    return found


def _pooling(path: Path) -> str:
    entries = read_json(path)
    others = [name for name in _OTHERS if flag(entries, name, False)]
    chosen = [pooling for name, pooling in _POOLINGS.items() if flag(entries, name, False)]
    if others or len(chosen) != 1:
        named = ", ".join([*others, *chosen]) or "none"
        raise UnsupportedError(f"{path} pools by {named}; supported is one of: {', '.join(_POOLINGS)}")
    return chosen[0]
