"""The bundle: a folder that holds a converted model. This module reads it, `bundle_write` writes it.

    manifest.json               source, recipe, versions, the graph, a hash of every file, digest, verification, checksum
    recipe.yaml                 the recipe, ready to edit
    net/<block>.<segment>.net   one linear segment each, for unmodified lava-dl
    host/<block>.safetensors    float32 arrays of the host operations; int32 ones and tables of integer operations
    host/embedding.safetensors  token and position embeddings, rotary tables: float32, or int32 for integer operations
    probe/<block>.safetensors   input codes and results of every linear segment on calibration text, as the compiler saw them
    config.json, generation_config.json, tokenizer files: the source's own

Without a hash, because they can be made again from those, or are meant to be edited:

    nir/<block>.nir             the linear segments as NIR graphs, see `kirin_lava.export.nir`
    README.md                   a model card
    report.json, layers.csv, report.html: see `kirin_lava.tasks.report`

What the manifest is held by: `kirin_lava.export.manifest`.

A bundle comes from anywhere: nothing in it is believed before it is checked.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, inside, load_arrays, save_json
from kirin_lava.base.integers import MESSAGE_LIMIT
from kirin_lava.base.readers import check_path, read_json
from kirin_lava.export.coverage import merged
from kirin_lava.export.manifest import (
    EMBEDDING,
    FORMAT,
    JOURNAL,
    MANIFEST,
    SOURCE_FILES,
    check_manifest,
    checksum,
    damaged_manifest,
    digest_of,
    hash_is,
    host_name,
    passed,
    probe_name,
    sealed,
)
from kirin_lava.export.netx.read import StoredSegment, read_segment
from kirin_lava.export.serial import block_from_json
from kirin_lava.graph.block import Block, Embedding, Model, require_same_units
from kirin_lava.graph.ops import Linear, Rotary
from kirin_lava.graph.ops.integer import IntegerRotary
from kirin_lava.graph.values import Array
from kirin_lava.methods.recipe import Recipe
from kirin_lava.quantize.record import Probe

__all__ = ["Bundle", "Probe"]


class Bundle:
    """A bundle on disk. Opening reads the manifest; blocks are read when they are asked for.

    Args:
        intact: False opens a bundle, to look at it, whose manifest can be read but is not as it was written.

    Raises:
        UsageError: not a bundle, another format, damaged; the message names the file.
    """

    def __init__(self, path: Path, intact: bool = True):
        if not os.path.lexists(check_path(path) / MANIFEST):
            hint = " (an unfinished export: run it again with --resume)" if os.path.isfile(path / JOURNAL) else ""
            raise UsageError(f"{path} is no bundle: it has no {MANIFEST}{hint}")
        self.path = path
        self.manifest = read_json(inside(path, MANIFEST))
        found = self.manifest.get("format")
        if type(found) is not int or found != FORMAT:
            raise UsageError(
                f"{path}: bundle format {reprlib.repr(found)} cannot be read, this version reads {FORMAT}: "
                "export again, or use the version that wrote it"
            )
        check_manifest(self.manifest, path)
        self.recipe = Recipe.from_dict(self.manifest.get("recipe"), f"{path / MANIFEST}: recipe")
        if intact and not self._as_written():
            raise damaged_manifest(self.path, "it is not as it was written (its digest or checksum tells)")

    @property
    def block_names(self) -> list[str]:
        """Names of the blocks in order; the last is the head where the model is whole."""
        return [block["name"] for block in self.manifest["blocks"]]

    @property
    def complete(self) -> bool:
        """Whether every layer of the source was converted."""
        return self.block_names == [*(f"blocks.{i}" for i in range(self.manifest["facts"]["layers"])), "head"]

    @property
    def causal(self) -> bool:
        """Whether no token sees a later one: a decoder."""
        return all(block.get("causal", True) for block in self.manifest["blocks"])

    @property
    def verification(self) -> dict[str, Any]:
        """What verifications of this very content found, by level."""
        entries: dict[str, Any] = self.manifest["verification"] or {}
        return {level: entry for level, entry in entries.items() if entry["digest"] == self.digest()}

    @property
    def verified(self) -> bool:
        """Whether Lava verified this very content."""
        return self.manifest["verified"] and passed(self.verification)

    def block(self, name: str) -> Block:
        """Read one block with its weights."""
        values = self.manifest["blocks"][self.block_names.index(name)]
        arrays = load_arrays(inside(self.path, host_name(name)))

        def read_net(file: str) -> Linear:
            return read_segment(inside(self.path, file)).linear

        where, facts = str(self.path / MANIFEST), self.manifest["facts"]
        block = block_from_json(values, arrays, read_net, facts["width"], where)
        outputs = facts.get("outputs", facts["vocabulary"])  # of the head; a decoder's are its vocabulary
        block.check(where, facts["head_dim"], outputs if name == "head" else facts["width"])
        return block

    def nets(self, name: str) -> dict[str, str]:
        """Files of the linear segments of a block, by the names of the segments."""
        ops = self.manifest["blocks"][self.block_names.index(name)]["ops"]
        return {op["name"]: op["net"] for op in ops if "net" in op}

    def segments(self, name: str, intact: bool = True, wanted: Container[str] | None = None) -> list[StoredSegment]:
        """The linear segments of a block, all or those that are wanted, as their files have them; `intact` False reads edited
        files too."""
        files = {segment: file for segment, file in self.nets(name).items() if wanted is None or segment in wanted}
        return [read_segment(inside(self.path, file), intact) for file in files.values()]

    def probes(self, name: str) -> dict[str, Probe]:
        """What the compiler saw: the probe of every linear segment of a block."""
        path = inside(self.path, probe_name(name))
        arrays = load_arrays(path)
        probes = {}
        for segment in sorted({key.rpartition(".")[0] for key in arrays}):
            codes, result, peak = (arrays.get(f"{segment}.{part}") for part in ("codes", "result", "peak"))
            if codes is None or result is None or peak is None:
                raise UsageError(f"{path}: the probe of {segment} is incomplete; export again")
            probes[segment] = Probe(codes, result, peak)
            if not probes[segment].is_one():
                raise UsageError(f"{path}: the probe of {segment} has types or shapes that no probe has; export again")
        return probes

    def model(self) -> Model:
        """The whole model; `UsageError` where only some layers were exported."""
        if not self.complete:
            raise UsageError(f"{self.path} holds only {', '.join(self.block_names)}; export all layers to run the model")
        blocks = [self.block(name) for name in self.block_names]
        embedding, rotary = self.frame()
        require_same_units(embedding, blocks, str(self.path))
        return Model(embedding, tuple(blocks[:-1]), blocks[-1], rotary, self.manifest["max_positions"], self.manifest["facts"])

    def frame(self) -> tuple[Embedding, tuple[Array, Array] | None]:
        """The embedding and, where positions turn something, cos and sin of it: what a bundle of some layers has, too."""
        turns = (Rotary.__name__, IntegerRotary.__name__)
        turned = [op.get("table") for block in self.manifest["blocks"] for op in block["ops"] if op.get("kind") in turns]
        path = inside(self.path, EMBEDDING)
        arrays = load_arrays(path)
        facts, positions = self.manifest["facts"], self.manifest["max_positions"]
        offset = self.manifest["position_offset"]
        needed = {"tokens": (facts["vocabulary"], facts["width"])}
        if turned:
            width = facts["head_dim"] * (2 if 1 in turned else 1)
            needed |= dict.fromkeys(("cos", "sin"), (positions, width))
        if "positions" in arrays:
            needed["positions"] = (max(len(arrays["positions"]), positions + offset), facts["width"])
        fraction: int | None = self.manifest.get("fraction")
        kind = np.dtype(np.float32 if fraction is None else np.int32)
        for name, shape in needed.items():
            array = arrays.get(name)
            if array is None or array.dtype != kind or array.shape != shape:
                found = "missing" if array is None else f"{array.dtype} of shape {array.shape}"
                raise UsageError(f"{path}: {name} is {found}, the manifest asks for {kind} of shape {shape}; export again")
            if fraction is not None and int(np.abs(array, dtype=np.int64).max()) >= MESSAGE_LIMIT:
                raise UsageError(f"{path}: {name} holds numbers of more than 24 bits; export again")
        embedding = Embedding(arrays["tokens"], arrays.get("positions"), offset, fraction)
        return embedding, (arrays["cos"], arrays["sin"]) if turned else None

    def damaged_files(self) -> list[str]:
        """Files that are missing or not as they were exported, the manifest among them, and files that came up since and would
        be read."""
        manifest = [] if self._as_written() else [MANIFEST]
        files = self.manifest["files"]
        changed = [name for name, digest in files.items() if not hash_is(inside(self.path, name), digest)]
        added = [name for name in SOURCE_FILES if name not in files and os.path.lexists(self.path / name)]
        return manifest + changed + added

    def require_whole(self) -> None:
        """Raise `UsageError` where a file is damaged."""
        damaged = self.damaged_files()
        if damaged:
            raise UsageError(f"{self.path}: {damaged[0]} is not as it was exported ({len(damaged)} such files); export again")

    def digest(self) -> str:
        """One hash for the content, equal for equal requests, wherever the source lay."""
        return digest_of(self.manifest)

    def record(self, level: str, found: dict[str, Any]) -> None:
        """Write into the manifest what a verification found: how much was compared, how much differs, damaged files; it adds to
        what earlier ones covered.

        Raises:
            UsageError: the manifest cannot be written, or the folder by now holds another bundle; it is as it was then.
        """
        now = Bundle(self.path)  # hours may have passed
        if now.digest() != self.digest():
            raise UsageError(f"{self.path} was replaced by another bundle meanwhile; verify it again")
        entry = merged(now.verification.get(level), {"digest": self.digest(), **found})
        entries = {**now.verification, level: entry}
        manifest = sealed({**now.manifest, "verification": entries, "verified": passed(entries)})
        with disk_errors(self.path):
            save_json(self.path / MANIFEST, manifest)
        self.manifest = manifest

    def _as_written(self) -> bool:
        stored = self.manifest.get("digest"), self.manifest.get("checksum")
        return stored == (self.digest(), checksum(self.manifest))
