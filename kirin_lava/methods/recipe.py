"""Recipes: how a model is converted, as YAML that a user can copy and edit.

A recipe is named (`kirin-lava export --recipe kirin-w4a4-8`) or a file. Every entry has a default; an unknown one is an error.
Beside the entries that all methods have, the section that bears the method's name is the method's own:

    method: kirin
    kirin: {encoding: offset, outliers: {ratio: 0.25}}
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import read_yaml
from kirin_lava.methods.known import KIRIN, method_named
from kirin_lava.methods.method import Method
from kirin_lava.methods.options import choice, short
from kirin_lava.methods.recipes import DEFAULT_RECIPE, recipe_file, recipe_names

__all__ = [
    "DEFAULT_RECIPE",
    "HeadSpec",
    "Recipe",
    "RecoverySpec",
    "WeightSpec",
    "load_recipe",
    "recipe_names",
    "with_recovery",
]

_MOST_MINUTES = 10_000
_MOST_STEPS = 2**31 - 1


@dataclass(frozen=True)
class WeightSpec:
    """How the weights of a layer are rounded.

    Attributes:
        bits: 4 or 8. method: "rtn" rounds to nearest with the scale of least squared error (weighted by the diagonal of the
        Hessian where there
            is one); "gptq" needs a Hessian, see `kirin_lava.quantize.gptq`.
    """

    bits: int = 4
    method: str = "rtn"

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise UsageError(f"weights of {self.bits} bits are not supported: use 4 or 8")
        if self.method not in ("rtn", "gptq"):
            raise UsageError(f"weight rounding {self.method!r} is unknown: use 'rtn' or 'gptq'")


@dataclass(frozen=True)
class HeadSpec:
    """The language-model head: weights of 8 or 4 bits, rounded to nearest."""

    bits: int = 8

    def __post_init__(self) -> None:
        choice("head.bits", self.bits, (4, 8))


@dataclass(frozen=True)
class RecoverySpec:
    """Training after rounding.

    Attributes:
        method: "none", "blocks" or "distill". steps: of it.
        minutes: how long it takes instead, None for so many steps. What comes out then depends on the machine.
    """

    method: str = "none"
    steps: int = 500
    minutes: float | None = None

    def __post_init__(self) -> None:
        choice("recovery.method", self.method, ("none", "blocks", "distill"))
        if not 1 <= self.steps <= _MOST_STEPS:
            raise UsageError(f"recipe: recovery.steps is {self.steps}, not a positive number up to {_MOST_STEPS}")
        if self.minutes is not None and not 0 < self.minutes <= _MOST_MINUTES:
            raise UsageError(f"recipe: recovery.minutes is {self.minutes}, not a positive number up to {_MOST_MINUTES}")


@dataclass(frozen=True)
class Recipe:
    """All choices of a conversion.

    Attributes:
        name, description: shown to the user; free text.
        method: the method that converts. options: its own section.
        host: what computes between the segments: "float", a host in float32, or "spikes", neurons in integers, with no host
            between the embedding and the logits, see `kirin_lava.graph.ops.integer`.
    """

    name: str = "custom"
    description: str = ""
    method: Method = KIRIN
    options: Any = None
    weights: WeightSpec = field(default_factory=WeightSpec)
    head: HeadSpec = HeadSpec()
    recovery: RecoverySpec = RecoverySpec()
    host: str = "float"

    def __post_init__(self) -> None:
        choice("host", self.host, ("float", "spikes"))
        if self.options is None:
            object.__setattr__(self, "options", self.method.options())
        if not isinstance(self.options, self.method.options):
            raise UsageError(f"recipe: options of {self.method.title} are {self.method.options.__name__}")
        if self.recovery.method not in self.method.trains:
            known = ", ".join(self.method.trains)
            raise UsageError(f"recipe: {self.method.title} does not train by {self.recovery.method!r}; it knows: {known}")

    def check_sites(self, known: Sequence[str], layers: int) -> None:
        """Raise `UsageError` for a site that the model does not have.

        Args:
            known: sites of its family. layers: number of its blocks.
        """
        self.method.check(self.options, known, layers)

    @property
    def setting(self) -> str:
        """Bits of weights and activations, as papers write them: "W4A(4&8)"."""
        return f"W{self.weights.bits}{self.method.setting(self.options)}"

    def facts(self) -> dict[str, str]:
        """Rows of words for tables: what is chosen -> how."""
        weights = {"weights": f"{self.weights.bits} bits, {self.weights.method}"}
        facts = {"method": self.method.title, **weights, **self.method.facts(self.options), "head": f"{self.head.bits} bits"}
        return facts | ({"between segments": "integers on neuro cores, no host"} if self.spiking_host else {})

    @property
    def spiking_host(self) -> bool:
        """Whether neurons compute what a host would."""
        return self.host == "spikes"

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `Recipe.from_dict` gives the same recipe back."""
        name = self.method.name
        return {
            "name": self.name,
            "description": self.description,
            "method": name,
            name: asdict(self.options),
            **{part: asdict(getattr(self, part)) for part in ("weights", "head", "recovery")},
            **({"host": self.host} if self.spiking_host else {}),  # the recipes of before it are the same as ever
        }

    def to_yaml(self) -> str:
        """The recipe as a file that `load_recipe` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    @staticmethod
    def from_dict(values: Any, where: str = "recipe") -> Recipe:
        """A recipe from plain values; `UsageError` names an unknown entry or a wrong type."""
        if not isinstance(values, dict):
            raise UsageError(f"{where}: expected entries such as `method: kirin`, found {short(values)}")
        named = values.get("method", KIRIN.name)
        if not isinstance(named, str):
            raise UsageError(f"{where}: method is {short(named)}, not a text")
        try:
            method = method_named(named)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
        rest = {key: value for key, value in values.items() if key not in ("method", method.name)}
        _refuse_moved(rest, method, where)
        options = _build(method.options, values.get(method.name, {}), f"{where}: {method.name}")
        return _build(Recipe, rest, where, method=method, options=options)


_T = TypeVar("_T")


def _refuse_moved(values: dict[Any, Any], method: Method, where: str) -> None:
    """Say where an entry went that belonged to the whole recipe once."""
    own = {f.name for f in fields(method.options)}
    for key in values:
        if key in own and key not in {f.name for f in fields(Recipe)}:
            raise UsageError(
                f"{where}: {key} is an entry of the section {method.name!r}: write `{method.name}: {{{key}: ...}}`"
            )


def _build(kind: type[_T], values: Any, where: str, **given: Any) -> _T:
    if not isinstance(values, dict):
        raise UsageError(f"{where}: expected entries such as `name: value`, found {short(values)}")
    types = get_type_hints(kind)
    known = [f.name for f in fields(kind) if f.name not in given]  # type: ignore[arg-type]
    arguments = dict(given)
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{where}: unknown entry {short(key)}; known are: {', '.join(known)}")
        expected = types[key]
        if is_dataclass(expected):
            arguments[key] = _build(expected, value, f"{where}: {key}")  # type: ignore[arg-type]
            continue
        plain = getattr(expected, "__origin__", expected)
        if isinstance(expected, UnionType):  # of one type and None
            (plain,) = (each for each in get_args(expected) if each is not NoneType)
            if value is None:
                arguments[key] = None
                continue
        if plain is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, plain) or isinstance(value, bool):
            raise UsageError(f"{where}: {key} is {short(value)}, not {_WORDS[plain]}")
        if plain is dict and not all(isinstance(name, str) for name in value):
            raise UsageError(f"{where}: {key} has an entry without a name: {short(value)}")
        arguments[key] = value
    try:
        return kind(**arguments)
    except UsageError as error:
        raise UsageError(f"{where}: {str(error).removeprefix('recipe: ')}") from None


_WORDS = {str: "a text", int: "a whole number", float: "a number", dict: "a list of `name: value`"}


def with_recovery(recipe: Recipe, method: str | None, steps: int | None, minutes: float | None = None) -> Recipe:
    """The recipe with another recovery where one is given; steps that are given make its minutes void."""
    own = recipe.recovery
    length = minutes or (None if steps else own.minutes)
    return replace(recipe, recovery=RecoverySpec(method or own.method, steps or own.steps, length))


def load_recipe(name: str) -> Recipe:
    """A recipe by its name or from a YAML file."""
    path = recipe_file(name)
    if name not in recipe_names():
        path = Path(name)
        if not os.path.exists(path) or os.path.isdir(path):
            raise UsageError(f"no recipe {short(name)}: use one of {', '.join(recipe_names())}, or a YAML file")
    values = read_yaml(path)
    if values is None:
        raise UsageError(f"{path} is empty; copy one of {', '.join(recipe_names())} and edit it")
    return Recipe.from_dict(values, str(path))
