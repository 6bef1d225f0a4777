"""Sizes in words, in the unit that fits the number."""

from __future__ import annotations

__all__ = ["in_bytes"]

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def in_bytes(size: float) -> str:
    """ "0 bytes", "512 bytes", "1.46 kB", "12.3 MB", "412 GB": three digits, and nothing but nothing is 0."""
    power = 0
    while power < len(_UNITS) - 1 and size >= (999.5 if power else 1000):
        size, power = size / 1000, power + 1
    if power == 0:
        return "1 byte" if round(size) == 1 else f"{size:.0f} bytes"
    return f"{size:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f} {_UNITS[power]}"
