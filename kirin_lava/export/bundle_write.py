"""Writes a bundle whole or not at all.

An export writes to OUT.partial, with a journal of finished blocks, and puts it in its place at the end, see
`kirin_lava.export.publish`. A killed export leaves OUT as it was, and `--resume` goes on behind the last whole block. One
export at a time holds the lock in OUT.partial.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import kirin_lava
from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, inside, save_arrays, save_json, save_text
from kirin_lava.base.readers import file_sha256, read_json
from kirin_lava.export.bundle import Probe
from kirin_lava.export.manifest import (
    EMBEDDING,
    FORMAT,
    JOURNAL,
    MANIFEST,
    SOURCE_FILES,
    checksum,
    hash_is,
    host_name,
    net_name,
    probe_name,
    sealed,
)
from kirin_lava.export.netx.write import write_segment
from kirin_lava.export.publish import LOCK, Place, remove_tree, take_lock
from kirin_lava.export.serial import block_to_json
from kirin_lava.graph.block import Block, Embedding
from kirin_lava.graph.ops import Decode
from kirin_lava.graph.ops.integer import IntegerDecode
from kirin_lava.methods.recipe import Recipe

__all__ = ["BundleWriter"]

SaveFiles = Callable[[Path, tuple[str, ...]], list[str]]

README = "README.md"
SCRATCH = "recovery.pt"
_FOLDERS = ("net", "host", "probe")
_PACKAGES = ("torch", "transformers", "numpy", "h5py", "lava-nc", "lava-dl")


class BundleWriter:
    """Writes one bundle. Use as a context manager: the lock is let go at the end, whatever happens.

    Args:
        out: the folder to be.
        request: plain values that decide the bundle's content, `blocks` among them, the names of all blocks in order; a
            resumed export must have the same.
        resume: go on from OUT.partial. force: replace an existing bundle at OUT.
        provenance: words that go into every `.net`.

    Attributes:
        folder: where the bundle lies until it is published: OUT.partial.
        published: whether `resume` found the whole bundle at OUT already, and only the last step of its publication is missing;
            `folder` is OUT then.
    """

    def __init__(
        self,
        out: Path,
        request: dict[str, Any],
        resume: bool = False,
        force: bool = False,
        provenance: dict[str, str] | None = None,
    ):
        self._place = Place(out)
        self._force = force
        self._request = {**request, "kirin_lava": kirin_lava.__version__}
        self._provenance = provenance or {}
        self._journal: dict[str, Any] = {"request": self._request, "blocks": {}}
        self.published = self._place.prepare(force, resume) and self._is_asked_for(self._place.out)
        if resume and not self.published:
            self._place.prepare(force)
        self.folder = self._place.out if self.published else self._place.partial
        self.scratch = self.folder / SCRATCH  # state of an interrupted training
        with disk_errors(self.folder):
            if not self.published:
                self._require_ours()
                self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.folder)
            try:
                if not self.published:
                    self._open_partial(resume)
            except BaseException:
                self._lock.close()
                raise

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, *_: object) -> None:
        unused = not self.published and not self._journal["blocks"] and not self.scratch.exists()
        with contextlib.suppress(OSError):
            if unused:  # nothing that a resumed export could use
                self._remove_all_but_journal()
                remove_tree(self.folder, LOCK)
        self._lock.close()

    def finished(self, name: str) -> bool:
        """Whether a block was written before, by this export or the one that is resumed."""
        return name in self._journal["blocks"]

    def write_block(self, block: Block, probes: dict[str, Probe]) -> None:
        """Write a block: its segments, host arrays and probes. It counts as written once the journal names it."""
        files = []
        scales = {op.codes: op.scale for op in block.ops if isinstance(op, (Decode, IntegerDecode))}
        with disk_errors(self.folder):
            for linear in block.linears():
                files.append(net_name(block.name, linear.name))
                probe, scale = probes[linear.name], scales.get(linear.input)
                codes, peak = probe.codes.astype(np.int64), probe.peak.astype(np.int64)
                write_segment(self.folder / files[-1], linear, codes=codes, peak=peak, scale=scale, provenance=self._provenance)
            values, arrays = block_to_json(block, lambda op: net_name(block.name, op.name))
            flat = {f"{name}.{k}": getattr(p, k) for name, p in probes.items() for k in ("codes", "result", "peak")}
            for name, content in ((host_name(block.name), arrays), (probe_name(block.name), flat)):
                files.append(name)
                save_arrays(self.folder / name, content)
            hashes = {name: file_sha256(self.folder / name) for name in files}
            self._journal["blocks"][block.name] = {"graph": values, "files": hashes}
            self._save_journal()

    def finish(self, frame: dict[str, Any], source: dict[str, Any], recipe: Recipe, save: SaveFiles) -> Path:
        """Write what belongs to the whole model; returns `folder`, a complete bundle that waits for `publish`.

        Args:
            save: writes those of the named files of the source (config, tokenizer) that it has into a folder, and returns
                their names.
        """
        with disk_errors(self.folder):
            embedding: Embedding = frame["embedding"]
            arrays = {"tokens": embedding.tokens}
            if embedding.positions is not None:
                arrays["positions"] = embedding.positions
            if frame["rotary"] is not None:
                arrays["cos"], arrays["sin"] = frame["rotary"]
            save_arrays(self.folder / EMBEDDING, arrays)
            save_text(self.folder / "recipe.yaml", recipe.to_yaml())
            names = [EMBEDDING, "recipe.yaml", *save(self.folder, SOURCE_FILES)]
            blocks = [self._journal["blocks"][name] for name in self._request["blocks"]]
            hashes = {name: digest for block in blocks for name, digest in block["files"].items()}
            hashes |= {name: file_sha256(self.folder / name) for name in names}
            self._remove_others(hashes)
            manifest = {
                "format": FORMAT,
                "kirin_lava": kirin_lava.__version__,
                "versions": _versions(),
                "source": source,
                "recipe": recipe.to_dict(),
                "facts": frame["facts"],
                "max_positions": frame["max_positions"],
                "position_offset": embedding.position_offset,
                **({} if embedding.fraction is None else {"fraction": embedding.fraction}),
                "blocks": [block["graph"] for block in blocks],
                "files": dict(sorted(hashes.items())),
                "verified": False,
                "verification": None,
                "physical_fit_verified": False,
            }
            save_json(self.folder / MANIFEST, sealed(manifest))
        return self.folder

    def describe(self, card: str) -> None:
        """Write the model card, README.md."""
        with disk_errors(self.folder):
            save_text(self.folder / README, card)

    def publish(self) -> None:
        """Put the bundle at OUT, in place of an older one."""
        if self.published:
            with disk_errors(self.folder):
                self._place.close()
            return
        self._place.check(self._force)  # again: hours may have passed
        self._place.publish()

    def _remove_others(self, hashes: dict[str, str]) -> None:
        """Files that a killed export left half written."""
        keep = {self.folder / name for name in [*hashes, JOURNAL, LOCK, MANIFEST, README]}
        for path in self.folder.rglob("*"):
            if path not in keep and not path.is_dir():
                path.unlink()

    def _require_ours(self) -> None:
        others = sorted(p for p in self.folder.iterdir() if p.name != LOCK) if self.folder.exists() else []
        ours = {JOURNAL, MANIFEST, f".{JOURNAL}.part"} & {p.name for p in others}
        if others and not ours and any(p.name not in _FOLDERS or any(p.iterdir()) for p in others):
            raise UsageError(f"{self.folder} holds files that are not ours ({others[0].name}); remove it first")

    def _open_partial(self, resume: bool) -> None:
        if resume and (self.folder / JOURNAL).is_file():
            self._journal["blocks"] = self._whole_blocks()
        else:
            self._save_journal()  # first: by it we know the folder for ours, wherever the removal is cut short
            self._remove_all_but_journal()
        for folder in _FOLDERS:
            (self.folder / folder).mkdir(exist_ok=True)
        self._save_journal()

    def _remove_all_but_journal(self) -> None:
        for path in sorted(self.folder.iterdir()):
            if path.name not in (LOCK, JOURNAL):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def _save_journal(self) -> None:
        save_json(self.folder / JOURNAL, {**self._journal, "checksum": checksum(self._journal)})

    def _is_asked_for(self, folder: Path) -> bool:
        """Whether a journal is that of this very request."""
        try:
            stored = read_json(folder / JOURNAL)
        except UsageError:
            return False
        return stored.get("request") == self._request and stored.get("checksum") == checksum(stored)

    def _whole_blocks(self) -> dict[str, Any]:
        """The blocks of the journal whose files are as they were written."""
        stored = read_json(self.folder / JOURNAL)
        anew = "leave out --resume to begin anew"
        try:
            request, blocks = dict(stored["request"]), dict(stored["blocks"])
            files = {name: dict(block["files"]) for name, block in blocks.items()}
            known = all(
                isinstance(block["graph"], dict)
                and name in self._request["blocks"]
                and {host_name(name), probe_name(name)} <= set(files[name])
                for name, block in blocks.items()
            )
            blocks = {name: {"graph": block["graph"], "files": files[name]} for name, block in blocks.items()}
        except (LookupError, TypeError, ValueError):
            known, request, blocks, files = False, self._request, {}, {}
        known = known and stored.get("checksum") == checksum(stored)
        odd = [key for key in self._request if request.get(key) != self._request[key]]
        if odd:
            raise UsageError(f"{self.folder} was begun with another {', '.join(odd)}; {anew}")
        if not known:
            raise UsageError(f"{self.folder / JOURNAL} is damaged; {anew}")
        return {
            name: block
            for name, block in blocks.items()
            if all(hash_is(inside(self.folder, file), digest) for file, digest in files[name].items())
        }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
