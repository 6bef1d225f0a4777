"""Imports of the package point one way: from high layers to low ones, and never in a circle. Read from the files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kirin_lava"
LAYERS = (
    "base",
    "spikes",
    "graph",
    "models",
    "methods",
    "hardware",
    "quantize",
    "processes",
    "export",
    "tasks",
    "__init__",
    "cli",
    "__main__",
)
"""From low to high; a module imports its own layer and lower ones. `__init__` is the public face, `cli` a user of it."""


def modules() -> dict[str, Path]:
    """Module name -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Modules of the package that a module imports, anywhere in it, and the lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kirin_lava":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in known:
                    yield alias.name, node.lineno


def packages_of(module: str, importer: str) -> list[str]:
    """Packages that Python imports on the way to a module, those left out that hold the importer as well."""
    parts = module.split(".")
    found = [".".join(parts[:end]) for end in range(2, len(parts))]
    return [package for package in found if not importer.startswith(f"{package}.")]


def layer(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@pytest.fixture(scope="module")
def edges() -> list[tuple[str, str, str]]:
    """(importer, imported, "file:line")."""
    known = modules()
    root = PACKAGE.parent
    return [
        (name, module, f"{path.relative_to(root)}:{line}")
        for name, path in known.items()
        for target, line in imports(name, path, known)
        for module in (target, *packages_of(target, name))
        if module != name
    ]


def test_every_folder_has_its_layer_and_there_are_few() -> None:
    entries = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert entries == {*LAYERS, "py.typed"} and len(entries) <= 14


def test_imports_go_down(edges: list[tuple[str, str, str]]) -> None:
    assert len(edges) > 500
    version = "kirin_lava"  # its name and version may be asked for from anywhere
    up = [
        f"{place}: {importer} imports {target}"
        for importer, target, place in edges
        if target != version and LAYERS.index(layer(importer)) < LAYERS.index(layer(target))
    ]
    assert not up, "imports that go up:\n" + "\n".join(up)


def test_imports_go_in_no_circle(edges: list[tuple[str, str, str]]) -> None:
    graph: dict[str, dict[str, str]] = {}
    for importer, target, place in edges:
        if target != "kirin_lava":
            graph.setdefault(importer, {})[target] = place
    done: set[str] = set()

    def follow(module: str, path: list[str]) -> None:
        if module in path:
            circle = [*path[path.index(module) :], module]
            lines = [f"{graph[a][b]}: {a} -> {b}" for a, b in pairwise(circle)]
            raise AssertionError("a circle of imports:\n" + "\n".join(lines))
        if module not in done:
            for target in graph.get(module, {}):
                follow(target, [*path, module])
            done.add(module)

    for module in graph:
        follow(module, [])
