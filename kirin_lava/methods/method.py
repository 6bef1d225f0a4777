"""What a method is: which code each site gets and by which step rule, what its neurons do, what it says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.methods.site import Coding, Site, kind_of
from kirin_lava.models.layout import FloatBlock
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.neurons import Neuron

__all__ = ["FiringDense", "Keyed", "Method", "Paper", "Picture", "Seen", "check_site_names"]


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


@dataclass(frozen=True, eq=False)
class Seen:
    """Values of a site on the calibration text.

    Attributes:
        peak: the largest magnitude of all. sample: (values,) some of them, evenly spread.
    """

    peak: float
    sample: Tensor


@dataclass(frozen=True, eq=False)
class FiringDense:
    """A rounded dense layer whose neurons are to fire into the next one.

    Attributes:
        name: of the layer. weight: (N, K) int8.
        unit: (N,) float64, what 1 in a neuron's sum stands for. steps: (N,) float64, what 1 in its output code is to stand for.
        bias: (N,) float64, 0 where there is none.
        inputs: code of what arrives.
    """

    name: str
    weight: Any
    unit: Any
    steps: Any
    bias: Any
    inputs: SpikeCode


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

    A method is a subclass in a file or folder of `kirin_lava.methods` and its place in `METHODS`. Only `coding` must be
    written.

    Attributes:
        name: in recipes, manifests and commands. title: for people.
        paper: where it is from, None for one that nobody published.
        options: dataclass of the method's own section of a recipe, with a default for every entry.
        trains: kinds of recovery that it knows.
        needs_activation: whether it converts only families with an activation directly before a dense layer.
        trains_firing: whether training moves the steps and biases of dense layers that fire, too.
        folder: of its texts: `page.html.j2` for the report, `card.md.j2` for the model card; either may be missing. Both are
            Jinja2 templates with two macros: `facts()`, rows about its section of a recipe, and `text()`, how it computes.
        windows: steps of a window by the name of a code, for those among which its recipes choose.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[Paper | None] = None
    options: ClassVar[type[Any]]
    trains: ClassVar[tuple[str, ...]] = ("none",)
    needs_activation: ClassVar[bool] = False
    trains_firing: ClassVar[bool] = False
    folder: ClassVar[Path | None] = None
    windows: ClassVar[Mapping[str, int]] = MappingProxyType({})

    @abstractmethod
    def coding(self, site: Site, options: Any) -> Coding:
        """Code and step rule of a site. Dense layers that fire take a fixed step instead, see `fired`."""

    @abstractmethod
    def activations(self, options: Any) -> SpikeCode:
        """The code that most activations get: its T and its name stand in tables."""

    def selects(self, site: Site, options: Any) -> float:
        """Share of the channels of a site that are fine, chosen on calibration text; 0 where its channels are all alike."""
        return 0.0

    def saliency(self, site: Site, x: Tensor, partner: Tensor) -> Tensor:
        """How much the channels of some tokens matter, in the shape of x; those with the largest sums over all tokens are fine.

        Args:
            x: (tokens, K) inputs of a dense layer, or (kv_heads, tokens, d) keys or values.
            partner: (N, K) weights of the layer; (kv_heads, ..., d) queries, or (kv_heads, ..., tokens) probabilities.
        """
        raise NotImplementedError

    def measures(self, site: Site, options: Any) -> bool:
        """Whether the code and step of a site are found on calibration text, see `measured`."""
        return False

    def measured(self, site: Site, options: Any, seen: Seen, others: Mapping[str, Coding]) -> Coding:
        """Code and step rule of a site where the method measures.

        Args:
            seen: of the values there. others: of the sides of the same attention that were measured before: q, k and v before
                p, whose values are in units of the step of v.
        """
        raise NotImplementedError

    def fired(self, site: Site, options: Any) -> SpikeCode | None:
        """Code that a dense layer fires on chip where a ReLU and another dense layer follow it; None: the host computes the
        ReLU."""
        return None

    def firing_code(self, site: Site, options: Any) -> SpikeCode:
        """Code of the inputs of a dense layer that fires."""
        return self.coding(site, options).code

    def input_step(self, site: Site, options: Any, sample: Tensor, peak: float) -> float:
        """Step of the inputs of a dense layer that fires, the same for every token: it has no host to choose one.

        Args:
            sample: (tokens, K) calibration inputs. peak: largest magnitude over the whole calibration.
        """
        raise NotImplementedError

    def output_steps(self, site: Site, options: Any, sample: Tensor) -> Tensor:
        """Steps (N,) of what a dense layer fires, from its outputs (tokens, N)."""
        raise NotImplementedError

    def settles(self, options: Any) -> bool:
        """Whether steps and starts of what fires are chosen once more, on the quantised network: by `settled`."""
        return False

    def settled(
        self, site: Site, options: Any, sums: Tensor, wanted: Tensor, steps: Tensor, reader: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Steps (N,), and starts (N,) in units of them, of what a dense layer fires in the quantised network.

        Args:
            sums: (tokens, N) its outputs there. wanted: (tokens, N) those of the float model for the same tokens.
            steps: (N,) of `output_steps`. reader: (M, N) float weights of the dense layer that reads them.
        """
        raise NotImplementedError

    def neuron(self, dense: FiringDense, site: Site, options: Any) -> Neuron:
        """The neurons of a dense layer that fires.

        Raises:
            FitError: a membrane that cannot fit the 24-bit state.
        """
        raise NotImplementedError

    def rewrite(self, block: FloatBlock) -> FloatBlock:
        """The float block as the method computes it, before anything is coded."""
        return block

    def check(self, options: Any, sites: Sequence[str], layers: int) -> None:  # noqa: B027 (nothing to check is the rule)
        """Raise `UsageError` for options that do not fit a model: `sites` of its family, `layers` blocks."""

    def setting(self, options: Any) -> str:
        """Bits of activations, as papers write them: "A(4&8)"."""
        return ""

    def facts(self, options: Any) -> dict[str, str]:
        """Rows of words for the recipe's table in card, page and `inspect`: what is chosen -> how."""
        return {"activations": f"{self.activations(options).name} codes"}

    def picture(self) -> Picture | None:
        """What draws a window of its neuron, None where there is nothing to show."""
        return None


def check_site_names(named: Sequence[str], known: Sequence[str], layers: int, where: str) -> None:
    """Raise `UsageError` for a site that a model does not have.

    Args:
        named: sites of a recipe, in all blocks ("attn.q") or in one ("blocks.0.attn.q"). known: sites of the model's family.
        layers: number of its blocks. where: the entry, for the error.
    """
    for site in named:
        first, _, rest = site.partition(".")
        block = rest.partition(".")[0] if first == "blocks" else ""
        if kind_of(site) not in known or (block.isdigit() and int(block) >= layers):
            sites = f"{', '.join(known)}, in all blocks or as blocks.0.{known[0]} in one of {layers}"
            raise UsageError(f"recipe: {where} names {site[:80]!r}, which this model does not have: {sites}")
