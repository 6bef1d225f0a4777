"""The manifest of a bundle: names of files, the two hashes that hold it, and the types of what is read from it.

Two hashes hold the manifest. `digest` is that of the content, equal for equal requests: all that a result depends on, which is
everything in the manifest but where the source lay, the versions on the machine, and statements about the bundle. `checksum` is
that of the whole manifest, so that no value in it changes in silence. Both are sha256 of JSON with sorted keys, and checked
when a bundle is opened. A verification is a statement about a digest, which its entry repeats.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import file_sha256
from kirin_lava.export.coverage import complete, covers
from kirin_lava.graph.block import CLASSES, MASKED_LM, STATES
from kirin_lava.models.config import MOST, MOST_LAYERS, MOST_POSITIONS
from kirin_lava.models.tokenizer import CHAT_FILES, TOKENIZER_FILES

__all__ = [
    "EMBEDDING",
    "FORMAT",
    "JOURNAL",
    "MANIFEST",
    "SOURCE_FILES",
    "check_manifest",
    "checksum",
    "damaged_manifest",
    "digest_of",
    "hash_is",
    "host_name",
    "net_name",
    "passed",
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


def hash_is(path: Path, digest: object) -> bool:
    """Whether a file is there, can be read and has this sha256."""
    try:
        return os.path.isfile(path) and file_sha256(path) == digest  # Path.is_file raises for a name that is too long
    except UsageError:
        return False


def passed(entries: dict[str, Any]) -> bool:
    """Whether something was compared at every level that was run, all of it at one at least, and nothing differs."""
    fine = all(e["compared"] and not e["mismatches"] and not e["damaged"] for e in entries.values())
    return fine and any(complete(entry) for entry in entries.values())


def damaged_manifest(path: Path, problem: str) -> UsageError:
    """The error of a manifest that is not as it was written; path: of the bundle."""
    return UsageError(f"{path / MANIFEST}: {problem}: the bundle is damaged, export again")


def check_manifest(manifest: dict[str, Any], path: Path) -> None:
    """Raise `UsageError` where something that is read from a manifest without a further look has not the type it must have.

    Args:
        path: of the bundle, for errors.
    """
    _Check(manifest, path).everything()


@dataclass(frozen=True)
class _Check:
    manifest: dict[str, Any]
    path: Path

    def everything(self) -> None:
        """Raise at the first entry that is not as it must be."""
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
                raise damaged_manifest(self.path, f"{place}.covered is {reprlib.repr(entry['covered'])}")
        limits = {"layers": MOST_LAYERS, "max_positions": MOST_POSITIONS}
        counts = {**m["facts"], "max_positions": m["max_positions"]}
        for key in _COUNTS:
            if not 0 < counts[key] <= limits.get(key, MOST):
                raise damaged_manifest(self.path, f"{key} is {reprlib.repr(counts[key])}")
        if not 0 <= m["position_offset"] <= MOST:
            raise damaged_manifest(self.path, f"position_offset is {reprlib.repr(m['position_offset'])}")
        if not all(isinstance(digest, str) for digest in m["files"].values()):
            raise damaged_manifest(self.path, "files: a hash is no string")
        names = [self._check_block(block) for block in m["blocks"]]
        if len(set(names)) != len(names):
            raise damaged_manifest(self.path, f"blocks: {reprlib.repr(names)} holds a name twice")

    def _check_head(self, facts: dict[str, Any]) -> None:
        """What is said of an encoder's head; of a decoder's nothing is."""
        if "head" not in facts:
            return
        self._expect(facts, "facts.", {"head": str, "outputs": int})
        optional = {"labels": list, "pooling": str, "normalize": bool, "sentence_tokens": int}
        self._expect(facts, "facts.", {key: kind for key, kind in optional.items() if key in facts})
        if facts["head"] not in (STATES, MASKED_LM, CLASSES):
            raise damaged_manifest(self.path, f"facts.head is {reprlib.repr(facts['head'])}")
        for key in ("outputs", "sentence_tokens"):
            if not 0 < facts.get(key, 1) <= MOST:
                raise damaged_manifest(self.path, f"facts.{key} is {reprlib.repr(facts[key])}")

    def _check_weights(self, source: dict[str, Any]) -> None:
        """Types of the source's tensors; bundles of earlier versions state none."""
        if "weights" not in source:
            return
        self._expect(source, "source.", {"weights": dict})
        weights = source["weights"]
        self._expect(weights, "source.weights.", {"form": str, "types": dict, "bits": list})
        fine = weights["types"] and len(weights["bits"]) == 2
        if not fine or any(type(number) is not int for number in [*weights["types"].values(), *weights["bits"]]):
            raise damaged_manifest(self.path, f"source.weights is {reprlib.repr(weights)}")

    def _check_block(self, block: Any) -> str:
        """Names and files of a block; its operations are read by `block_from_json`."""
        name = block.get("name") if isinstance(block, dict) else None
        ops = block.get("ops") if isinstance(block, dict) else None
        if not isinstance(name, str) or not _BLOCK.fullmatch(name) or not isinstance(ops, list):
            raise damaged_manifest(
                self.path, f"a block is named {reprlib.repr(name)} and has operations of type {type(ops).__name__}"
            )
        files = [host_name(name), probe_name(name)]
        for op in ops:
            named = isinstance(op, dict) and ("net" not in op or isinstance(op.get("name"), str))
            if not named or not isinstance(op.get("net", ""), str):
                raise damaged_manifest(self.path, f"{name}: an operation is {reprlib.repr(op)}")
            files += [op["net"]] if "net" in op else []
        for file in [EMBEDDING, *files]:
            if file not in self.manifest["files"]:
                raise damaged_manifest(self.path, f"files: {reprlib.repr(file)} of {name} has no hash")
        return name

    def _expect(self, values: dict[str, Any], place: str, kinds: dict[str, Any]) -> None:
        for key, kind in kinds.items():
            value = values.get(key)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)) or (key not in values):
                raise damaged_manifest(self.path, f"{place}{key} is {reprlib.repr(value)}")
