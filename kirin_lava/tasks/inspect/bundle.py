"""`inspect` of a bundle: what was converted, from what, how, and whether it was verified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import inside
from kirin_lava.base.units import in_bytes
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.coverage import words
from kirin_lava.export.manifest import host_name
from kirin_lava.export.netx.read import read_segment
from kirin_lava.graph.ops.integer import INTEGER_OPS, IntegerOp
from kirin_lava.graph.ops.op import HOST
from kirin_lava.models.sources.source import told
from kirin_lava.spikes.codes import CODES

__all__ = ["BundleReport", "SegmentInfo", "inspect_bundle"]


@dataclass(frozen=True)
class SegmentInfo:
    """One operation that runs as spikes and integers. damaged: what is wrong with its file; what that told is then None."""

    block: str
    segment: str
    kind: str
    inputs: int | None
    outputs: int | None
    encoding: str | None
    window: int | None
    weight_bits: int | None
    place: str
    guarantee: str | None
    file: str | None
    damaged: str | None = None


@dataclass(frozen=True)
class BundleReport:
    """A bundle, described.

    Attributes:
        host_ops: host operations by kind over all blocks. integer_ops: those of neurons between the segments.
        tables: bytes of one copy of every table that these look up.
        stock: why stock netx does not hold them, by kind.
    """

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
    integer_ops: dict[str, int]
    tables: dict[str, int]
    stock: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def table(self) -> Group:
        """Facts, then one row per segment."""
        facts, weights = Table(title=self.path, show_header=False), self.source.get("weights")
        checks = "; ".join(
            f"{level}: {entry['compared']} integers, {entry['mismatches']} mismatches, {words(entry)}"
            for level, entry in (self.verification or {}).items()
        )
        rows = {
            "model": f"{self.source.get('name')} ({self.facts.get('model_type')}), "
            f"revision {self.source.get('revision') or '-'}" + (f"; {told(weights)}" if weights else ""),
            "layers": f"{self.facts.get('layers')}, width {self.facts.get('width')}, {self.facts.get('heads')} heads over "
            f"{self.facts.get('kv_heads')}, vocabulary {self.facts.get('vocabulary')}"
            + ("" if self.complete else " (only some layers were exported)"),
            "recipe": f"{self.recipe['name']}: {self.recipe['description']}",
            "verified": f"{'yes' if self.verified else 'no'}{f' ({checks})' if checks else ''}; on silicon: no",
            "size": f"{in_bytes(self.bytes)} in {len(self.segments)} segments, digest {self.digest[:16]}",
            "damaged files": ", ".join(self.damaged) or "none",
            "host operations": ", ".join(f"{count} {kind}" for kind, count in self.host_ops.items()) or "none",
            **self._between(),
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
            window = "" if s.window is None else str(s.window)
            state = "damaged" if s.damaged else s.guarantee or ""
            table.add_row(name, s.kind, *numbers, s.encoding or "", window, state, place)
        notes = [Text(f"damaged: {s.damaged}") for s in self.segments if s.damaged]
        return Group(facts, table, *notes)

    def _between(self) -> dict[str, str]:
        """Rows about what neurons compute between the segments; none where a host does."""
        if not self.integer_ops:
            return {}
        sizes = ", ".join(f"{name} {size:,}" for name, size in self.tables.items())
        return {
            "between segments": ", ".join(f"{count} {kind}" for kind, count in self.integer_ops.items()),
            "float operations left": "0 between the embedding and the logits" if not self.host_ops else "those of the host",
            "tables": f"{sum(self.tables.values()):,} bytes a core at most ({sizes})",
            "not in stock netx": "; ".join(f"{kind}: {why}" for kind, why in self.stock.items()),
        }


def _rows_of_damaged(bundle: Bundle, block: dict[str, Any], damaged: list[str]) -> Iterator[SegmentInfo]:
    """Rows of a block of which a file is damaged: what the manifest says, and the other files."""
    for op in block["ops"]:
        kind, file = op.get("kind"), op.get("net")
        if op.get("place") == HOST or kind in _INTEGER:
            continue
        found, problem = None, None
        if file is not None:
            try:
                found = read_segment(inside(bundle.path, file), intact=False)
            except UsageError as error:
                problem = str(error)
            if file in damaged and problem is None:
                problem = f"{bundle.path / file}: is not as it was exported"
        linear = None if found is None else found.linear
        code = linear.code if linear is not None else next((code for code in CODES if code.name == op.get("code")), None)
        yield SegmentInfo(
            block=block["name"],
            segment=str(op.get("name")),
            kind=str(kind).lower() + (" fire" if linear is not None and linear.fires else ""),
            inputs=None if linear is None else linear.weight.shape[1],
            outputs=None if linear is None else linear.weight.shape[0],
            encoding=None if code is None else code.name,
            window=None if code is None else code.window,
            weight_bits=None if linear is None else linear.bits,
            place=str(op.get("place")),
            guarantee=None if found is None else found.layer.guarantee,
            file=file,
            damaged=problem,
        )


def inspect_bundle(path: Path) -> BundleReport:
    """Describe a bundle; a segment whose file is damaged keeps its row. `UsageError` where it is no bundle, or where the
    manifest is damaged beyond reading."""
    bundle = Bundle(path, intact=False)
    damaged = bundle.damaged_files()
    segments: list[SegmentInfo] = []
    host_ops: dict[str, int] = {}
    integers = _Integers()
    for values in bundle.manifest["blocks"]:
        name, rows = values["name"], None
        if not any(file in damaged for file in [host_name(name), *(op["net"] for op in values["ops"] if "net" in op)]):
            try:
                rows = _segments(bundle, name, host_ops, integers)
            except UsageError:
                if not damaged:  # its hashes fit, and still it cannot be read
                    raise
        if rows is not None:
            segments += rows
        else:
            segments += _rows_of_damaged(bundle, values, damaged)
            for kind in (str(op.get("kind")) for op in values["ops"] if op.get("place") == HOST):
                host_ops[kind] = host_ops.get(kind, 0) + 1
            integers.count(str(op.get("kind")) for op in values["ops"])
    manifest = bundle.manifest
    return BundleReport(
        path=str(path),
        source=manifest["source"],
        recipe=manifest["recipe"],
        facts=manifest["facts"],
        digest=bundle.digest(),
        verified=bundle.verified and not damaged,
        verification=bundle.verification or None,
        physical_fit_verified=manifest.get("physical_fit_verified") is True,
        complete=bundle.complete,
        bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        damaged=damaged,
        segments=segments,
        host_ops=host_ops,
        integer_ops=integers.counts,
        tables=integers.tables,
        stock={kind: _INTEGER[kind].stock for kind in integers.counts},
    )


_INTEGER = {kind.__name__: kind for kind in INTEGER_OPS}


@dataclass
class _Integers:
    """Integer operations by kind, and the bytes of their tables by name."""

    counts: dict[str, int] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)

    def count(self, kinds: Iterable[str]) -> None:
        """Those among some kinds of operations."""
        for kind in kinds:
            if kind in _INTEGER:
                self.counts[kind] = self.counts.get(kind, 0) + 1


def _segments(bundle: Bundle, name: str, host_ops: dict[str, int], integers: _Integers) -> list[SegmentInfo]:
    """The operations of a block that run as spikes and integers; the others are counted into `host_ops` or `integers`."""
    block = bundle.block(name)
    stored = {segment.linear.name: segment for segment in bundle.segments(name)}
    linears = {op.name: op for op in block.linears()}
    core = {op.name: op for op in block.core_ops()}
    found = []
    for op in block.ops:
        kind, spiking = type(op).__name__, core.get(op.name)
        if isinstance(op, IntegerOp):
            integers.count([kind])
            integers.tables |= {table.name: table.bytes for table in op.tables()}
            continue
        if spiking is None:
            host_ops[kind] = host_ops.get(kind, 0) + 1
            continue
        linear, segment = linears.get(op.name), stored.get(op.name)
        found.append(
            SegmentInfo(
                block=name,
                segment=op.name,
                kind=kind.lower() + (" fire" if linear is not None and linear.fires else ""),
                inputs=None if linear is None else linear.weight.shape[1],
                outputs=None if linear is None else linear.weight.shape[0],
                encoding=spiking.code.name,
                window=spiking.code.window,
                weight_bits=None if linear is None else linear.bits,
                place=op.place,
                guarantee=None if segment is None else segment.layer.guarantee,
                file=None if segment is None else str(segment.path.relative_to(bundle.path)),
            )
        )
    return found
