"""Entries of a recipe, checked: YAML may have put anything there."""

from __future__ import annotations

import reprlib

from kirin_lava.base.errors import UsageError

__all__ = ["choice", "ratio", "short"]


def short(value: object) -> str:
    """A value for a message; one made of YAML aliases can be larger than the memory when it is written out."""
    return reprlib.repr(value)


def choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise `UsageError` for a value that is none of those allowed."""
    if value not in allowed:
        raise UsageError(f"recipe: {name} is {short(value)}; choose one of {', '.join(map(repr, allowed))}")


def ratio(name: str, value: object) -> None:
    """Raise `UsageError` for anything but a number from 0 to 0.5."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 0.5:
        raise UsageError(f"recipe: {name} is {short(value)}, not a number from 0 to 0.5")
