"""Writes a bundle whole or not at all.

An export writes to OUT.partial, with a journal of finished blocks, and renames at the end: a killed export leaves no OUT, and
`--resume` goes on behind the last whole block. One export at a time holds the lock in OUT.partial.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np

import kirin_lava
from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, flush_folder, inside, save_arrays, save_json, save_text
from kirin_lava.base.readers import check_path, file_sha256, read_json
from kirin_lava.export.bundle import EMBEDDING, FORMAT, JOURNAL, MANIFEST, Probe, hash_is, host_name, net_name, probe_name
from kirin_lava.export.netx.write import write_segment
from kirin_lava.export.serial import block_to_json
from kirin_lava.graph.block import Block, Embedding
from kirin_lava.graph.ops import Decode
from kirin_lava.methods.recipe import Recipe
from kirin_lava.models.tokenizer import TOKENIZER_FILES

__all__ = ["BundleWriter", "check_out"]

LOCK, README = ".lock", "README.md"
SCRATCH = "recovery.pt"
_FOLDERS = ("net", "host", "probe")
_PACKAGES = ("torch", "transformers", "numpy", "h5py", "lava-nc", "lava-dl")
_SOURCE_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES)  # some tokenizers are found by the config


def check_out(out: Path, force: bool) -> None:
    """Raise `UsageError` where no bundle may be written: something is there, and it may not or must not be replaced."""
    if not out.name:
        raise UsageError(f"{out} cannot be a bundle; give a folder that does not exist yet")
    check_path(out)
    with disk_errors(out):
        if not os.path.lexists(out):
            return
        if not force:
            raise UsageError(f"{out} exists; give another folder, or --force to replace a bundle")
        empty = out.is_dir() and not out.is_symlink() and not any(out.iterdir())
        if not empty and not _is_bundle(out):
            raise UsageError(f"{out} is no bundle of this program, so --force does not replace it; give another folder")


class BundleWriter:
    """Writes one bundle. Use as a context manager: the lock is let go at the end, whatever happens.

    Args:
        out: the folder to be.
        request: plain values that decide the bundle's content, `blocks` among them, the names of all blocks in order; a
            resumed export must have the same.
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
        self.out = Path(os.path.abspath(out))
        check_out(self.out, force)
        self.partial = self.out.with_name(f"{self.out.name}.partial")
        self._old = self.out.with_name(f".{self.out.name}.replaced")
        self._force = force
        self.scratch = self.partial / SCRATCH  # state of an interrupted training
        self._request = {**request, "kirin_lava": kirin_lava.__version__}
        self._provenance = provenance or {}
        self._journal: dict[str, Any] = {"request": self._request, "blocks": {}}
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
        if not self._journal["blocks"] and not self.scratch.exists():  # nothing that a resumed export could use
            shutil.rmtree(self.partial, ignore_errors=True)
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
            for name, content in ((host_name(block.name), arrays), (probe_name(block.name), flat)):
                files.append(name)
                save_arrays(self.partial / name, content)
            hashes = {name: file_sha256(self.partial / name) for name in files}
            self._journal["blocks"][block.name] = {"graph": values, "files": hashes}
            save_json(self.partial / JOURNAL, self._journal)

    def finish(self, frame: dict[str, Any], source: dict[str, Any], recipe: Recipe, source_folder: Path) -> Path:
        """Write what belongs to the whole model; returns OUT.partial, a complete bundle that waits for `publish`."""
        with disk_errors(self.partial):
            embedding: Embedding = frame["embedding"]
            arrays = {"tokens": embedding.tokens}
            if embedding.positions is not None:
                arrays["positions"] = embedding.positions
            if frame["rotary"] is not None:
                arrays["cos"], arrays["sin"] = frame["rotary"]
            save_arrays(self.partial / EMBEDDING, arrays)
            save_text(self.partial / "recipe.yaml", recipe.to_yaml())
            names = [EMBEDDING, "recipe.yaml"]
            for name in _SOURCE_FILES:
                if (source_folder / name).is_file():
                    shutil.copyfile(source_folder / name, self.partial / name)
                    names.append(name)
            blocks = [self._journal["blocks"][name] for name in self._request["blocks"]]
            hashes = {name: digest for block in blocks for name, digest in block["files"].items()}
            hashes |= {name: file_sha256(self.partial / name) for name in names}
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
                "blocks": [block["graph"] for block in blocks],
                "files": dict(sorted(hashes.items())),
                "verified": False,
                "verification": None,
                "physical_fit_verified": False,
            }
            save_json(self.partial / MANIFEST, manifest)
        return self.partial

    def describe(self, card: str) -> None:
        """Write the model card, README.md."""
        with disk_errors(self.partial):
            save_text(self.partial / README, card)

    def publish(self) -> None:
        """Rename OUT.partial to OUT, in place of an older bundle."""
        with disk_errors(self.out):
            check_out(self.out, self._force)  # again: hours may have passed
            (self.partial / JOURNAL).unlink()
            flush_folder(self.partial)
            self._remove_old()
            if self.out.exists():
                os.rename(self.out, self._old)
            os.rename(self.partial, self.out)
            (self.out / LOCK).unlink(missing_ok=True)
            flush_folder(self.out.parent)
            self._remove_old()

    def _remove_old(self) -> None:
        """What an export put aside before it was killed, or this one does."""
        if os.path.lexists(self._old):
            check_out(self._old, force=True)
            shutil.rmtree(self._old)

    def _remove_others(self, hashes: dict[str, str]) -> None:
        """Files that a killed export left half written."""
        keep = {self.partial / name for name in [*hashes, JOURNAL, LOCK, MANIFEST, README]}
        for path in self.partial.rglob("*"):
            if path not in keep and not path.is_dir():
                path.unlink()

    def _take_lock(self) -> IO[str]:
        self.partial.mkdir(parents=True, exist_ok=True)
        lock = open(self.partial / LOCK, "w")  # noqa: SIM115 (closed by __exit__)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), os.stat(self.partial / LOCK)):
                raise BlockingIOError  # the other export has just renamed the folder away
        except (BlockingIOError, FileNotFoundError):
            lock.close()
            raise UsageError(f"another export writes to {self.partial} right now; wait for it or give another folder") from None
        except OSError:
            lock.close()
            raise
        return lock

    def _open_partial(self, resume: bool) -> None:
        others = sorted(p for p in self.partial.iterdir() if p.name != LOCK)
        ours = {JOURNAL, MANIFEST, f".{JOURNAL}.part"} & {p.name for p in others}
        if others and not ours and any(p.name not in _FOLDERS or any(p.iterdir()) for p in others):
            raise UsageError(f"{self.partial} holds files that are not ours ({others[0].name}); remove it first")
        if resume and (self.partial / JOURNAL).is_file():
            self._journal["blocks"] = self._whole_blocks()
        else:
            for path in others:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for folder in _FOLDERS:
            (self.partial / folder).mkdir(exist_ok=True)
        save_json(self.partial / JOURNAL, self._journal)

    def _whole_blocks(self) -> dict[str, Any]:
        """The blocks of the journal whose files are as they were written."""
        stored = read_json(self.partial / JOURNAL)
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
        odd = [key for key in self._request if request.get(key) != self._request[key]]
        if odd:
            raise UsageError(f"{self.partial} was begun with another {', '.join(odd)}; {anew}")
        if not known:
            raise UsageError(f"{self.partial / JOURNAL} is damaged; {anew}")
        return {
            name: block
            for name, block in blocks.items()
            if all(hash_is(inside(self.partial, file), digest) for file, digest in files[name].items())
        }


def _is_bundle(path: Path) -> bool:
    """Whether this program wrote what is there: other programs have a manifest.json too."""
    if path.is_symlink() or not (path / MANIFEST).is_file():
        return False
    try:
        manifest = read_json(path / MANIFEST)
    except UsageError:
        return False
    return isinstance(manifest.get("format"), int) and {"kirin_lava", "files", "recipe"} <= set(manifest)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
