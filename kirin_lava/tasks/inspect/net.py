"""`inspect`: what is in a file, as a table for people and as plain values for programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kirin_lava.export.netx.describe import ArrayInfo, NetInfo, describe

__all__ = ["NetReport", "inspect_net"]

_LAYER = ("layer", "type", "shape", "neuron", "delays")
_ARRAY = ("layer", "array", "shape", "range", "bits", "density")
_SHOWN = 8


@dataclass(frozen=True)
class NetReport:
    """A `.net` file, described. info: see `kirin_lava.export.netx.describe.NetInfo`."""

    info: NetInfo

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return self.info.to_dict()

    def table(self) -> Group:
        """One row per layer, one per array, one per layer's settings, then what is known of a segment of ours, and notes."""
        info = self.info
        layers = Table(title=f"{info.path}: {len(info.layers)} layers, {info.size} bytes")
        arrays, settings = Table(title="arrays"), Table(title="settings")
        for table, columns in ((layers, _LAYER), (arrays, _ARRAY)):
            for column in columns:
                table.add_column(column, justify="right" if column in ("layer", "bits", "density") else "left", overflow="fold")
        settings.add_column("layer", justify="right")
        settings.add_column("name and value", overflow="fold")
        for layer in info.layers:
            index = str(layer.index)
            shape, delay = " x ".join(map(str, layer.shape)), "" if layer.delay_max is None else f"up to {layer.delay_max}"
            layers.add_row(*_texts(index, layer.type, shape, layer.neuron or "", delay))
            for name, array in layer.arrays.items():
                arrays.add_row(*_texts(index, name, *_cells(array)))
            for name, value in layer.parameters.items():
                settings.add_row(*_texts(index, f"{name} {_short(value)}"))
        parts: list[Table | Text] = [layers, *(table for table in (arrays, settings) if table.row_count)]
        if info.segment is not None:
            facts = Table("segment of kirin-lava", "", show_header=True)
            for key, value in info.segment.items():
                facts.add_row(key.replace("_", " "), Text(_plain(value)))
            parts.append(facts)
        parts += [Text(f"note: {note}") for note in info.notes]
        return Group(*parts)


def inspect_net(path: Path) -> NetReport:
    """Describe one `.net` file, of ours or of any other writer.

    Raises:
        UsageError: it is missing, no `.net`, or damaged; the message names file, dataset and problem.
    """
    return NetReport(describe(path))


def _cells(array: ArrayInfo) -> tuple[str, ...]:
    low, high = array.range
    bits = "fractions" if array.bits is None else str(array.bits)
    return " x ".join(map(str, array.shape)) or "one number", f"{low:g} .. {high:g}", bits, f"{array.density:.3f}"


def _texts(*cells: str) -> list[Text]:
    return [Text(cell) for cell in cells]  # text from a file is no markup


def _short(value: Any) -> str:
    """A setting; of many values the first, and how many there are."""
    if isinstance(value, dict):
        return f"{_plain(value['first'])} ... ({value['count']} values from {value['lowest']} to {value['highest']})"
    if isinstance(value, list) and len(value) > _SHOWN:
        return f"{_plain(value[:_SHOWN])} ... ({len(value)} values from {min(value)} to {max(value)})"
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(v)}" for key, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value))
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
