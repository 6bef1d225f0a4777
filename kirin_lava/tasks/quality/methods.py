"""One table of all methods: each by the recipes that stand for it, their integer twins and the baselines; one model, one text.

Quality, spikes, places and joules of a row are of the same integers; a rival that is simulated in float has no more than its
quality. A method that does not apply to the model stands in the table with the reason.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from kirin_lava.base.console import csv_lines
from kirin_lava.methods.recipe import Recipe, load_recipe
from kirin_lava.methods.recipes import recipe_names
from kirin_lava.tasks.options import Sample
from kirin_lava.tasks.quality.compare import RIVAL, Comparison, Contender, compare
from kirin_lava.tasks.report.draw import require_matplotlib

__all__ = ["MethodTable", "compare_methods", "representatives"]

_CHOSEN = ("kirin-w4a4-8", "kirin-w4a5-12", "spikellm-w4a4", "spikellm-kv8")
TWIN = "integer twin"


def representatives() -> list[str]:
    """Names of recipes: those chosen of Kirin and SpikeLLM, and all of every other method."""
    left = {load_recipe(name).method.name for name in _CHOSEN}
    return [*_CHOSEN, *(name for name in recipe_names() if load_recipe(name).method.name not in left)]


@dataclass(frozen=True)
class MethodTable:
    """Result of `compare_methods`: the comparison, its contenders with the twins among them."""

    found: Comparison

    def rows(self) -> list[dict[str, Any]]:
        """Flat rows: joules under each price list in columns of their own; last, with a reason, what does not apply."""
        profiles = list(dict.fromkeys(name for c in self.found.contenders for name in c.joules or {}))
        rows = []
        for c in self.found.contenders:
            row = {key: value for key, value in c.to_dict().items() if key not in ("joules", "twin_joules")}
            row |= {f"joules, {name}": (c.joules or {}).get(name) for name in profiles}
            rows.append({**row, "reason": None})
        empty = dict.fromkeys(rows[0]) if rows else {}
        rows += [{**empty, "name": failed.name, "reason": str(failed.error)} for failed in self.found.failed]
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return self.found.to_dict() | {"contenders": self.rows(), "failed": []}

    def to_csv(self) -> str:
        """One line per row."""
        return csv_lines(self.rows())

    def table(self) -> Group:
        """For people, in 80 columns: the tables of a comparison, then costs, then reasons."""
        caption = "flops: float operations left per token; verified: integers compared on Lava here; then µJ of a token"
        profiles = list(dict.fromkeys(name for c in self.found.contenders for name in c.joules or {}))
        costs = Table(title="what it costs", caption=caption, padding=(0, 1, 0, 0))
        costs.add_column("recipe", no_wrap=True)
        for title in ("flops", "verified", *profiles):
            costs.add_column(title, justify="right")
        for c in self.found.contenders:
            if c.joules is not None:
                joules = [c.joules.get(name) for name in profiles]
                priced = ["" if value is None else f"{1e6 * value:.2f}" for value in joules]
                flops = "" if c.float_operations is None else f"{c.float_operations:.0f}"
                costs.add_row(c.name, flops, str(c.integers_verified or "none"), *priced)
        reasons = Table(title="does not apply", show_header=False, padding=(0, 1, 0, 0))
        for failed in self.found.failed:
            reasons.add_row(failed.name, str(failed.error))
        return Group(self.found.table(), costs, *([reasons] if self.found.failed else []))

    def svg(self, profile: str | None = None) -> str:
        """Quality against energy, one point a row that has both; the same table gives the same bytes.

        Args:
            profile: whose prices; the first by default.
        """
        require_matplotlib()
        import matplotlib
        from matplotlib.figure import Figure

        priced = [c for c in self.found.contenders if c.joules]
        chosen = profile or next(iter(priced[0].joules or {}))
        points = [(joules * 1e6, c) for c in priced if (joules := (c.joules or {}).get(chosen)) is not None]
        with matplotlib.rc_context({"svg.hashsalt": "methods", "svg.fonttype": "none"}):
            figure = Figure(figsize=(7, 4), layout="constrained")
            axes = figure.add_subplot()
            for microjoules, c in points:
                mark = "s" if c.method == TWIN else "o"
                axes.plot(microjoules, 100 * (c.perplexity_ratio - 1), mark)
                axes.annotate(c.name, (microjoules, 100 * (c.perplexity_ratio - 1)), (5, 4), textcoords="offset points", size=8)
            axes.set_xlabel(f"µJ per token, {chosen}")
            axes.set_ylabel("perplexity above float32, %")
            axes.margins(0.2)
            out = io.StringIO()
            figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        return out.getvalue()


def compare_methods(
    model: str,
    recipes: Sequence[str | Recipe] = (),
    text: Path | str | None = None,
    sample: Sample = Sample(rows=128),
    max_rows: int | None = None,
    window: int | None = None,
    verify: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> MethodTable:
    """Compare all methods on a model; every recipe that converts it has its bit-matched integer twin beside it.

    Args:
        recipes: by default those of `representatives`. verify: every segment of every export on Lava, before it counts.
        text, sample, max_rows, window: as of `compare`.
    """
    found = compare(
        model, recipes or representatives(), text, sample, max_rows=max_rows, window=window, rivals=True,
        verify=verify, progress=progress,
    )  # fmt: skip
    rows: list[Contender] = []
    for row in found.contenders:
        rows.append(row)
        if row.method != RIVAL:
            rows.append(_twin(row))
    return MethodTable(replace(found, contenders=tuple(rows)))


def _twin(row: Contender) -> Contender:
    """The same integers, dense and without spikes: the same quality at another price."""
    name = f"{row.name}, twin"
    kept = Contender(name, TWIN, row.perplexity_ratio, row.kl, row.top1_agreement, synapse_bits=row.synapse_bits)
    return replace(kept, float_operations=row.float_operations, joules=row.twin_joules)
