"""The bundle: a folder that holds a converted model, written whole or not at all.

    manifest.json               format, source, recipe, versions, the graph, a hash of every file, verified: true | false
    recipe.yaml                 the recipe, ready to edit
    net/<block>.<segment>.net   one linear segment each, for unmodified lava-dl
    host/<block>.safetensors    float32 arrays of the host operations
    host/embedding.safetensors  token and position embeddings, rotary tables
    probe/<block>.safetensors   input codes and results of every linear segment on calibration text, as the compiler saw them
    tokenizer files, README.md

Format 1. An export writes to OUT.partial, with a journal of finished blocks, and renames at the end: a killed export leaves no
OUT, and `--resume` goes on behind the last whole block.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

import kirin_lava
from kirin_lava.checkpoint import file_sha256, read_json
from kirin_lava.errors import UsageError
from kirin_lava.export.files import disk_errors, inside, load_arrays, save_arrays, save_json, save_text
from kirin_lava.export.netx import write_segment
from kirin_lava.export.netx_read import Segment, read_segment
from kirin_lava.export.serial import block_from_json, block_to_json
from kirin_lava.graph import Block, Decode, Embedding, Linear, Model
from kirin_lava.recipe import Recipe

__all__ = ["FORMAT", "Bundle", "BundleWriter", "Probe", "net_name"]

FORMAT = 1
MANIFEST, JOURNAL, LOCK = "manifest.json", "journal.json", ".lock"
_PACKAGES = ("torch", "transformers", "numpy", "h5py", "lava-nc", "lava-dl")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)


def net_name(block: str, segment: str) -> str:
    """Path of a segment's file in the bundle."""
    return f"net/{block}.{segment}.net"


@dataclass(frozen=True, eq=False)
class Probe:
    """What a linear segment computed on calibration text when it was exported.

    Attributes:
        codes: (windows, K) int16 input codes.
        result: (windows, N) int32 sums, or output codes where the segment fires.
        peak: (N,) int32 largest |sum| of each neuron over the whole calibration sample.
    """

    codes: npt.NDArray[np.int16]
    result: npt.NDArray[np.int32]
    peak: npt.NDArray[np.int32]


