"""Values of report.json as they are shown: keys, formats, and the one function that turns a value into text.

A key is a path such as `evaluation.perplexity` or `counts.core.3.spikes`. Whatever a page, a figure or a card shows is
`show(resolve(report, key), form)` for the key and format that stand beside it, so every number of them can be looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = ["FORMS", "UNKNOWN", "present", "resolve", "show"]

UNKNOWN = "unknown"

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))


def resolve(report: Any, key: str) -> Any:
    """The value at a path of names and list positions; None where the path ends early."""
    value = report
    for part in key.split("."):
        if isinstance(value, list):
            value = value[int(part)] if part.isdigit() and int(part) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            return None
    return value


def show(value: Any, form: str = "plain") -> str:
    """A value as text.

    Args:
        form: one of `FORMS`, with a unit behind a colon where the form takes one: `si:J`.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return UNKNOWN
    name, _, unit = form.partition(":")
    text = FORMS[name](value)
    return f"{text}{unit}" if name == "si" else f"{text} {unit}" if unit else text


def present(report: Any, key: str) -> bool:
    """Whether a part is there: a part that cannot be had is absent or `{"missing": reason}`."""
    found = resolve(report, key)
    return found is not None and not (isinstance(found, dict) and "missing" in found)


def _si(value: float) -> str:
    if value == 0:
        return "0 "
    size, prefix = next(((s, p) for s, p in _PREFIXES if abs(value) >= s * 0.9995), _PREFIXES[-1])
    scaled = value / size
    digits = max(0, 2 - math.floor(math.log10(abs(scaled) * 1.0005)))
    return f"{scaled:.{digits}f} {prefix}"


FORMS: dict[str, Callable[[Any], str]] = {
    "plain": str,
    "block": lambda v: str(v).replace("blocks.", "block "),
    "code": lambda v: f"code {v}",
    "int": lambda v: f"{round(v):,}",
    "one": lambda v: f"{v:,.1f}",
    "two": lambda v: f"{v:,.2f}",
    "four": lambda v: f"{v:,.4f}",
    "times4": lambda v: f"{v:.4f} ×",
    "times": lambda v: f"{v:.2f} ×" if abs(v) < 100 else f"{v:,.0f} ×",
    "whole percent": lambda v: f"{100 * v:.0f} %",
    "percent": lambda v: f"{100 * v:.1f} %",
    "percent2": lambda v: f"{100 * v:.2f} %",
    "si": _si,
    "price": lambda v: f"{v:.4g}",
    "span": lambda v: f"{v[0]:,} to {v[1]:,}",
    "bytes": lambda v: f"{_si(v)}B",
    "short": lambda v: str(v)[:16],
    "yes": lambda v: "yes" if v else "no",
    "list": lambda v: ", ".join(str(x) for x in v) if v else "none",
    "shares": lambda v: ", ".join(f"{entry['name']} {100 * entry['value']:g}\u00a0%" for entry in v) if v else "none",
}
"""Formats by name."""
