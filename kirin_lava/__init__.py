"""Kirin-Lava: pretrained language models as exact spiking networks on Lava and Loihi 2.

    import kirin_lava

    kirin_lava.export("demo", "out")
    bundle = kirin_lava.load("out")
    print(bundle.generate("Once upon a time").text)
    bundle.verify().require()

Names are imported when they are used: `import kirin_lava` alone loads neither PyTorch nor Lava.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # `typing` itself takes a while, and Ctrl-C is not heard before this module is there
if TYPE_CHECKING:
    from typing import Any

    from kirin_lava.base import errors
    from kirin_lava.methods.recipe import Recipe
    from kirin_lava.tasks import options
    from kirin_lava.tasks.export import export
    from kirin_lava.tasks.loaded import load
    from kirin_lava.tasks.plan import plan
    from kirin_lava.tasks.quality.compare import compare
    from kirin_lava.tasks.quality.evaluate import evaluate

__all__ = ["Recipe", "compare", "errors", "evaluate", "export", "load", "options", "plan"]

__version__ = "0.1.0"

_HOMES = {
    "Recipe": "kirin_lava.methods.recipe",
    "compare": "kirin_lava.tasks.quality.compare",
    "errors": "kirin_lava.base",
    "evaluate": "kirin_lava.tasks.quality.evaluate",
    "export": "kirin_lava.tasks.export",
    "load": "kirin_lava.tasks.loaded",
    "options": "kirin_lava.tasks",
    "plan": "kirin_lava.tasks.plan",
}


class _Face(ModuleType):
    """This module, whose names stay what they are: importing the package `kirin_lava.export` must not hide the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = import_module(_HOMES[name])
        return getattr(home, name) if hasattr(home, name) else import_module(f"{_HOMES[name]}.{name}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Face