class BundleWriter:
    """Writes one bundle. Use as a context manager: the lock is let go at the end, whatever happens.

    Args:
        out: the folder to be.
        request: plain values that decide the bundle's content; a resumed export must have the same.
        resume: go on from OUT.partial. force: replace an existing bundle at OUT.
        provenance: words that go into every `.net`.
    """

    def __init__(
        self,
        out: Path,
        request: dict[str, Any],
        resume: bool = False,
        force: bool = False,
        provenance: dict[str, str] | None = None,
    ):
        self.out, self.partial = out, out.with_name(f"{out.name}.partial")
        if out.exists() and not force:
            raise UsageError(f"{out} exists; give another folder, or --force to replace it")
        if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not (out / MANIFEST).is_file():
            raise UsageError(f"{out} is no bundle of this program, so --force does not replace it; give another folder")
        self._request = request
        self._provenance = provenance or {}
        self._journal: dict[str, Any] = {"request": request, "blocks": {}}
        with disk_errors(self.partial):
            self._lock = self._take_lock()
            try:
                self._open_partial(resume)
            except BaseException:
                self._lock.close()
                raise

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def finished(self, name: str) -> bool:
        """Whether a block was written before, by this export or the one that is resumed."""
        return name in self._journal["blocks"]

    def write_block(self, block: Block, probes: dict[str, Probe]) -> None:
        """Write a block: its segments, host arrays and probes. It counts as written once the journal names it."""
        files = []
        scales = {op.codes: op.scale for op in block.ops if isinstance(op, Decode)}
        with disk_errors(self.partial):
            for linear in block.linears():
                files.append(net_name(block.name, linear.name))
                probe, scale = probes[linear.name], scales.get(linear.input)
                codes, peak = probe.codes.astype(np.int64), probe.peak.astype(np.int64)
                write_segment(
                    self.partial / files[-1], linear, codes=codes, peak=peak, scale=scale, provenance=self._provenance
                )
            values, arrays = block_to_json(block, lambda op: net_name(block.name, op.name))
            flat = {f"{name}.{k}": getattr(p, k) for name, p in probes.items() for k in ("codes", "result", "peak")}
            for folder, content in (("host", arrays), ("probe", flat)):
                files.append(f"{folder}/{block.name}.safetensors")
                save_arrays(self.partial / files[-1], content)
            hashes = {name: file_sha256(self.partial / name) for name in files}
            self._journal["blocks"][block.name] = {"graph": values, "files": hashes}
            save_json(self.partial / JOURNAL, self._journal)

    def finish(self, frame: dict[str, Any], source: dict[str, Any], recipe: Recipe, tokenizer_folder: Path) -> Path:
        """Write what belongs to the whole model; returns OUT.partial, a complete bundle that waits for `publish`."""
        with disk_errors(self.partial):
            embedding: Embedding = frame["embedding"]
            arrays = {"tokens": embedding.tokens}
            if embedding.positions is not None:
                arrays["positions"] = embedding.positions
            if frame["rotary"] is not None:
                arrays["cos"], arrays["sin"] = frame["rotary"]
            save_arrays(self.partial / "host/embedding.safetensors", arrays)
            save_text(self.partial / "recipe.yaml", recipe.to_yaml())
            names = ["host/embedding.safetensors", "recipe.yaml"]
            for name in _TOKENIZER_FILES:
                if (tokenizer_folder / name).is_file():
                    shutil.copyfile(tokenizer_folder / name, self.partial / name)
                    names.append(name)
            blocks = self._journal["blocks"]
            hashes = {name: digest for block in blocks.values() for name, digest in block["files"].items()}
            hashes |= {name: file_sha256(self.partial / name) for name in names}
            manifest = {
                "format": FORMAT,
                "kirin_lava": kirin_lava.__version__,
                "versions": _versions(),
                "source": source,
                "recipe": recipe.to_dict(),
                "facts": frame["facts"],
                "max_positions": frame["max_positions"],
                "position_offset": embedding.position_offset,
                "blocks": [block["graph"] for block in blocks.values()],
                "files": dict(sorted(hashes.items())),
                "verified": False,
                "verification": None,
                "physical_fit_verified": False,
            }
            save_json(self.partial / MANIFEST, manifest)
        return self.partial

    def publish(self) -> None:
        """Rename OUT.partial to OUT, in place of an older bundle."""
        with disk_errors(self.out):
            (self.partial / JOURNAL).unlink()
            (self.partial / LOCK).unlink()
            old = self.out.with_name(f"{self.out.name}.replaced")
            if self.out.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(self.out, old)
            os.rename(self.partial, self.out)
            shutil.rmtree(old, ignore_errors=True)

    def _take_lock(self) -> IO[str]:
        self.partial.mkdir(parents=True, exist_ok=True)
        lock = open(self.partial / LOCK, "w")  # noqa: SIM115 (closed by __exit__)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise UsageError(f"another export writes to {self.partial} right now; wait for it or give another folder") from None
        return lock

    def _open_partial(self, resume: bool) -> None:
        journal = self.partial / JOURNAL
        others = [p for p in self.partial.iterdir() if p.name != LOCK]
        if resume and journal.is_file():
            stored = read_json(journal)
            if stored.get("request") != self._request:
                odd = [k for k in self._request if self._request[k] != (stored.get("request") or {}).get(k)]
                raise UsageError(f"{self.partial} was begun with another {', '.join(odd)}; leave out --resume to begin anew")
            self._journal = stored
            for name, block in list(stored["blocks"].items()):
                whole = all(_hash_is(self.partial / file, digest) for file, digest in block["files"].items())
                if not whole:
                    del stored["blocks"][name]
        elif others and not journal.is_file():
            raise UsageError(f"{self.partial} holds files that are not ours ({others[0].name}); remove it first")
        else:
            for path in others:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for folder in ("net", "host", "probe"):
            (self.partial / folder).mkdir(exist_ok=True)
        save_json(journal, self._journal)


