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

Two hashes hold the manifest. `digest` is that of the content, equal for equal requests: all that a result depends on, which is
everything in the manifest but where the source lay, the versions on the machine, and statements about the bundle. `checksum` is
that of the whole manifest, so that no value in it changes in silence. Both are sha256 of JSON with sorted keys, and checked
when a bundle is opened. A verification is a statement about a digest, which its entry repeats.

Format 2. A bundle comes from anywhere: nothing in it is believed before it is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, inside, load_arrays, save_json
from kirin_lava.base.integers import MESSAGE_LIMIT
from kirin_lava.base.readers import check_path, file_sha256, read_json
from kirin_lava.export.coverage import complete, covers, merged
from kirin_lava.export.netx.read import StoredSegment, read_segment
from kirin_lava.export.serial import block_from_json
from kirin_lava.graph.block import CLASSES, MASKED_LM, STATES, Block, Embedding, Model, require_same_units
from kirin_lava.graph.ops import Linear, Rotary
from kirin_lava.graph.ops.integer import IntegerRotary
from kirin_lava.graph.values import Array
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models.config import MOST, MOST_LAYERS, MOST_POSITIONS
from kirin_lava.models.tokenizer import CHAT_FILES, TOKENIZER_FILES
from kirin_lava.quantize.record import Probe

__all__ = [
    "EMBEDDING",
    "FORMAT",
    "JOURNAL",
    "MANIFEST",
    "SOURCE_FILES",
    "Bundle",
    "Probe",
    "checksum",
    "digest_of",
    "hash_is",
    "host_name",
    "net_name",
    "probe_name",
    "sealed",
]

FORMAT = 3
MANIFEST, JOURNAL, EMBEDDING = "manifest.json", "journal.json", "host/embedding.safetensors"
SOURCE_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES, *CHAT_FILES)  # some tokenizers need the config
"""Copied from the source where it has them; one that comes up later would change what is generated."""
_NOT_CONTENT = ("kirin_lava", "versions", "digest", "checksum", "verified", "verification", "physical_fit_verified")
_BLOCK = re.compile(r"blocks\.\d{1,6}|head")
_COUNTS = ("layers", "width", "heads", "kv_heads", "head_dim", "hidden", "vocabulary", "max_positions")


def net_name(block: str, segment: str) -> str:
    """Path of a segment's file in the bundle."""
    return f"net/{block}.{segment}.net"


def host_name(block: str) -> str:
    """Path of a block's host arrays."""
    return f"host/{block}.safetensors"


def probe_name(block: str) -> str:
    """Path of a block's probe."""
    return f"probe/{block}.safetensors"


def checksum(values: dict[str, Any]) -> str:
    """Hash of all entries but `checksum` itself."""
    return _sha256({key: value for key, value in values.items() if key != "checksum"})


