"""What a method is: which code each site gets and by which step rule, what its neurons do, what it says of itself."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

__all__ = ["Method", "Paper"]


@dataclass(frozen=True)
class Paper:
    """Where a method is from and what was claimed for it; claims are shares, None where there is none.

    Attributes:
        energy_reduction, step_reduction: "up to" figures of the paper, against networks of its own choice.
    """

    title: str
    source: str
    energy_reduction: float | None = None
    step_reduction: float | None = None


class Method(ABC):
    """A way to turn a float decoder into an integer network of spikes.

    Attributes:
        name: in recipes, manifests and commands. title: for people.
        paper: where it is from, None for one that nobody published.
        folder: of its texts: `page.html.j2` for the report, `card.md.j2` for the model card; either may be missing.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[Paper | None] = None
    folder: ClassVar[Path | None] = None

    def picture(self) -> Any:
        """Module that traces and draws one window of its neuron (`trace`, `draw`), None where there is nothing to show."""
        return None
