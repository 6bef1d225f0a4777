"""Damage to files whose structure is text: JSON, YAML, texts."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tools.fuzz.values import JSON, TEXTS, WHOLE_JSON, WHOLE_YAML, YAML

__all__ = ["edited_json", "json_leaf", "odd_word", "other_text", "yaml_leaf"]

_PLACE = "\ue000here\ue000"  # stands for a fragment that json and yaml would not write
_PLACE_TEXT = json.dumps(_PLACE)


def _holders(value: Any) -> list[Any]:
    """All lists and dictionaries that are not empty, outermost first."""
    found, rest = [], [value]
    while rest:
        holder = rest.pop(0)
        if isinstance(holder, (dict, list)) and holder:
            found.append(holder)
            rest += holder.values() if isinstance(holder, dict) else holder
    return found


def _edit(rng: Random, value: Any, fragments: list[str]) -> tuple[str, str]:
    """Change one place in plain values; returns the fragment that `_PLACE` stands for, and words."""
    holders = _holders(value)
    if not holders:
        return "", "nothing to change"
    # large tokenizer files would else be nearly all there is; the first entries are those that decide
    holder = rng.choice(holders[: rng.choice([1, 3, 12, len(holders)])])
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    key = rng.choice(keys)
    how = rng.choice(["put", "put", "put", "delete", "add", "rename", "wrap", "move", "number"])
    fragment = rng.choice(fragments)
    if how == "delete":
        del holder[key]
    elif how == "add":
        if isinstance(holder, dict):
            holder[rng.choice(["", "x", "__class__", "\x1b[31m", "9" * 500, "auto_map", "quantization_config"])] = _PLACE
        else:
            holder.insert(key, _PLACE)
    elif how == "rename" and isinstance(holder, dict):
        holder[rng.choice([f"{key}x", str(key).upper(), "", "../x"])] = holder.pop(key)
    elif how == "wrap":
        holder[key] = rng.choice([[holder[key]], {"a": holder[key]}, [holder[key]] * 3])
    elif how == "move":
        other = rng.choice(keys)
        holder[key], holder[other] = holder[other], holder[key]
    elif how == "number" and isinstance(holder[key], (int, float)):
        holder[key] = rng.choice(
            [-holder[key], holder[key] + 1, holder[key] - 1, holder[key] * 2, holder[key] * 10**6, holder[key] / 2]
        )
    else:
        how, holder[key] = "put", _PLACE
    return fragment, f"{how} {str(key)[:40]!r} {fragment[:40] if how in ('put', 'add') else ''}".strip()


def edited_json(rng: Random, text: bytes) -> tuple[bytes, str]:
    """JSON with one change."""
    if rng.random() < 0.1:
        whole = rng.choice(WHOLE_JSON)
        return whole.encode(), f"whole: {whole[:20]!r}"
    value = json.loads(text)
    fragment, words = _edit(rng, value, JSON)
    written = json.dumps(value)
    if rng.random() < 0.08 and isinstance(value, dict) and value:  # an entry twice: readers keep the last
        key = rng.choice(list(value))
        written, words = f"{written[:-1]}, {json.dumps(key)}: {_PLACE_TEXT}}}", f"twice {key!r} {fragment[:40]}"
    return written.replace(_PLACE_TEXT, fragment).encode("utf-8", "replace"), words


def json_leaf(rng: Random, path: Path) -> str:
    """One entry of a JSON file: another type, another number, gone, renamed, twice."""
    data, words = edited_json(rng, path.read_bytes())
    path.write_bytes(data)
    return words


def yaml_leaf(rng: Random, path: Path) -> str:
    """One entry of a YAML file, or another file altogether."""
    if rng.random() < 0.15:
        whole = rng.choice(WHOLE_YAML)
        path.write_text(whole, encoding="utf-8")
        return f"whole: {whole[:30]!r}"
    value = yaml.safe_load(path.read_text(encoding="utf-8"))
    fragment, words = _edit(rng, value, YAML)
    written = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=1000)
    path.write_text(written.replace(_PLACE, fragment).replace("\ue000", ""), encoding="utf-8")
    return words


def other_text(rng: Random, path: Path) -> str:
    """Another text."""
    text = rng.choice(TEXTS)
    path.write_text(text, encoding="utf-8", newline="")
    return f"{len(text)} characters, {text[:20]!r}"


def odd_word(rng: Random, path: Path) -> str:
    """A piece of another text somewhere in this one."""
    text, piece = path.read_text(encoding="utf-8"), rng.choice(TEXTS)
    place = rng.randrange(len(text) + 1)
    path.write_text(text[:place] + piece + text[place:], encoding="utf-8", newline="")
    return f"{piece[:20]!r} at {place}"
