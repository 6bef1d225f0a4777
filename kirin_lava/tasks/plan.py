"""What can be told before an export: its cost from config.json alone, and where outliers are worth their price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from kirin_lava.base.console import csv_lines
from kirin_lava.base.units import in_bytes
from kirin_lava.hardware.fit import require_planned_fit
from kirin_lava.methods.recipe import DEFAULT_RECIPE, Recipe, load_recipe
from kirin_lava.models import family_of
from kirin_lava.models.calibration_text import draw_sample
from kirin_lava.models.checkpoint import open_checkpoint, open_config
from kirin_lava.models.text import CALIBRATION_TEXT, read_text
from kirin_lava.quantize.budget import Curve, search_budget, spend
from kirin_lava.tasks.cost import DryRun, dry_run
from kirin_lava.tasks.options import Checks, Sample

__all__ = ["Budget", "Plan", "plan"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """What can be told of a conversion before it is made. Model-feasible, not compiler-verified."""

    model: str
    recipe: Recipe
    costs: DryRun
    revision: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"model": self.model, "recipe": self.recipe.name, **self.costs.to_dict()}

    def budget(self, share: float = 0.1, sample: Sample = Sample(rows=8), progress: Progress | None = None) -> Budget:
        """Measure the sites of the model on calibration text and spend `share` of all codes on outliers."""
        checkpoint = open_checkpoint(self.model, self.revision)
        length = min(sample.tokens, checkpoint.dimensions.max_positions)
        text = read_text(sample.file or CALIBRATION_TEXT)
        drawn = draw_sample(checkpoint.tokenizer(), text, length, sample.rows, sample.seed, checkpoint.family.encoder)
        curves = search_budget(checkpoint, drawn.rows, self.recipe, progress)
        method = self.recipe.method
        encoding = method.activations(self.recipe.options).name
        return Budget(checkpoint.name, method.name, encoding, share, tuple(curves), spend(curves, share), drawn.warnings)

    def table(self) -> Group:
        """The figures that decide, then steps by encoding."""
        values = self.costs.to_dict()
        placement, export = values["placement"], values["export"]
        facts = Table(title=f"{self.model} by {self.recipe.name}", show_header=False)
        for name, value in {
            "what this is": values["feasibility"],
            "segments, weights": f"{values['model']['segments']}, {values['model']['weights']:,}",
            "chips, cores": f"{placement['chips']}, {placement['cores']:,} ({placement['cores_per_chip']} used per chip)",
            **_fit(values["ranges"]),
            "mean use of a core": f"{100 * placement['mean_utilisation']:.1f} %",
            "keys and values on chip": f"{in_bytes(placement['cache_bytes'])} for {placement['context']:,} of "
            f"{self.costs.cost.shape.max_positions:,} positions",
            "each further position": f"{placement['cache_bytes_per_position']:,.0f} bytes, "
            f"{placement['chips_per_position']:.3g} chips",
            "time of a token, at least": f"{1e3 * values['time']['seconds_per_token']:.2f} ms",
            "bundle": in_bytes(export["bundle_bytes"]),
            "peak memory of the export": f"{in_bytes(export['peak_memory_bytes'])} ({_phases(export)})",
        }.items():
            facts.add_row(name, value)
        steps = Table(title="steps per token")
        for column in ("codes", "T", "latency", "against 8-bit spike codes"):
            steps.add_column(column, justify="left" if column == "codes" else "right")
        for row in values["steps"]:
            fewer = f"{100 * row['window_reduction']:.2f} % fewer" if row["window_reduction"] else ""
            steps.add_row(row["scheme"], str(row["window"]), f"{row['latency_steps']:,}", fewer)
        return Group(facts, steps)


def _fit(ranges: dict[str, Any]) -> dict[str, str]:
    """Rows of the table: what is proved whatever the weights are, and how attention is split for it."""
    parts = sorted({row["positions"] for row in ranges["segments"]} - {0})
    proved = f"{ranges['proved']} of {len(ranges['segments'])}, for {ranges['positions']:,} positions"
    rows = {"no sum can overflow": proved if ranges["fits"] else f"{proved}; others do not fit"}
    return rows | ({"attention in parts of": f"{' or '.join(f'{n:,}' for n in parts)} positions"} if parts else {})


def _phases(export: dict[str, Any]) -> str:
    return ", ".join(f"{phase} {in_bytes(size)}" for phase, size in export["phase_bytes"].items())


@dataclass(frozen=True)
class Budget:
    """Measured sensitivities and the ratios that spend a share of outliers best."""

    model: str
    method: str
    encoding: str
    share: float
    curves: tuple[Curve, ...]
    sites: dict[str, float]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_csv(self) -> str:
        """One line per site and ratio."""
        return csv_lines(
            [
                {
                    "site": curve.site,
                    "codes_per_token": curve.elements,
                    "ratio": ratio,
                    "divergence": divergence,
                    "outlier_share": share,
                    "chosen": ratio == self.sites[curve.site],
                }
                for curve in self.curves
                for ratio, divergence, share in zip(curve.ratios, curve.divergence, curve.share, strict=True)
            ]
        )

    def table(self) -> Table:
        """Divergence from the float original, in nats, of every site quantised alone."""
        table = Table(title=f"{self.model}: divergence of one site alone, by its ratio of outliers")
        table.add_column("site")
        table.add_column("codes/token", justify="right")
        for ratio in self.curves[0].ratios:
            table.add_column(f"{ratio:g}", justify="right")
        table.add_column("chosen", justify="right")
        for curve in self.curves:
            cells = [f"{d:.5f}" for d in curve.divergence]
            table.add_row(curve.site, f"{curve.elements:.0f}", *cells, f"{self.sites[curve.site]:g}")
        return table

    def recipe_lines(self) -> str:
        """For a recipe file."""
        sites = ", ".join(f"{site}: {ratio:g}" for site, ratio in self.sites.items())
        return f"{self.method}: {{encoding: {self.encoding}, outliers: {{ratio: {self.share:g}, sites: {{{sites}}}}}}}"


def plan(
    model: str,
    recipe: str | Recipe = DEFAULT_RECIPE,
    sample: Sample = Sample(),
    revision: str | None = None,
    checks: Checks = Checks(),
) -> Plan:
    """What a conversion would cost, from config.json alone: weights need not be at hand.

    Args:
        model: folder, GGUF file, embedded or packaged model, or hub id. recipe: name, YAML file or recipe.
        sample: the text to calibrate on. checks: the context to plan for, and whether the export verifies, which takes memory.
            For the target loihi2 the context is the model's own where none is asked for, as in `export`.

    Raises:
        FitError: what cannot fit the target, whatever the weights.
    """
    chosen = load_recipe(recipe) if isinstance(recipe, str) else recipe
    config, verified = open_config(model, revision), checks.backend != "none"
    context = checks.context
    if checks.target == "loihi2" and context is None:
        context = family_of(config).dimensions(config).max_positions
    costs = dry_run(config, chosen, context, (), sample.rows, sample.tokens, verified)
    if checks.target == "loihi2":
        require_planned_fit(costs.fit, costs.positions)
    return Plan(model, chosen, costs, revision)
