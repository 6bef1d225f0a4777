"""Puts a finished bundle in its place, and clears up what an export left that was killed on the way.

    OUT.partial      the work; its journal says what is finished
    OUT              the bundle
    .OUT.replaced    an older bundle on its way out

Publication, step by step; a kill between any two leaves OUT whole, old or new, and everything that is not needed is found and
removed when the next export begins, before its work:

    1. OUT gets a .lock with the words of `_REPLACED`, held: the old bundle's mark
    2. OUT.partial and OUT change places in one step; what was OUT still has the mark
    3. OUT.partial, the old bundle now, becomes .OUT.replaced and is removed, the mark last
    4. OUT/.lock is removed, and at the very end OUT/journal.json: while it is there, `--resume` knows OUT for its own work

Where the system cannot exchange two folders, step 2 is OUT to .OUT.replaced and OUT.partial to OUT; killed between these two,
there is no OUT until the next export puts the old bundle back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, flush_folder
from kirin_lava.base.readers import check_path, read_json
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.manifest import JOURNAL, MANIFEST, SOURCE_FILES

__all__ = ["LOCK", "Place", "exchange", "remove_tree", "take_lock"]

LOCK = ".lock"
_REPLACED = "a newer bundle is put in the place of this one\n"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_KINDS = {"net": ".net", "host": ".safetensors", "probe": ".safetensors", "nir": ".nir"}


class Place:
    """Where a bundle is to be, with the two names beside it.

    Args:
        out: the folder to be.

    Raises:
        UsageError: OUT cannot be a name of a folder.
    """

    def __init__(self, out: Path):
        if not out.name:
            raise UsageError(f"{out} cannot be a bundle; give a folder that does not exist yet")
        check_path(out)
        self.out = Path(os.path.abspath(out))
        self.partial = self.out.with_name(f"{self.out.name}.partial")
        self.replaced = self.out.with_name(f".{self.out.name}.replaced")

    def check(self, force: bool) -> None:
        """Raise `UsageError` where no bundle may be written: something is there, and it may not or must not be replaced."""
        with disk_errors(self.out):
            if not os.path.lexists(self.out):
                return
            if not force:
                raise UsageError(f"{self.out} exists; give another folder, or --force to replace a bundle")
            if not _is_empty(self.out) and not _is_bundle(self.out):
                raise UsageError(
                    f"{self.out} is no bundle of this program, so --force does not replace it; give another folder"
                )

    def prepare(self, force: bool, resume: bool = False) -> bool:
        """Clear up, then `check`; returns whether OUT is what a killed export finished, for `resume` to go on from.

        Raises:
            UsageError: as `check`; another export is at work; a folder with the name of ours is not ours.
        """
        with disk_errors(self.out):
            self._settle_replaced(force and os.path.lexists(self.out))
            if resume and self.finished():
                return True
            self._settle_out()
        self.check(force)
        return False

    def finished(self) -> bool:
        """Whether OUT is a whole bundle whose publication lacks its last step."""
        try:
            return (self.out / JOURNAL).is_file() and not Bundle(self.out).damaged_files()
        except UsageError:
            return False

    def publish(self) -> None:
        """Put OUT.partial in the place of OUT; whoever calls holds the lock in OUT.partial."""
        with disk_errors(self.out):
            self._settle_replaced(needed=os.path.lexists(self.out))
            flush_folder(self.partial)
            if not os.path.lexists(self.out) or _is_empty(self.out):
                os.rename(self.partial, self.out)
                flush_folder(self.out.parent)
            else:
                with take_lock(self.out) as mark:
                    mark.truncate(0)
                    mark.write(_REPLACED)
                    mark.flush()
                    if exchange(self.partial, self.out):
                        os.rename(self.partial, self.replaced)
                    else:
                        os.rename(self.out, self.replaced)
                        os.rename(self.partial, self.out)
                    flush_folder(self.out.parent)
                    _remove_replaced(self.replaced)
            self.close()

    def close(self) -> None:
        """The last step of a publication."""
        (self.out / LOCK).unlink(missing_ok=True)
        flush_folder(self.out)
        (self.out / JOURNAL).unlink(missing_ok=True)

    def _settle_replaced(self, needed: bool) -> None:
        """An older bundle that was on its way out, under either of its two names; `needed`: .OUT.replaced must be free."""
        if _is_marked(self.partial) and not (self.partial / JOURNAL).exists():
            with take_lock(self.partial):
                self._settle_name(needed=True)
                os.rename(self.partial, self.replaced)
                _remove_replaced(self.replaced)
        self._settle_name(needed)

    def _settle_name(self, needed: bool) -> None:
        if not os.path.lexists(self.replaced) or not (_is_ours(self.replaced) or needed):
            return
        if not _is_ours(self.replaced):
            raise UsageError(
                f"{self.replaced} is no bundle of this program, but --force puts old bundles aside by this name; move it away"
            )
        with take_lock(self.replaced):
            if not os.path.lexists(self.out) and _is_bundle(self.replaced):
                os.rename(self.replaced, self.out)  # killed between two renames; `_settle_out` takes the mark away
            else:
                _remove_replaced(self.replaced)

    def _settle_out(self) -> None:
        """The mark of a replacement that did not come about, or the last step of one that did."""
        if _is_bundle(self.out) and ((self.out / JOURNAL).is_file() or (self.out / LOCK).is_file()):
            with take_lock(self.out):
                self.close()


def take_lock(folder: Path) -> IO[str]:
    """Hold the lock in a folder as long as the file is open.

    Raises:
        UsageError: another export holds it.
    """
    lock = open(folder / LOCK, "a")  # noqa: SIM115 (closed by the caller)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock.fileno()), os.stat(folder / LOCK)):
            raise BlockingIOError  # the other export has just renamed the folder away
    except (BlockingIOError, FileNotFoundError):
        lock.close()
        raise UsageError(f"another export writes to {folder} right now; wait for it or give another folder") from None
    except OSError:
        lock.close()
        raise
    return lock


def exchange(one: Path, other: Path) -> bool:
    """Have two folders change places in one step; False where the system cannot, and nothing was done."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if not renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def remove_tree(folder: Path, last: str) -> None:
    """Remove a folder; the file `last`, by which we know it for ours, goes when nothing else is left."""
    for path in sorted(folder.iterdir()):
        if path.name != last:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    (folder / last).unlink(missing_ok=True)
    folder.rmdir()


