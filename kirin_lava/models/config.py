"""Entries of a config.json, checked: it comes with the checkpoint and may hold anything.

An entry that is missing or null takes its default, as in transformers. All errors are `ConfigError`s that name the entry.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any

from kirin_lava.base.errors import UsageError

__all__ = [
    "MOST_POSITIONS",
    "Config",
    "ConfigError",
    "flag",
    "mapping",
    "numbers",
    "positive",
    "real",
    "rope_theta",
    "word",
    "words",
]

Config = dict[str, Any]
"""The parsed config.json of a checkpoint."""


class ConfigError(UsageError):
    """An entry is missing or not what it must be; the message does not name the file, which only the caller knows."""


MOST = 1 << 24
MOST_LAYERS = 1 << 12
MOST_HEAD_WIDTH = 1 << 10  # times 127 * 127 it is still below 2^24: the scores of a head stay exact
MOST_POSITIONS = 1 << 20
"""Larger sizes are damage or an attack: nothing is allocated for them."""


def positive(config: Config, key: str, default: int | None = None, most: int = MOST) -> int:
    """A positive integer; required where there is no default."""
    value = _entry(config, key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise _malformed(key, value, f"an integer from 1 to {most}")
    return value


def real(config: Config, key: str, default: float | None) -> float:
    """A positive finite number; required where there is no default."""
    value = _entry(config, key, default)
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e30
    if not fine or not math.isfinite(value):
        raise _malformed(key, value, "a positive number")
    return float(value)


def flag(config: Config, key: str, default: bool) -> bool:
    """True or false, nothing that only looks like it."""
    value = _entry(config, key, default)
    if not isinstance(value, bool):
        raise _malformed(key, value, "true or false")
    return value


def word(config: Config, key: str, default: str | None = None) -> str:
    """A string; required where there is no default."""
    value = _entry(config, key, default)
    if not isinstance(value, str):
        raise _malformed(key, value, "a string")
    return value


def words(config: Config, key: str) -> list[str]:
    """A list of strings, empty where it is missing."""
    value = _entry(config, key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _malformed(key, value, "a list of strings")
    return value


def numbers(config: Config, key: str) -> list[float]:
    """A list of positive numbers; required."""
    value = _entry(config, key, None)
    if not isinstance(value, list):
        raise _malformed(key, value, "a list of positive numbers")
    return [real({key: item}, key, None) for item in value]


def mapping(config: Config, key: str) -> Config:
    """Entries of their own, empty where they are missing."""
    value = _entry(config, key, {})
    if not isinstance(value, dict):
        raise _malformed(key, value, "an object")
    return value


def rope_theta(config: Config) -> float | None:
    """Base of the rotary frequencies, or None where no entry states it.

    transformers 4 reads it from the top, 5 from `rope_parameters` or `rope_scaling` and, where it is missing there, from the
    top.

    Raises:
        ConfigError: two places that differ, so that each version would run another network; bases per kind of layer.
    """
    found: dict[str, float] = {}
    for place, entries in (("", config), *((key, mapping(config, key)) for key in ("rope_parameters", "rope_scaling"))):
        if place and any(isinstance(value, dict) for value in entries.values()):
            raise ConfigError(f"{place} holds entries per kind of layer; supported is one rotary embedding for all layers")
        if entries.get("rope_theta") is not None:
            found[f"{place}.rope_theta".removeprefix(".")] = real(entries, "rope_theta", 1.0)
    if len(set(found.values())) > 1:
        stated = ", ".join(f"{place} {value:g}" for place, value in found.items())
        raise ConfigError(f"the base of the rotary embedding is stated twice: {stated}; leave in the one it was trained with")
    return next(iter(found.values()), None)


def _entry(config: Config, key: str, default: Any) -> Any:
    value = config.get(key)
    if value is None:
        value = default
    if value is None:
        raise ConfigError(f"there is no {key!r}; a complete Hugging Face config is needed")
    return value


def _malformed(key: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"{key} is {reprlib.repr(value)}, not {wanted}; fetch the checkpoint's own config again")
