"""All mutants of a module, by the operators of cosmic-ray, and a fair sample of them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

__all__ = ["Mutant", "mutants_of", "sample"]

# `==` made `is`, and the other way round: the same for the small integers and the short texts that are compared
_SAME = re.compile(r"_(Eq|NotEq)_(Is|IsNot)$|_(Is|IsNot)_(Eq|NotEq|Lt|LtE|Gt|GtE)$")


@dataclass(frozen=True)
class Mutant:
    """One change of one module. line: of the change, from 1; before, after: that line, without the space around it."""

    module: str
    operator: str
    occurrence: int
    line: int
    column: int
    before: str
    after: str

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.module}:{self.line}: {self.before}  ->  {self.after}"

    def code(self, source: str) -> str:
        """The module with this change."""
        return _mutated(source, self.operator, self.occurrence)


def _mutated(source: str, operator: str, occurrence: int) -> str:
    changed = mutate_code(source, get_operator(operator)(), occurrence)
    if changed is None:
        raise ValueError(f"{operator} has no occurrence {occurrence}")
    return str(changed)


def _first_difference(source: str, changed: str, line: int) -> tuple[str, str]:
    before, after = source.splitlines(), changed.splitlines()
    if len(before) != len(after):  # a decorator is gone
        return before[line - 1].strip(), "(removed)"
    place = next((i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b), line - 1)
    return before[place].strip(), " ".join(after[place].split())


def mutants_of(module: str, source: str) -> list[tuple[int, int, str, int]]:
    """(line, column, operator, occurrence) of every mutant, annotations and docstrings left out."""
    nodes, skipped = list(ast_nodes(get_ast(source))), _annotations(source)
    found = []
    for name in operator_names():
        kind: Any = get_operator(name)
        if kind.arguments() or _SAME.search(name):
            continue
        positions = (start for node in nodes for start, _ in kind().mutation_positions(node))
        for occurrence, (line, column) in enumerate(positions):
            if not any(start <= (line, column) < stop for start, stop in skipped):
                found.append((line, column, name, occurrence))
    return sorted(found)


def sample(root: Path, modules: list[str], count: int, seed: int) -> tuple[list[Mutant], int]:
    """So many mutants of each module, at different places, and how many there are at all: of each place, one of its changes.

    What is drawn of a module does not depend on the others.
    """
    found, total = [], 0
    for module in modules:
        source, rng = (root / module).read_text(), Random(f"{seed} {module}")
        places: dict[tuple[int, int], list[tuple[str, int]]] = {}
        for line, column, operator, occurrence in mutants_of(module, source):
            places.setdefault((line, column), []).append((operator, occurrence))
            total += 1
        for line, column in sorted(rng.sample(sorted(places), min(count, len(places)))):
            operator, occurrence = rng.choice(places[line, column])
            before, after = _first_difference(source, _mutated(source, operator, occurrence), line)
            found.append(Mutant(module, operator, occurrence, line, column, before, after))
    return found, total


@cache
def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where types are written: nothing computes them."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        types = [getattr(node, name, None) for name in ("annotation", "returns")]
        for kind in types:
            if isinstance(kind, ast.expr):
                spans.append(((kind.lineno, kind.col_offset), (kind.end_lineno or 0, kind.end_col_offset or 0)))
    return spans
