"""Recipes: how a model is quantised, as YAML that a user can copy and edit.

A recipe is named (`kirin-lava export --recipe kirin-w4a4-8`) or a file. Every entry has a default; an unknown one is an error.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import read_yaml
from kirin_lava.methods.recipes import DEFAULT_RECIPE, recipe_file, recipe_names
from kirin_lava.quantize.weights import WeightSpec
from kirin_lava.spikes.codes.coding import INTEGER4, INTEGER8, OFFSET, SIGNED, UNSIGNED8, UNSIGNED16, Encoding

__all__ = [
    "DEFAULT_RECIPE",
    "AttentionSpec",
    "HeadSpec",
    "OutlierSpec",
    "Recipe",
    "RecoverySpec",
    "load_recipe",
    "recipe_names",
    "with_recovery",
]

_MOST_STEPS = 2**31 - 1


def site_of_all(site: str) -> str:
    """The site's name in all blocks: "attn.q" for "blocks.0.attn.q"."""
    return re.sub(r"^blocks\.\d+\.", "", site)


@dataclass(frozen=True)
class OutlierSpec:
    """Which activations travel as 8-bit messages.

    Attributes:
        policy: "element" (the largest of each token) or "channel" (a fixed set of channels, calibrated).
        ratio: share of elements or channels that may, 0 to 0.5.
        sites: another ratio for single sites: a segment's input ("attn.qkv", "mlp.down", ...), queries ("attn.q"), attention
            probabilities ("attn.p"), in all blocks or, with the block in front ("blocks.0.attn.q"), in one.
    """

    policy: str = "element"
    ratio: float = 0.1
    sites: dict[str, float] = field(default_factory=dict)

    def of(self, site: str) -> float:
        """The ratio of one site, named with its block."""
        return self.sites.get(site, self.sites.get(site_of_all(site), self.ratio))


@dataclass(frozen=True)
class AttentionSpec:
    """Attention: bit-width of cached keys and values (8 or 4), and whether the output is "read" out to the host or "fire"d
    straight into the output projection."""

    key_bits: int = 8
    value_bits: int = 8
    output: str = "read"


@dataclass(frozen=True)
class HeadSpec:
    """The language-model head: 8- or 4-bit weights; inputs as 8-bit "integer" messages or as "spikes"."""

    bits: int = 8
    input: str = "integer"


@dataclass(frozen=True)
class RecoverySpec:
    """Training after rounding: `method` "none", "blocks" or "distill"; `steps` of it."""

    method: str = "none"
    steps: int = 500


