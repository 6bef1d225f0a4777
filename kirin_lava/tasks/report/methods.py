"""All methods on the model of a report: the table that `kirin-lava compare --methods --json` printed, read from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import read_json
from kirin_lava.tasks.quality.contenders import TWIN
from kirin_lava.tasks.quality.plot_methods import Point

__all__ = ["methods_part", "points_of"]

_JOULES = "joules, "
_NUMBERS = ("perplexity_ratio", "kl", "top1_agreement")
_COUNTS = ("window", "steps_per_token", "synapse_bits", "float_operations", "integers_verified")


def methods_part(path: Path, source: dict[str, Any]) -> dict[str, Any]:
    """The part `methods` of a report: what was compared on which text, a row a recipe with its twin's joules, and reasons.

    Args:
        path: what `compare --methods --json` printed. source: of the report's model, from its manifest.

    Raises:
        UsageError: the file is none of these, or of another model.
    """
    found = read_json(path)
    try:
        part: dict[str, Any] = {name: str(found[name]) for name in ("model", "text", "protocol")}
        part |= {name: int(found[name]) for name in ("rows", "tokens")}
        lines = found["contenders"]
        prices = next(key for line in lines for key in line if key.startswith(_JOULES))
        part["prices"] = prices.removeprefix(_JOULES)
        part["left_out"] = [
            {"name": str(row["name"]), "reason": str(row["reason"])} for row in lines if row["reason"] is not None
        ]
        part["contenders"] = []
        for line in lines:
            if line["method"] == TWIN:
                part["contenders"][-1]["twin_joules"] = _number(line[prices])
            elif line["reason"] is None:
                row = {"name": str(line["name"]), "method": str(line["method"]), "joules": _number(line[prices])}
                row |= {name: float(line[name]) for name in _NUMBERS} | {name: _number(line[name]) for name in _COUNTS}
                part["contenders"].append({**row, "twin_joules": None})
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} is no table of methods ({type(error).__name__}: {error}): `kirin-lava compare --methods --json` prints one"
        ) from None
    names = {Path(source[key]).name for key in ("model", "name")}
    if Path(part["model"]).name not in names:
        raise UsageError(f"{path} compares methods on {part['model']!r}, and this is a report of {source['model']!r}")
    return part


def points_of(part: dict[str, Any]) -> list[Point]:
    """What is drawn of it: recipes that have a price."""
    return [
        Point(
            row["name"],
            row["method"],
            100 * (row["perplexity_ratio"] - 1),
            1e6 * row["joules"],
            None if row["twin_joules"] is None else 1e6 * row["twin_joules"],
        )
        for row in part["contenders"]
        if row["joules"] is not None
    ]


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
