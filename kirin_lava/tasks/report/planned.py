"""The report of a model whose weights are not at hand: what its config.json and a recipe alone tell, most of it of the chip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import kirin_lava
from kirin_lava.hardware.work import ModelWork, SegmentWork
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models.layout import Config
from kirin_lava.tasks.cost import dry_run
from kirin_lava.tasks.report.gather import FORMAT, PER_TOKEN, by_position, method_part
from kirin_lava.tasks.report.hardware import chip_part

__all__ = ["planned_part"]

_WEIGHTS = {"missing": "only weights tell how large their sums can get, and there are none here"}


def planned_part(
    config: Config, name: str, recipe: Recipe, profiles: Sequence[str] = (), context: int | None = None
) -> dict[str, Any]:
    """As much of the content of a report.json as a dry run tells, and `export`: what an export would take.

    Args:
        name: of the model. profiles, context: see `kirin_lava.tasks.cost.dry_run`.

    Raises:
        UnsupportedError, UsageError, FitError: see `kirin_lava.tasks.cost.dry_run`.
    """
    dry = dry_run(config, recipe, context, profiles)
    shape, work = dry.cost.shape, dry.cost.work
    segments = [_segment_row(row) for row in work.segments]
    total: dict[str, float] = {key: sum(row[key] for row in segments) for key in segments[0] if key.endswith("_per_token")}
    return {
        "format": FORMAT,
        "kirin_lava": kirin_lava.__version__,
        "source": {"name": name},
        "method": method_part(recipe.method),
        "recipe": by_position(recipe.to_dict()) | {"window": max(segment.codes.window for segment in shape.segments)},
        "model": dry.cost.to_dict()["model"],
        "export": dry.export.to_dict(),
        "counts": {"total": total | _between(work)},
        "operations": {
            "core_total": len(shape.segments),
            "host_total": sum(not each.on_chip for each in shape.host),
            "integer_total": sum(each.on_chip for each in shape.host),
        },
        "ranges": _WEIGHTS,
        **chip_part(dry.cost, segments),
        "segments": segments,
    }


def _between(work: ModelWork) -> dict[str, float]:
    """Operations between the segments, by whom they are done."""
    return {
        "host_float_operations_per_token": work.host_operations,
        "integer_operations_per_token": work.integer_operations,
    }


def _segment_row(row: SegmentWork) -> dict[str, Any]:
    """The row of a segment, as a report of a bundle has it, before the chip's part."""
    return {
        "block": row.block,
        "segment": row.name,
        "kind": row.kind,
        "encoding": row.encoding,
        "window": row.window,
        "weight_bits": row.bits,
        **{f"{name}_per_token": getattr(row, name) for name in PER_TOKEN if name != "silent"},
    }
