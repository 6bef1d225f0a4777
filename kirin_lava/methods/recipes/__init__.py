"""The recipes that come with the program: one YAML file each, and what they were measured to cost. Imports nothing heavy.

`measured.json` is written by `python benchmarks/stories260k.py --write`. It knows a recipe by a digest, so that the numbers of
one that was edited since are not shown.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["DEFAULT_RECIPE", "MEASURED", "recipe_digest", "recipe_file", "recipe_help", "recipe_names"]

DEFAULT_RECIPE = "kirin-w4a4-8"
_FOLDER = Path(__file__).parent
MEASURED = _FOLDER / "measured.json"

_ROW = "{:<16} {:>9} {:>2} {:<32}  {}"
_PRICE = "{:>6} {:>5} {:>3} {:>5} {:>5} {:>3}"


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_file(name: str) -> Path:
    """File of a named recipe."""
    return _FOLDER / f"{name}.yaml"


def recipe_digest(name: str) -> str:
    """Hash of what a named recipe computes: of all its entries but its name and description."""
    entries = {key: value for key, value in _entries(name).items() if key not in ("name", "description")}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def recipe_help() -> list[str]:
    """A line per recipe with its price, as wide as a terminal of 80 columns takes, and what the price was measured on."""
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    lines = [_ROW.format("", "bits", "T", _PRICE.format("ratio", "msgs", "syn", "chips", "steps", "s"), "")]
    for name in recipe_names():
        entries, digest = _entries(name), recipe_digest(name)
        runs = {run["recover"]: run for run in measured["runs"] if (run["recipe"], run["digest"]) == (name, digest)}
        known = next(iter(runs.values()), None)
        setting = ("", "") if known is None else (known["setting"], known["window"])
        lines.append(_ROW.format(name, *setting, _price(runs.pop("none", None)), entries["description"]))
        lines += [_ROW.format(f"  + {recover}", *setting, _price(run), "--recover") for recover, run in runs.items()]
    return [line.rstrip() for line in lines] + [
        "",
        "bits: of weights W, and of spikes & messages A; T: steps of a window; ratio:",
        "perplexity against float32; msgs: messages among all codes; syn: bits of a",
        f"synapse; chips: Loihi 2; steps: of a token; s: to convert, {measured['threads']} threads.",
        *_measured_on(measured["runs"]),
    ]


def _measured_on(runs: list[dict[str, Any]]) -> list[str]:
    """On what, most recipes first; the recipes of the others are named."""
    places: dict[str, list[str]] = {}
    for run in runs:
        names = places.setdefault(f"{run['model']} with {run['rows']} rows of {run['text']}", [])
        if run["recipe"] not in names:
            names.append(run["recipe"])
    first, *others = sorted(places, key=lambda place: -len(places[place]))
    return [f"Measured on {first}.", *(f"{', '.join(places[place])}: on {place}." for place in others)]


def _price(run: dict[str, Any] | None) -> str:
    if run is None:
        return "not measured"
    ratio, messages = f"x{run['perplexity_ratio']:.3f}", f"{100 * run['outlier_share']:.1f}%"
    return _PRICE.format(ratio, messages, run["synapse_bits"], run["chips"], f"{run['steps']:.0f}", f"{run['seconds']:.0f}")


def _entries(name: str) -> dict[str, Any]:
    import yaml

    entries: dict[str, Any] = yaml.safe_load(recipe_file(name).read_text(encoding="utf-8"))
    return entries