@dataclass(frozen=True)
class Recipe:
    """All choices of a conversion.

    Attributes:
        name, description: shown to the user; free text.
        encoding: "offset" (codes -8..7 as one spike in 16 steps, the paper's) or "signed" (-7..7 in 8 steps).
    """

    name: str = "custom"
    description: str = ""
    encoding: str = "offset"
    outliers: OutlierSpec = OutlierSpec()
    weights: WeightSpec = field(default_factory=WeightSpec)
    attention: AttentionSpec = AttentionSpec()
    head: HeadSpec = HeadSpec()
    recovery: RecoverySpec = RecoverySpec()

    def __post_init__(self) -> None:
        _choice("encoding", self.encoding, ("offset", "signed"))
        _choice("outliers.policy", self.outliers.policy, ("element", "channel"))
        for name, ratio in {
            "outliers.ratio": self.outliers.ratio,
            **{f"outliers.sites.{site}": value for site, value in self.outliers.sites.items()},
        }.items():
            if not _is_ratio(ratio):
                raise UsageError(f"recipe: {name} is {_short(ratio)}, not a number from 0 to 0.5")
        _choice("attention.key_bits", self.attention.key_bits, (4, 8))
        _choice("attention.value_bits", self.attention.value_bits, (4, 8))
        _choice("attention.output", self.attention.output, ("read", "fire"))
        _choice("head.bits", self.head.bits, (4, 8))
        _choice("head.input", self.head.input, ("integer", "spikes"))
        _choice("recovery.method", self.recovery.method, ("none", "blocks", "distill"))
        if self.recovery.method != "none" and self.attention.output == "fire":
            raise UsageError("recipe: recovery does not train through an attention that fires; use attention.output: read")
        if not 1 <= self.recovery.steps <= _MOST_STEPS:
            raise UsageError(f"recipe: recovery.steps is {self.recovery.steps}, not a positive number up to {_MOST_STEPS}")

    def check_sites(self, known: Sequence[str], layers: int) -> None:
        """Raise `UsageError` for a ratio of a site that the model does not have.

        Args:
            known: sites of its family. layers: number of its blocks.
        """
        for site in self.outliers.sites:
            block = re.match(r"blocks\.(\d+)\.", site)
            if site_of_all(site) not in known or (block is not None and int(block[1]) >= layers):
                sites = f"{', '.join(known)}, in all blocks or as blocks.0.{known[0]} in one of {layers}"
                raise UsageError(f"recipe: outliers.sites names {_short(site)}, which this model does not have: {sites}")

    @property
    def activations(self) -> Encoding:
        """Encoding of activations and queries."""
        return OFFSET if self.encoding == "offset" else SIGNED

    @property
    def unsigned(self) -> Encoding:
        """Encoding of what is never negative: probabilities and the outputs of ReLU."""
        return UNSIGNED16 if self.encoding == "offset" else UNSIGNED8

    @property
    def keys(self) -> Encoding:
        """Codes of cached keys."""
        return INTEGER8 if self.attention.key_bits == 8 else INTEGER4

    @property
    def values(self) -> Encoding:
        """Codes of cached values."""
        return INTEGER8 if self.attention.value_bits == 8 else INTEGER4

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Recipe.from_dict` gives the same recipe back."""
        return asdict(self)

    def to_yaml(self) -> str:
        """The recipe as a file that `load_recipe` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @staticmethod
    def from_dict(values: Any, where: str = "recipe") -> Recipe:
        """A recipe from plain values; `UsageError` names an unknown entry or a wrong type."""
        return _build(Recipe, values, where)


_T = TypeVar("_T")


def _build(kind: type[_T], values: Any, where: str) -> _T:
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected entries such as `encoding: offset`, found {_short(values)}")
    types = get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{where}: unknown entry {_short(key)}; known are: {', '.join(known)}")
        expected = types[key]
        if is_dataclass(expected):
            arguments[key] = _build(expected, value, f"{where}: {key}")  # type: ignore[arg-type]
            continue
        plain = getattr(expected, "__origin__", expected)
        if plain is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, plain) or isinstance(value, bool):
            raise UsageError(f"{where}: {key} is {_short(value)}, not {_WORDS[plain]}")
        if plain is dict and not all(isinstance(name, str) for name in value):
            raise UsageError(f"{where}: {key} has an entry without a name: {_short(value)}")
        arguments[key] = value
    try:
        return kind(**arguments)
    except UsageError as error:
        raise UsageError(f"{where}: {str(error).removeprefix('recipe: ')}") from None


_WORDS = {str: "a text", int: "a whole number", float: "a number", dict: "a list of `name: value`"}


def _short(value: object) -> str:
    """A value for a message; one made of YAML aliases can be larger than the memory when it is written out."""
    return reprlib.repr(value)


def _is_ratio(value: object) -> bool:
    """YAML may have put anything there."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 0.5


def _choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"recipe: {name} is {_short(value)}; choose one of {', '.join(map(repr, allowed))}")


def with_recovery(recipe: Recipe, method: str | None, steps: int | None) -> Recipe:
    """The recipe with another recovery where one is given."""
    recovery = RecoverySpec(method or recipe.recovery.method, steps or recipe.recovery.steps)
    return replace(recipe, recovery=recovery)


def load_recipe(name: str) -> Recipe:
    """A recipe by its name or from a YAML file."""
    path = recipe_file(name)
    if name not in recipe_names():
        path = Path(name)
        if not os.path.exists(path) or os.path.isdir(path):
            raise UsageError(f"no recipe {_short(name)}: use one of {', '.join(recipe_names())}, or a YAML file")
    values = read_yaml(path)
    if values is None:
        raise UsageError(f"{path} is empty; copy one of {', '.join(recipe_names())} and edit it")
    return Recipe.from_dict(values, str(path))