def digest_of(manifest: dict[str, Any]) -> str:
    """Hash of all that a result depends on. Everything counts that is not known to be without consequence."""
    content = {key: value for key, value in manifest.items() if key not in _NOT_CONTENT}
    told = ("model", "license", "weights")  # where it lay, and what follows from its files
    content["source"] = {key: value for key, value in manifest["source"].items() if key not in told}
    return _sha256(content)


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with both hashes as they must be."""
    hashed = {**manifest, "digest": digest_of(manifest)}
    return {**hashed, "checksum": checksum(hashed)}


def _sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


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
        self._check_manifest()
        self.recipe = Recipe.from_dict(self.manifest.get("recipe"), f"{path / MANIFEST}: recipe")
        if intact and not self._as_written():
            raise self._odd("it is not as it was written (its digest or checksum tells)")

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
        return self.manifest["verified"] and _passed(self.verification)

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
        manifest = sealed({**now.manifest, "verification": entries, "verified": _passed(entries)})
        with disk_errors(self.path):
            save_json(self.path / MANIFEST, manifest)
        self.manifest = manifest

    def _as_written(self) -> bool:
        stored = self.manifest.get("digest"), self.manifest.get("checksum")
        return stored == (self.digest(), checksum(self.manifest))

    def _check_manifest(self) -> None:
        """Everything that is read from the manifest without a further look has the type it must have."""
        m = self.manifest
        self._expect(m, "", {"blocks": list, "files": dict, "facts": dict, "source": dict, "recipe": dict, "versions": dict})
        self._expect(
            m, "", {"max_positions": int, "position_offset": int, "verified": bool, "verification": (dict, type(None))}
        )
        if "fraction" in m:
            self._expect(m, "", {"fraction": int})
        self._expect(m["source"], "source.", {"model": str, "name": str, "revision": (str, type(None))})
        self._expect(m["source"], "source.", {"sha256": dict, "calibration": dict})
        self._expect(m["source"]["calibration"], "source.calibration.", {"sha256": str, "passages": list})
        self._check_weights(m["source"])
        self._expect(m["facts"], "facts.", {"model_type": str, **dict.fromkeys(_COUNTS, int)})
        self._check_head(m["facts"])
        for level, entry in (m["verification"] or {}).items():
            place = f"verification.{reprlib.repr(level)}"
            self._expect(m["verification"], "verification.", {level: dict})
            self._expect(entry, f"{place}.", {"digest": str, "compared": int, "mismatches": int, "damaged": int})
            self._expect(entry, f"{place}.", {"backends": list, "milliseconds_per_step": dict})
            if not covers(entry.get("covered")):
                raise self._odd(f"{place}.covered is {reprlib.repr(entry['covered'])}")
        limits = {"layers": MOST_LAYERS, "max_positions": MOST_POSITIONS}
        counts = {**m["facts"], "max_positions": m["max_positions"]}
        for key in _COUNTS:
            if not 0 < counts[key] <= limits.get(key, MOST):
                raise self._odd(f"{key} is {reprlib.repr(counts[key])}")
        if not 0 <= m["position_offset"] <= MOST:
            raise self._odd(f"position_offset is {reprlib.repr(m['position_offset'])}")
        if not all(isinstance(digest, str) for digest in m["files"].values()):
            raise self._odd("files: a hash is no string")
        names = [self._check_block(block) for block in m["blocks"]]
        if len(set(names)) != len(names):
            raise self._odd(f"blocks: {reprlib.repr(names)} holds a name twice")

    def _check_head(self, facts: dict[str, Any]) -> None:
        """What is said of an encoder's head; of a decoder's nothing is."""
        if "head" not in facts:
            return
        self._expect(facts, "facts.", {"head": str, "outputs": int})
        optional = {"labels": list, "pooling": str, "normalize": bool, "sentence_tokens": int}
        self._expect(facts, "facts.", {key: kind for key, kind in optional.items() if key in facts})
        if facts["head"] not in (STATES, MASKED_LM, CLASSES):
            raise self._odd(f"facts.head is {reprlib.repr(facts['head'])}")
        for key in ("outputs", "sentence_tokens"):
            if not 0 < facts.get(key, 1) <= MOST:
                raise self._odd(f"facts.{key} is {reprlib.repr(facts[key])}")

    def _check_weights(self, source: dict[str, Any]) -> None:
        """Types of the source's tensors; bundles of earlier versions state none."""
        if "weights" not in source:
            return
        self._expect(source, "source.", {"weights": dict})
        weights = source["weights"]
        self._expect(weights, "source.weights.", {"form": str, "types": dict, "bits": list})
        fine = weights["types"] and len(weights["bits"]) == 2
        if not fine or any(type(number) is not int for number in [*weights["types"].values(), *weights["bits"]]):
            raise self._odd(f"source.weights is {reprlib.repr(weights)}")

    def _check_block(self, block: Any) -> str:
        """Names and files of a block; its operations are read by `block_from_json`."""
        name = block.get("name") if isinstance(block, dict) else None
        ops = block.get("ops") if isinstance(block, dict) else None
        if not isinstance(name, str) or not _BLOCK.fullmatch(name) or not isinstance(ops, list):
            raise self._odd(f"a block is named {reprlib.repr(name)} and has operations of type {type(ops).__name__}")
        files = [host_name(name), probe_name(name)]
        for op in ops:
            named = isinstance(op, dict) and ("net" not in op or isinstance(op.get("name"), str))
            if not named or not isinstance(op.get("net", ""), str):
                raise self._odd(f"{name}: an operation is {reprlib.repr(op)}")
            files += [op["net"]] if "net" in op else []
        for file in [EMBEDDING, *files]:
            if file not in self.manifest["files"]:
                raise self._odd(f"files: {reprlib.repr(file)} of {name} has no hash")
        return name

    def _expect(self, values: dict[str, Any], place: str, kinds: dict[str, Any]) -> None:
        for key, kind in kinds.items():
            value = values.get(key)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)) or (key not in values):
                raise self._odd(f"{place}{key} is {reprlib.repr(value)}")

    def _odd(self, problem: str) -> UsageError:
        return UsageError(f"{self.path / MANIFEST}: {problem}: the bundle is damaged, export again")


def _passed(entries: dict[str, Any]) -> bool:
    """Whether something was compared at every level that was run, all of it at one at least, and nothing differs."""
    fine = all(e["compared"] and not e["mismatches"] and not e["damaged"] for e in entries.values())
    return fine and any(complete(entry) for entry in entries.values())


def hash_is(path: Path, digest: object) -> bool:
    """Whether a file is there, can be read and has this sha256."""
    try:
        return os.path.isfile(path) and file_sha256(path) == digest  # Path.is_file raises for a name that is too long
    except UsageError:
        return False
