"""The recipes that come with the program: one YAML file each. Finding them imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DEFAULT_RECIPE", "recipe_descriptions", "recipe_file", "recipe_names"]

DEFAULT_RECIPE = "kirin-w4a4-8"
_FOLDER = Path(__file__).parent


def recipe_names() -> list[str]:
    """Names of all recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_file(name: str) -> Path:
    """File of a named recipe."""
    return _FOLDER / f"{name}.yaml"


def recipe_descriptions() -> dict[str, str]:
    """What each recipe says about itself, by name."""
    import yaml

    return {name: str(yaml.safe_load(recipe_file(name).read_text(encoding="utf-8"))["description"]) for name in recipe_names()}
