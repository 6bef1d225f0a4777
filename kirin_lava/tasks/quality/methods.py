"""One table of all methods: each by the recipes that stand for it, their integer twins and the baselines; one model, one text.

Quality, spikes, places and joules of a row are of the same integers; a rival that is simulated in float has no more than its
quality. A method that does not apply to the model stands in the table with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from rich.console import Group
from rich.table import Table

from kirin_lava.base.console import csv_lines
from kirin_lava.base.errors import UnsupportedError
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.methods.recipes import recipe_names
from kirin_lava.tasks.quality.contenders import RIVAL, TWIN, Comparison, Contender

__all__ = ["MethodTable", "representatives", "with_twins"]

_CHOSEN = ("kirin-w4a4-8", "kirin-w4a5-12", "spikellm-w4a4", "spikellm-kv8")


def representatives() -> list[str]:
    """Names of recipes: those chosen of Kirin and SpikeLLM, and all of every other method."""
    left = {load_recipe(name).method.name for name in _CHOSEN}
    return [*_CHOSEN, *(name for name in recipe_names() if load_recipe(name).method.name not in left)]


@dataclass(frozen=True)
class MethodTable(Comparison):
    """A comparison whose contenders have their twins among them. What does not apply is a row, and no error."""

    def lines(self) -> list[dict[str, Any]]:
        """Flat rows: joules under each price list in columns of their own; last, with a reason, what does not apply."""
        profiles = list(dict.fromkeys(name for c in self.contenders for name in c.joules or {}))
        rows = []
        for c in self.contenders:
            row = {key: value for key, value in c.to_dict().items() if key not in ("joules", "twin_joules")}
            row |= {f"joules, {name}": (c.joules or {}).get(name) for name in profiles}
            rows.append({**row, "reason": None})
        empty = dict.fromkeys(rows[0]) if rows else {}
        rows += [{**empty, "name": failed.name, "reason": str(failed.error)} for failed in self.failed]
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return super().to_dict() | {"contenders": self.lines(), "failed": []}

    def to_csv(self) -> str:
        """One line per row."""
        return csv_lines(self.lines())

    def require(self) -> None:
        """Raise the error of the first recipe that failed for another reason than that its method does not apply."""
        others = tuple(failed for failed in self.failed if not isinstance(failed.error, UnsupportedError))
        replace(Comparison(**{field.name: getattr(self, field.name) for field in fields(self)}), failed=others).require()

    def table(self) -> Group:
        """For people, in 80 columns: the tables of a comparison, then costs, then reasons."""
        caption = "flops: float operations left per token; Lava: integers compared there; then µJ of a token"
        profiles = list(dict.fromkeys(name for c in self.contenders for name in c.joules or {}))
        costs = Table(title="what it costs", caption=caption, padding=(0, 1, 0, 0))
        costs.add_column("recipe", no_wrap=True)
        for title in ("flops", "Lava", *profiles):
            costs.add_column(title, justify="right")
        for c in self.contenders:
            if c.joules is not None:
                joules = [c.joules.get(name) for name in profiles]
                priced = ["" if value is None else f"{1e6 * value:.2f}" for value in joules]
                flops = "" if c.float_operations is None else f"{c.float_operations:.0f}"
                costs.add_row(c.name, flops, str(c.integers_verified or "none"), *priced)
        reasons = Table(title="does not apply", show_header=False, padding=(0, 1, 0, 0))
        for failed in self.failed:
            reasons.add_row(failed.name, str(failed.error))
        return Group(*super().table().renderables, costs, *([reasons] if self.failed else []))


def with_twins(found: Comparison) -> MethodTable:
    """The table of all methods from a comparison: beside every recipe that was converted, its bit-matched integer twin."""
    rows: list[Contender] = []
    for row in found.contenders:
        rows.append(row)
        if row.method != RIVAL:
            rows.append(_twin(row))
    own = {field.name: getattr(found, field.name) for field in fields(found)}
    return MethodTable(**{**own, "contenders": tuple(rows)})


def _twin(row: Contender) -> Contender:
    """The same integers, dense and without spikes: the same quality at another price."""
    name = f"{row.name}, twin"
    kept = Contender(name, TWIN, row.perplexity_ratio, row.kl, row.top1_agreement, synapse_bits=row.synapse_bits)
    return replace(kept, float_operations=row.float_operations, joules=row.twin_joules)
