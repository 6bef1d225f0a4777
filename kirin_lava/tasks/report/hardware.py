"""The chip's part of a report: limits, placement, steps, time and energy, from `kirin_lava.hardware`, ready to be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kirin_lava.graph.block import Model
from kirin_lava.graph.counts import Stats
from kirin_lava.hardware.observe import RangeObserver
from kirin_lava.hardware.placement import Placement
from kirin_lava.hardware.ranges import CALIBRATED, PROVED, UNFIT, SegmentRange, model_ranges
from kirin_lava.hardware.shapes import shape_of_model
from kirin_lava.hardware.work import measured_work
from kirin_lava.methods.method import Method
from kirin_lava.tasks.cost import Cost, cost_of

__all__ = ["chip_part", "hardware_part"]


def hardware_part(
    model: Model,
    stats: Stats,
    observed: RangeObserver,
    text: str,
    segments: list[dict[str, Any]],
    profiles: Sequence[str] = (),
    method: Method | None = None,
    context: int | None = None,
) -> dict[str, Any]:
    """Ranges, placement, steps, timing, traffic and energy of a model that was run.

    Args:
        stats, observed: of the run. text: what it was run on.
        segments: rows of the report, one per segment in order; they get what is known of each.
        profiles, method: see `kirin_lava.tasks.cost.cost_of`.
        context: positions that the caches must hold and that sums are bounded for, see
            `kirin_lava.hardware.placement.planned_context`.
    """
    shape = shape_of_model(model)
    cost = cost_of(shape, measured_work(stats, shape, text), context, profiles, method)
    ranges = model_ranges(model, observed, cost.placement.context)
    for row, fit in zip(segments, ranges, strict=True):
        bounds = fit.to_dict()["bounds"]
        tightest = _tightest(bounds)
        row |= {
            "guarantee": fit.guarantee,
            "tightest": None if tightest is None else bounds[tightest]["quantity"],
            "margin_bits": None if tightest is None else bounds[tightest]["margin_bits"],
        }
    return {"ranges": _ranges(ranges), **chip_part(cost, segments)}


def chip_part(cost: Cost, segments: list[dict[str, Any]]) -> dict[str, Any]:
    """Placement, steps, timing, traffic and energy; the rows of the segments, in order, get what is known of each."""
    parts = zip(segments, cost.placement.segments, cost.time.stages, cost.traffic.segments, strict=True)
    for row, placed, stage, sent in parts:
        row |= {
            "neurons": placed.neurons,
            "fan_in": placed.fan_in,
            "cores": placed.cores,
            "memory_bytes": placed.synapse_bytes + placed.cache_bytes,
            "seconds_bound": stage.seconds,
            "limited_by": stage.limited_by,
            "from_host_bits_per_token": sent.from_host_bits,
            "on_chip_bits_per_token": sent.on_chip_bits,
            "between_chips_bits_per_token": sent.between_chips_bits,
            "to_host_bits_per_token": sent.to_host_bits,
        }
    return {
        "placement": _placement(cost.placement),
        "steps": [row.to_dict() for row in cost.steps],
        "timing": cost.time.to_dict(),
        "traffic": cost.traffic.to_dict(),
        "energy": _energy(cost, segments),
    }


def _energy(cost: Cost, segments: list[dict[str, Any]]) -> dict[str, Any]:
    """All profiles; what ours takes per segment goes to the rows."""
    profiles = []
    for table in cost.energy:
        profile = table.to_dict()
        for column in profile["columns"]:
            joules = column.pop("segments")
            if column["network"] == "ours" and joules is not None:
                for row, each in zip(segments, joules.values(), strict=True):
                    row[f"joules_{table.profile.name}"] = each
        profiles.append(profile)
    return {
        "source": cost.work.source,
        "profiles": profiles,
        "priced": len(profiles),
        "twin_wins": sum(_total(profile, "integer") < _total(profile, "ours") for profile in profiles),
        "paper": cost.paper.to_dict(),
    }


def _total(profile: dict[str, Any], network: str) -> float:
    """Joules per token, infinite for a network that the platform cannot run."""
    total = next(column["total"] for column in profile["columns"] if column["network"] == network)
    return math.inf if total is None else float(total)


def _tightest(bounds: list[dict[str, Any]]) -> int | None:
    """Position of the state that comes nearest to its limit in the worst case."""
    states = [(index, bound) for index, bound in enumerate(bounds) if bound["limit_name"] == "STATE_MAX"]
    known = [(bound["margin_bits"], index) for index, bound in states if bound["margin_bits"] is not None]
    return min(known)[1] if known else None


def _ranges(ranges: list[SegmentRange]) -> dict[str, Any]:
    rows = []
    for fit in ranges:
        row = fit.to_dict()
        states = [bound for bound in row["bounds"] if bound["quantity"] in ("v", "membrane")]
        seen = [abs(value) for bound in states for value in bound["calibrated"] or ()]
        row |= {
            "tightest": _tightest(row["bounds"]),
            "limit": states[0]["limit"][1],
            "worst": max(abs(value) for bound in states for value in bound["worst"]),
            "seen": max(seen, default=None),
        }
        rows.append(row)
    words = [fit.guarantee for fit in ranges]
    return {
        "segments": rows,
        "proved": words.count(PROVED),
        "calibrated": words.count(CALIBRATED),
        "does_not_fit": words.count(UNFIT),
    }


def _placement(placement: Placement) -> dict[str, Any]:
    """Its numbers, and for the map what each core holds most of."""
    kinds = {(placed.block, placed.name): placed.kind for placed in placement.segments}
    held = []
    for core in placement.cores:
        task = max(core.tasks, key=lambda task: core.tasks[task])
        kind = "attention" if kinds.get(task) in ("score", "mix") else "linear" if task in kinds else "integer"
        kind = "head" if task[0] == "head" and task in kinds else kind
        known = {each: n for each, n in core.tasks.items() if each in kinds}
        tasks = [{"block": block, "segment": name, "neurons": n} for (block, name), n in known.items()]
        held.append({"block": task[0], "segment": task[1], "kind": kind, "tasks": tasks})
    plain = placement.to_dict()
    return plain | {"held": held, "share_of_chips": plain["cores"] / (plain["chips"] * plain["cores_per_chip"])}
