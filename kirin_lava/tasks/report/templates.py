"""Fills the templates of the page and of the card with the values of a report.

In a template `r` is the report, `get(key)` the value of a key or None, `has(part)` whether a part is there, and `v(key, form)`
a value as it is shown. In HTML that is an element which carries its key, so that a reader (and a test) can look it up. What a
method says of itself is in `words`, the module of its own template of the same name; `own` is the key of its section of the
recipe.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup

from kirin_lava.methods.method import Method
from kirin_lava.tasks.report.values import present, resolve, show

__all__ = ["FOLDER", "render"]

FOLDER = Path(__file__).with_name("templates")


def render(template: str, report: dict[str, Any], method: Method, **values: Any) -> str:
    """A template of `FOLDER`, filled.

    Args:
        template: `*.html.j2`, where values are escaped, or another. report: content of report.json.
        values: what the template needs besides.
    """
    html = template.endswith(".html.j2")
    own = FileSystemLoader(method.folder) if method.folder else None
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(FOLDER), *([PrefixLoader({"method": own})] if own else [])]),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def get(key: str) -> Any:
        return resolve(report, key)

    def value(key: str, form: str = "plain") -> str:
        shown = show(get(key), form)
        return Markup('<data data-key="{}" data-format="{}">{}</data>').format(key, form, shown) if html else shown

    section = f"recipe.{method.name}"
    environment.globals |= {
        "r": report,
        "get": get,
        "has": partial(present, report),
        "v": value,
        "own": section if get(section) else "recipe",
    }
    environment.globals |= values
    environment.filters["line"] = lambda text: " ".join(text.split()) + "\n"  # Markdown: a paragraph on one line
    words = f"method/{template}"
    environment.globals["words"] = environment.get_template(words).module if own and template in own.list_templates() else None
    return environment.get_template(template).render()
