"""The journal of a verification that is under way: what was found so far, so that a killed or timed-out one goes on.

It lies in the bundle, `verify.<level>.json`, holds one digest, level, set of backends and size of the units' runs, and is
removed when the manifest has taken it up. A journal of anything else, or a damaged one, is not looked at.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Any

import kirin_lava
from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, save_json
from kirin_lava.base.readers import read_json
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.manifest import checksum
from kirin_lava.processes.runtime import lava_versions
from kirin_lava.tasks.verify.result import Found, Mismatch, Row

__all__ = ["Journal"]


class Journal:
    """What was found of the units of a bundle, by name.

    Args:
        kept: whether it is written at all. each: windows or tokens of a unit.

    Attributes:
        found: units that are done.
        trouble: why it could not be written, None where it could.
    """

    def __init__(self, bundle: Bundle, level: str, backends: tuple[str, ...], each: int | None, kept: bool) -> None:
        versions = {"kirin-lava": kirin_lava.__version__, **lava_versions()}
        self._request = {"digest": bundle.digest(), "backends": list(backends), "each": each, "versions": versions}
        self._path = bundle.path / f"verify.{level}.json"
        self._kept = kept
        self.trouble: str | None = None
        self.found: dict[str, Found] = self._read() if kept else {}

    def add(self, name: str, found: Found) -> None:
        """A unit is done."""
        self.found[name] = found
        if self._kept and self.trouble is None:
            content = {"request": self._request, "found": {name: asdict(item) for name, item in self.found.items()}}
            try:
                with disk_errors(self._path):
                    save_json(self._path, {**content, "checksum": checksum(content)})
            except UsageError as error:
                self.trouble = str(error)

    def remove(self) -> None:
        """All of it is in the manifest."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Found]:
        try:
            stored = read_json(self._path)
            if stored.get("checksum") != checksum(stored) or stored.get("request") != self._request:
                return {}
            return {name: _found(entry) for name, entry in stored["found"].items()}
        except (UsageError, LookupError, TypeError, ValueError, AttributeError):
            return {}


def _found(entry: dict[str, Any]) -> Found:
    first = entry["first"]
    return Found([Row(**row) for row in entry["rows"]], None if first is None else Mismatch(**first), int(entry["each"]))
