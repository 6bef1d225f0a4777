"""Everything that a model costs, in one object: placement, traffic, steps, time bound, energy, the paper's claim.

For a converted model the work per token is measured on text; for a config.json alone it is assumed. Either way the result says
that the model is feasible in this program's model of the chip, not that it was compiled for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kirin_lava.hardware.energy import EnergyTable, PaperView, energy_table, paper_view
from kirin_lava.hardware.estimate import ExportEstimate, export_estimate
from kirin_lava.hardware.fit import SegmentFit
from kirin_lava.hardware.placement import Placement, place, planned_context
from kirin_lava.hardware.profile import load_profile, profile_names
from kirin_lava.hardware.ranges import PROVED, UNFIT
from kirin_lava.hardware.shapes import ModelShape
from kirin_lava.hardware.timing import StepRow, TimeBound, step_rows, time_bound
from kirin_lava.hardware.traffic import ModelTraffic, traffic
from kirin_lava.hardware.work import ModelWork, assumed_work
from kirin_lava.methods.method import Method
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models.layout import Config
from kirin_lava.quantize.without_weights import fit_of_config, shape_of_config

__all__ = ["Cost", "DryRun", "cost_of", "dry_run"]


@dataclass(frozen=True, eq=False)
class Cost:
    """See the parts' own docstrings. energy: one table per profile."""

    shape: ModelShape
    work: ModelWork
    placement: Placement
    traffic: ModelTraffic
    steps: tuple[StepRow, ...]
    time: TimeBound
    energy: tuple[EnergyTable, ...]
    paper: PaperView

    def to_dict(self) -> dict[str, Any]:
        """Plain values. The shape's parts are in those of the others."""
        return {
            "feasibility": "model-feasible, not compiler-verified",
            "physical_fit_verified": False,
            "model": {
                "model_type": self.shape.model_type,
                "layers": self.shape.layers,
                "segments": len(self.shape.segments),
                "weights": self.shape.weights(),
                "host_parameters": self.shape.host_parameters(),
            },
            "work": self.work.to_dict(),
            "placement": self.placement.to_dict(),
            "traffic": self.traffic.to_dict(),
            "steps": [row.to_dict() for row in self.steps],
            "time": self.time.to_dict(),
            "energy": [table.to_dict() for table in self.energy],
            "paper": self.paper.to_dict(),
        }


@dataclass(frozen=True, eq=False)
class DryRun:
    """What a conversion would give and take, without any weights.

    Attributes:
        fit: of every segment, for sequences of `positions`.
    """

    cost: Cost
    export: ExportEstimate
    fit: tuple[SegmentFit, ...]
    positions: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        words = [row.guarantee for row in self.fit]
        ranges = {
            "positions": self.positions,
            "fits": UNFIT not in words,
            "proved": words.count(PROVED),
            "segments": [row.to_dict() for row in self.fit],
        }
        return {**self.cost.to_dict(), "ranges": ranges, "export": self.export.to_dict()}


def cost_of(
    shape: ModelShape,
    work: ModelWork,
    context: int | None = None,
    profiles: Sequence[str] = (),
    method: Method | None = None,
) -> Cost:
    """The cost of a model.

    Args:
        work: of a token, see `kirin_lava.hardware.work`.
        context: positions that the caches on chip must hold, see `kirin_lava.hardware.placement.planned_context`.
        profiles: names or YAML files; empty for all that come with the program.
        method: that converted the model: its other windows and the claims of its paper stand beside the model's.

    Raises:
        FitError: no core can hold a segment. UsageError: a bad profile.
    """
    placement = place(shape, context)
    bound = time_bound(work, placement)
    chosen = [load_profile(name) for name in profiles or profile_names()]
    return Cost(
        shape=shape,
        work=work,
        placement=placement,
        traffic=traffic(work, placement),
        steps=tuple(step_rows(shape, method.windows if method else None)),
        time=bound,
        energy=tuple(energy_table(work, profile, placement.chips, bound.seconds_per_token) for profile in chosen),
        paper=paper_view(work, method.paper if method else None),
    )


def dry_run(
    config: Config,
    recipe: Recipe,
    context: int | None = None,
    profiles: Sequence[str] = (),
    num_samples: int = 64,
    seq_len: int = 256,
    verified: bool = True,
) -> DryRun:
    """What a model with this config.json would cost and its export take. Seconds, and no weights.

    Args:
        context: positions that a token sees and the caches hold, see `kirin_lava.hardware.placement.planned_context`; sums are
            bounded for the model's own where it is None.
        num_samples, seq_len: calibration rows and their length in tokens.
        verified: whether the export verifies what it wrote.

    Raises:
        UnsupportedError: a model that cannot be converted. UsageError: a bad config or profile. FitError: it cannot be placed.
    """
    shape = shape_of_config(config, recipe, context)
    positions = planned_context(shape.max_positions, context)
    cost = cost_of(shape, assumed_work(shape, positions), positions, profiles, recipe.method)
    fit = tuple(fit_of_config(config, recipe, context))
    estimate = export_estimate(shape, recipe, num_samples, seq_len, verified)
    return DryRun(cost, estimate, fit, context or shape.max_positions)
