"""The methods that there are. A method is one file or folder beside this one, and one name in `METHODS`."""

from __future__ import annotations

from kirin_lava.base.errors import UsageError
from kirin_lava.methods.fas import FAS
from kirin_lava.methods.kirin import KIRIN
from kirin_lava.methods.las import LAS
from kirin_lava.methods.method import Method
from kirin_lava.methods.spikellm import SPIKELLM

__all__ = ["FAS", "KIRIN", "LAS", "METHODS", "SPIKELLM", "Method", "method_named"]

METHODS: tuple[Method, ...] = (KIRIN, SPIKELLM, LAS, FAS)


def method_named(name: str) -> Method:
    """The method called `name`; `UsageError` where there is none."""
    for method in METHODS:
        if method.name == name:
            return method
    raise UsageError(f"unknown method {name!r}: choose one of {', '.join(method.name for method in METHODS)}")
