"""What a verification covered: an entry of the manifest tells, unit by unit, and later ones of the same content add to it.

    {"digest", "compared", "mismatches", "damaged", "backends", "milliseconds_per_step",
     "covered": {"what": "segments", "of": 121, "each": "windows", "units": {"blocks.0.attn.qkv": [16, 76800, 0], ..}}}

A unit is a segment or a block, with how many windows or tokens it was run on, how many integers were compared, and how many
differ. An entry without `covered` is of a verification of everything.
"""

from __future__ import annotations

from typing import Any

__all__ = ["complete", "covers", "merged", "words"]

Entry = dict[str, Any]


def complete(entry: Entry) -> bool:
    """Whether it covers every unit."""
    covered = entry.get("covered")
    return covered is None or len(covered["units"]) == covered["of"]


def covers(covered: Any) -> bool:
    """Whether a value, which may come from a file, has the form of a `covered`."""
    if covered is None:
        return True
    if not isinstance(covered, dict) or not isinstance(covered.get("units"), dict):
        return False
    plain = isinstance(covered.get("what"), str) and isinstance(covered.get("each"), str)
    numbers = [covered.get("of"), *(n for unit in covered["units"].values() for n in (unit if _is_unit(unit) else [None]))]
    return plain and all(type(n) is int and n >= 0 for n in numbers) and len(covered["units"]) <= covered["of"]


def _is_unit(unit: Any) -> bool:
    """Whether it is a list of three."""
    return isinstance(unit, list) and len(unit) == 3


def merged(before: Entry | None, now: Entry) -> Entry:
    """An entry with what an earlier one of the same content, on the same backends, covered and this one did not. A unit that
    was run on more before keeps what was found then, unless something differs now."""
    earlier, covered = (before or {}).get("covered"), now.get("covered")
    if before is None or earlier is None or covered is None or before["backends"] != now["backends"]:
        return now
    units = dict(earlier["units"])
    for name, (each, compared, mismatches) in covered["units"].items():
        if name not in units or each >= units[name][0] or mismatches:
            units[name] = [each, compared, mismatches]
    totals = {"compared": sum(unit[1] for unit in units.values()), "mismatches": sum(unit[2] for unit in units.values())}
    return {**now, **totals, "covered": {**covered, "units": units}}


def words(entry: Entry) -> str:
    """ "12 of 121 segments, 16 windows each"; "all" where an entry does not say."""
    covered = entry.get("covered")
    if covered is None:
        return "all"
    each = sorted({unit[0] for unit in covered["units"].values()})
    span = "" if not each else f", {each[0]}{f' to {each[-1]}' if len(each) > 1 else ''} {covered['each']} each"
    return f"{len(covered['units'])} of {covered['of']} {covered['what']}{span}"