class Bundle:
    """A bundle on disk. Opening reads the manifest; blocks are read when they are asked for.

    Raises:
        UsageError: not a bundle, another format, damaged; the message names the file.
    """

    def __init__(self, path: Path):
        if not (path / MANIFEST).is_file():
            hint = " (an unfinished export: run it again with --resume)" if (path / JOURNAL).is_file() else ""
            raise UsageError(f"{path} is no bundle: it has no {MANIFEST}{hint}")
        self.path = path
        self.manifest = read_json(path / MANIFEST)
        if self.manifest.get("format") != FORMAT:
            raise UsageError(f"{path}: bundle format {self.manifest.get('format')!r} cannot be read; this version reads {FORMAT}")
        for key, kind in (("blocks", list), ("files", dict), ("facts", dict), ("source", dict), ("max_positions", int)):
            if not isinstance(self.manifest.get(key), kind):
                raise UsageError(f"{path / MANIFEST}: {key} is missing or not a {kind.__name__}")
        self.recipe = Recipe.from_dict(self.manifest.get("recipe"), f"{path / MANIFEST}: recipe")

    @property
    def block_names(self) -> list[str]:
        """Names of the blocks in order; the last is the head where the model is whole."""
        return [str(block.get("name")) for block in self.manifest["blocks"]]

    @property
    def complete(self) -> bool:
        """Whether every layer of the source was converted."""
        return self.block_names == [f"blocks.{i}" for i in range(self.manifest["facts"].get("layers", -1))] + ["head"]

    def block(self, name: str) -> Block:
        """Read one block with its weights."""
        values = self.manifest["blocks"][self.block_names.index(name)]
        arrays = load_arrays(inside(self.path, f"host/{name}.safetensors"))

        def read_net(file: str) -> Linear:
            return read_segment(inside(self.path, file)).linear

        return block_from_json(values, arrays, read_net, str(self.path / MANIFEST))

    def segments(self, name: str, intact: bool = True) -> list[Segment]:
        """The linear segments of a block as their files have them; `intact` False reads an edited file too."""
        ops = self.manifest["blocks"][self.block_names.index(name)].get("ops") or []
        nets = [op["net"] for op in ops if isinstance(op, dict) and "net" in op]
        return [read_segment(inside(self.path, net), intact) for net in nets]

    def probes(self, name: str) -> dict[str, Probe]:
        """What the compiler saw: the probe of every linear segment of a block."""
        arrays = load_arrays(inside(self.path, f"probe/{name}.safetensors"))
        segments = sorted({key.rsplit(".", 1)[0] for key in arrays})
        try:
            return {s: Probe(arrays[f"{s}.codes"], arrays[f"{s}.result"], arrays[f"{s}.peak"]) for s in segments}
        except KeyError as error:
            raise UsageError(f"{self.path}/probe/{name}.safetensors has no array {error}") from None

    def model(self) -> Model:
        """The whole model; `UsageError` where only some layers were exported."""
        if not self.complete:
            raise UsageError(f"{self.path} holds only {', '.join(self.block_names)}; export all layers to run the model")
        arrays = load_arrays(self.path / "host/embedding.safetensors")
        if "tokens" not in arrays or ("cos" in arrays) != ("sin" in arrays):
            raise UsageError(f"{self.path}/host/embedding.safetensors has no tokens or half of the rotary tables")
        blocks = [self.block(name) for name in self.block_names]
        return Model(
            embedding=Embedding(arrays["tokens"], arrays.get("positions"), int(self.manifest.get("position_offset", 0))),
            blocks=tuple(blocks[:-1]),
            head=blocks[-1],
            rotary=(arrays["cos"], arrays["sin"]) if "cos" in arrays else None,
            max_positions=self.manifest["max_positions"],
            facts=self.manifest["facts"],
        )

    def damaged_files(self) -> list[str]:
        """Files that are missing or differ from the hash in the manifest."""
        return [name for name, digest in self.manifest["files"].items() if not _hash_is(inside(self.path, name), digest)]

    def require_whole(self) -> None:
        """Raise `UsageError` where a file is damaged."""
        damaged = self.damaged_files()
        if damaged:
            raise UsageError(f"{self.path}: {damaged[0]} is not as it was exported ({len(damaged)} such files); export again")

    def digest(self) -> str:
        """One hash for the content: that of all files' hashes, the recipe and the graph."""
        content = {key: self.manifest[key] for key in ("blocks", "files", "recipe", "facts", "source")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def record(self, update: Callable[[dict[str, Any]], None]) -> None:
        """Change the manifest and write it."""
        update(self.manifest)
        with disk_errors(self.path):
            save_json(self.path / MANIFEST, self.manifest)


def _hash_is(path: Path, digest: object) -> bool:
    return path.is_file() and file_sha256(path) == digest


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
