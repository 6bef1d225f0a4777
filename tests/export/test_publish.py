"""What a killed export left is found before the next one works, known for ours, and removed; what is not ours stays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from kirin_lava.base.errors import UsageError
from kirin_lava.export import publish
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.manifest import JOURNAL, MANIFEST
from kirin_lava.export.publish import LOCK, Place, exchange, take_lock
from tests.export.small_bundles import small_bundle
from tests.exports import export
from tests.hf_models import save_model

MARK = publish._REPLACED


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "small", num_hidden_layers=1)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("old"), "llama", "fast")


@pytest.fixture
def out(pristine: Path, tmp_path: Path) -> Path:
    """An older bundle."""
    (tmp_path / "work").mkdir()
    return Path(shutil.copytree(pristine, tmp_path / "work" / "out"))


def again(model: Path, out: Path, **arguments: Any) -> list[str]:
    """Export; returns what was reported, and asserts that nothing else is there afterwards."""
    said: list[str] = []
    arguments = {"recipe": "fast", "num_samples": 1, "seq_len": 8, "verify_with": "none", **arguments}
    result = export(str(model), out, progress=lambda what, done, total: said.append(f"{what} {done}"), **arguments)
    assert os.listdir(out.parent) == ["out"] and not Bundle(out).damaged_files()
    assert Bundle(out).digest() == result.digest
    assert not {LOCK, JOURNAL} & set(os.listdir(out))
    return said


def half_removed(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder / "host")


def test_an_old_bundle_put_aside_by_an_earlier_version(model: Path, out: Path) -> None:
    """Fails at 5cef7d5, at the very end of the export: "is no bundle of this program"."""
    half_removed(Path(shutil.copytree(out, out.with_name(".out.replaced"))))
    again(model, out, force=True)


@pytest.mark.parametrize("rest", [[LOCK], [LOCK, "README.md"], [LOCK, "net", "notes of mine.txt"], []])
def test_the_rest_of_an_old_bundle(model: Path, out: Path, rest: list[str]) -> None:
    """By its mark, whatever else is left of it; the mark is the last to go, then there is an empty folder."""
    replaced = out.with_name(".out.replaced")
    replaced.mkdir()
    for name in rest:
        (replaced / name).write_text(MARK if name == LOCK else "")
    again(model, out, force=True)


def test_the_rest_is_removed_before_an_export_without_force_is_refused(model: Path, out: Path) -> None:
    replaced = Path(shutil.copytree(out, out.with_name(".out.replaced")))
    (replaced / LOCK).write_text(MARK)
    half_removed(replaced)
    with pytest.raises(UsageError, match="out exists; give another folder"):
        again(model, out)
    assert os.listdir(out.parent) == ["out"]


def test_a_folder_that_is_not_ours_is_found_before_the_work(model: Path, out: Path) -> None:
    """Fails at 5cef7d5, where this was found when all was converted."""
    replaced = out.with_name(".out.replaced")
    replaced.mkdir()
    (replaced / "thesis.tex").write_text("years of work")
    said: list[str] = []
    with pytest.raises(UsageError, match=r"\.out\.replaced is no bundle of this program.*move it away"):
        export(str(model), out, force=True, progress=lambda what, done, total: said.append(what))
    assert said == [] and os.listdir(replaced) == ["thesis.tex"] and not Bundle(out).damaged_files()
    fresh = out.with_name("fresh")
    replaced.rename(out.with_name(".fresh.replaced"))
    export(str(model), fresh, recipe="fast", num_samples=1, seq_len=8, verify_with="none")  # it is in nobody's way
    assert os.listdir(out.with_name(".fresh.replaced")) == ["thesis.tex"]


@pytest.mark.parametrize("seq_len", [8, 9])
def test_killed_behind_the_exchange(model: Path, out: Path, seq_len: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """OUT is new and lacks the last step, OUT.partial is old: the same request has nothing to do but that, another all."""
    with monkeypatch.context() as patched:
        patched.setattr(Place, "close", lambda self: None)
        patched.setattr(publish, "_remove_replaced", lambda folder: folder.rename(out.with_name("out.partial")))
        export(str(model), out, recipe="fast", num_samples=1, seq_len=8, verify_with="none", force=True)
    assert sorted(os.listdir(out.parent)) == ["out", "out.partial"] and (out / JOURNAL).is_file()
    said = again(model, out, seq_len=seq_len, resume=True, force=seq_len != 8)
    assert len(said) == (1 if seq_len == 8 else 4), said


def test_killed_between_two_renames(model: Path, out: Path) -> None:
    """Where two folders cannot be exchanged: the old bundle is put back first."""
    digest = Bundle(out).digest()
    (out / LOCK).write_text(MARK)
    out.rename(out.with_name(".out.replaced"))
    with pytest.raises(UsageError, match="out exists"):
        again(model, out)
    assert Bundle(out).digest() == digest and os.listdir(out.parent) == ["out"] and not (out / LOCK).exists()


def test_the_mark_of_a_replacement_that_did_not_come_about(model: Path, out: Path) -> None:
    (out / LOCK).write_text(MARK)
    with pytest.raises(UsageError, match="out exists"):
        again(model, out)
    assert not (out / LOCK).exists()
    (out / LOCK).write_text(MARK)
    again(model, out, force=True)


def test_what_another_export_removes_right_now_is_left_to_it(model: Path, out: Path) -> None:
    replaced = Path(shutil.copytree(out, out.with_name(".out.replaced")))
    (replaced / LOCK).write_text(MARK)
    with take_lock(replaced), pytest.raises(UsageError, match=r"another export writes to .*\.out\.replaced right now"):
        again(model, out, force=True)
    assert (replaced / MANIFEST).is_file()


def test_a_foreign_folder_gets_no_lock(model: Path, tmp_path: Path) -> None:
    """Fails at 5cef7d5, which left its .lock there."""
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds files that are not ours"):
        export(str(model), tmp_path / "out")
    assert os.listdir(partial) == ["thesis.tex"]


def test_an_exchange_is_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was {name}").touch()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot exchange two folders")
    assert os.listdir(tmp_path / "a") == ["was b"] and os.listdir(tmp_path / "b") == ["was a"]
    with pytest.raises(OSError, match="No such file or directory"):
        exchange(tmp_path / "a", tmp_path / "none")


def test_out_needs_a_name() -> None:
    with pytest.raises(UsageError, match="cannot be a bundle"):
        Place(Path("/"))