def _remove_replaced(folder: Path) -> None:
    """Remove an older bundle; without its manifest it is none any more, from the first moment on."""
    if not _is_marked(folder):  # an earlier version left no mark
        (folder / LOCK).write_text(_REPLACED)
    (folder / MANIFEST).unlink(missing_ok=True)
    remove_tree(folder, LOCK)


def _is_marked(folder: Path) -> bool:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return not folder.is_symlink() and (folder / LOCK).read_text(encoding="utf-8") == _REPLACED
    return False


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())


def _is_ours(folder: Path) -> bool:
    """Whether we put this folder aside: marked, a bundle, or the rest of one, by its names."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return _is_marked(folder) or _is_bundle(folder) or _is_empty(folder) or _is_rest(folder)


def _is_rest(folder: Path) -> bool:
    """What an earlier version left of a bundle: nothing but folders and files of a bundle, and of the first at least one."""
    parts = [path for path in folder.iterdir() if path.name in _KINDS and path.is_dir() and not path.is_symlink()]
    files = {LOCK, MANIFEST, "recipe.yaml", "README.md", "report.json", "report.html", "layers.csv", *SOURCE_FILES}
    others = [path for path in folder.iterdir() if path not in parts and path.name not in files]
    return bool(parts) and not others and all(path.suffix == _KINDS[part.name] for part in parts for path in part.iterdir())


def _is_bundle(path: Path) -> bool:
    """Whether this program wrote what is there: other programs have a manifest.json too."""
    if path.is_symlink() or not (path / MANIFEST).is_file():
        return False
    try:
        manifest = read_json(path / MANIFEST)
    except UsageError:
        return False
    return isinstance(manifest.get("format"), int) and {"kirin_lava", "files", "recipe"} <= set(manifest)
