"""`inspect` of a bundle: what was converted, from what, how, and whether it was verified."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kirin_lava.base.units import in_bytes
from kirin_lava.export.bundle import Bundle

__all__ = ["BundleReport", "SegmentInfo", "inspect_bundle"]


@dataclass(frozen=True)
class SegmentInfo:
    """One operation that runs as spikes and integers."""

    block: str
    segment: str
    kind: str
    inputs: int | None
    outputs: int | None
    encoding: str
    window: int
    weight_bits: int | None
    place: str
    guarantee: str | None
    file: str | None


@dataclass(frozen=True)
class BundleReport:
    """A bundle, described. host_ops counts host operations by kind over all blocks."""

    path: str
    source: dict[str, Any]
    recipe: dict[str, Any]
    facts: dict[str, Any]
    digest: str
    verified: bool
    verification: dict[str, Any] | None
    physical_fit_verified: bool
    complete: bool
    bytes: int
    damaged: list[str]
    segments: list[SegmentInfo]
    host_ops: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def table(self) -> Group:
        """Facts, then one row per segment."""
        facts = Table(title=self.path, show_header=False)
        checks = "; ".join(
            f"{level}: {entry['compared']} integers, {entry['mismatches']} mismatches"
            for level, entry in (self.verification or {}).items()
        )
        rows = {
            "model": f"{self.source.get('name')} ({self.facts.get('model_type')}), "
            f"revision {self.source.get('revision') or '-'}",
            "layers": f"{self.facts.get('layers')}, width {self.facts.get('width')}, {self.facts.get('heads')} heads over "
            f"{self.facts.get('kv_heads')}, vocabulary {self.facts.get('vocabulary')}"
            + ("" if self.complete else " (only some layers were exported)"),
            "recipe": f"{self.recipe['name']}: {self.recipe['description']}",
            "verified": f"{'yes' if self.verified else 'no'}{f' ({checks})' if checks else ''}; on silicon: no",
            "size": f"{in_bytes(self.bytes)} in {len(self.segments)} segments, digest {self.digest[:16]}",
            "damaged files": ", ".join(self.damaged) or "none",
            "host operations": ", ".join(f"{count} {kind}" for kind, count in self.host_ops.items()),
        }
        for name, value in rows.items():
            facts.add_row(name, Text(value, overflow="fold"))
        table = Table()
        names = [f"{s.block}.{s.segment}" for s in self.segments]
        table.add_column("segment", min_width=max(map(len, names), default=0))
        for column in ("kind", "inputs", "outputs", "bits", "encoding", "T", "ranges", "place"):
            table.add_column(column, justify="right" if column in ("inputs", "outputs", "bits", "T") else "left")
        for name, s in zip(names, self.segments, strict=True):
            numbers = ["" if n is None else str(n) for n in (s.inputs, s.outputs, s.weight_bits)]
            place = s.place.removeprefix("neurocore with ")
            table.add_row(name, s.kind, *numbers, s.encoding, str(s.window), s.guarantee or "", place)
        return Group(facts, table)


def inspect_bundle(path: Path) -> BundleReport:
    """Describe a bundle; `UsageError` where it is none, or a segment of it cannot be read."""
    bundle = Bundle(path)
    segments: list[SegmentInfo] = []
    host_ops: dict[str, int] = {}
    for name in bundle.block_names:
        block = bundle.block(name)
        stored = {segment.linear.name: segment for segment in bundle.segments(name)}
        linears = {op.name: op for op in block.linears()}
        core = {op.name: op for op in block.core_ops()}
        for op in block.ops:
            kind, found = type(op).__name__, core.get(op.name)
            if found is None:
                host_ops[kind] = host_ops.get(kind, 0) + 1
                continue
            linear, segment = linears.get(op.name), stored.get(op.name)
            segments.append(
                SegmentInfo(
                    block=name,
                    segment=op.name,
                    kind=kind.lower() + (" fire" if linears.get(op.name) and linears[op.name].fires else ""),
                    inputs=None if linear is None else linear.weight.shape[1],
                    outputs=None if linear is None else linear.weight.shape[0],
                    encoding=found.code.name,
                    window=found.code.window,
                    weight_bits=None if linear is None else linear.bits,
                    place=op.place,
                    guarantee=None if segment is None else segment.layer.guarantee,
                    file=None if segment is None else str(segment.path.relative_to(path)),
                )
            )
    manifest = bundle.manifest
    return BundleReport(
        path=str(path),
        source=manifest["source"],
        recipe=manifest["recipe"],
        facts=manifest["facts"],
        digest=bundle.digest(),
        verified=manifest.get("verified") is True,
        verification=manifest.get("verification"),
        physical_fit_verified=manifest.get("physical_fit_verified") is True,
        complete=bundle.complete,
        bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        damaged=bundle.damaged_files(),
        segments=segments,
        host_ops=host_ops,
    )
