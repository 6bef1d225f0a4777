"""`inspect`: what is in a file, as a table for people and as plain values for programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kirin_lava.export.netx.describe import LayerInfo, NetInfo, describe

__all__ = ["NetReport", "inspect_net"]


@dataclass(frozen=True)
class NetReport:
    """A `.net` file, described. info: see `kirin_lava.export.netx.describe.NetInfo`."""

    info: NetInfo

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return self.info.to_dict()

    def table(self) -> Group:
        """One row per layer, then what is known of a segment of ours, then the notes."""
        info = self.info
        layers = Table(title=f"{info.path}: {len(info.layers)} layers, {info.size} bytes")
        for column in ("layer", "type", "shape", "neuron", "weights", "range", "bits", "density", "delay"):
            layers.add_column(
                column, justify="right" if column in ("layer", "bits", "density", "delay") else "left", no_wrap=True
            )
        layers.add_column("parameters", min_width=24)
        for layer in info.layers:
            layers.add_row(*_cells(layer))
        parts: list[Table | Text] = [layers]
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


def _cells(layer: LayerInfo) -> list[Text]:
    weights = " x ".join(map(str, layer.weight_shape))
    low_high = "" if layer.weight_range is None else f"{layer.weight_range[0]:g} .. {layer.weight_range[1]:g}"
    parameters = ", ".join(f"{key} {_plain(value)}" for key, value in layer.parameters.items())
    shape = " x ".join(map(str, layer.shape))
    density = "" if layer.density is None else f"{layer.density:.3f}"
    bits, delay = ("" if value is None else str(value) for value in (layer.weight_bits, layer.delay_max))
    cells = (str(layer.index), layer.type, shape, layer.neuron or "", weights, low_high, bits, density, delay, parameters)
    return [Text(cell) for cell in cells]  # text from a file is no markup


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
