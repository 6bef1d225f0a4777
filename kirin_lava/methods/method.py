"""What a method is: which code each site gets and by which step rule, what its neurons do, what it says of itself."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

__all__ = ["Keyed", "Method", "Paper", "Picture"]


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


class Picture(Protocol):
    """A module that draws one window of a method's neuron.

    Attributes:
        HEIGHTS: pixels of the wide and of the narrow form. LABEL: what it shows, for those who do not see it.
    """

    HEIGHTS: tuple[int, int]
    LABEL: str

    def trace(self, linear: Any, scale: Any, codes: Any) -> dict[str, Any]:
        """The numbers of the picture, JSON-able.

        Args:
            linear: the `Linear` of a segment whose inputs spike. scale: (N,) real value of a unit of its sums, or None.
            codes: (windows, K) codes that came to it.
        """

    def draw(self, figure: Any, data: dict[str, Any], narrow: bool, palette: Mapping[str, str], keyed: Keyed) -> None:
        """Fill a matplotlib figure.

        Args:
            data: of `trace`. narrow: for a phone. palette: colours by name.
            keyed: marks a text of the figure as the value of `data` at a path such as `traces.0.code`, in a format.
        """


Keyed = Callable[[Any, str, str], None]


class Method(ABC):
    """A way to turn a float decoder into an integer network of spikes.

    Attributes:
        name: in recipes, manifests and commands. title: for people.
        paper: where it is from, None for one that nobody published.
        folder: of its texts: `page.html.j2` for the report, `card.md.j2` for the model card; either may be missing. Both are
            Jinja2 templates with two macros: `facts()`, rows about its section of a recipe, and `text()`, how it computes.
        windows: steps of a window by the name of a code, for those among which its recipes choose.
        activation_bits: of activations, as in "W4A(4&8)".
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[Paper | None] = None
    folder: ClassVar[Path | None] = None
    windows: ClassVar[Mapping[str, int]] = MappingProxyType({})
    activation_bits: ClassVar[str]

    def window(self, entries: Mapping[str, Any]) -> int:
        """Steps of a window under the entries of a recipe file."""
        raise NotImplementedError

    def picture(self) -> Picture | None:
        """What draws a window of its neuron, None where there is nothing to show."""
        return None
