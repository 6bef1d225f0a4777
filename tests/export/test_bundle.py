"""Bundles: written whole or not at all, the same bytes every time, and read without trust."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import inside, load_arrays, save_arrays, save_json
from kirin_lava.export import bundle_write
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.bundle_write import BundleWriter
from kirin_lava.export.manifest import EMBEDDING, FORMAT, JOURNAL, MANIFEST, checksum, sealed
from kirin_lava.export.publish import LOCK, Place
from kirin_lava.graph.executor import Executor
from kirin_lava.methods.recipe import Recipe, load_recipe
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.quantize.convert import convert_model
from kirin_lava.tasks.export import ExportResult
from tests.exports import export
from tests.hf_models import save_model

SMALL: dict[str, Any] = {"recipe": "fast", "num_samples": 1, "seq_len": 8, "verify_with": "none"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two layers."""
    return save_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def pristine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle; not to be changed."""
    out = tmp_path_factory.mktemp("bundles") / "small"
    export(str(model), out, **SMALL)
    return out


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the bundle."""
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file but the model card, which names its folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---- written whole ----------------------------------------------------------------------------------------------------


def test_the_same_request_gives_the_same_bytes(model: Path, pristine: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(model, tmp_path / "elsewhere" / "small"))
    for i, source in enumerate((model, moved)):
        result = export(str(source), tmp_path / f"again{i}", **SMALL)
        assert result.digest == Bundle(pristine).digest()
        again = contents(tmp_path / f"again{i}")
        if source == moved:  # only the manifest says where the source was found
            assert again.pop(MANIFEST)
        assert again.items() <= contents(pristine).items()
    assert set(contents(pristine)) == set(Bundle(pristine).manifest["files"]) | {MANIFEST}
    assert Bundle(pristine).damaged_files() == []


def test_the_model_card_names_the_bundle_and_its_digest(pristine: Path) -> None:
    card = (pristine / "README.md").read_text()
    assert f"kirin-lava run {pristine.name} " in card and Bundle(pristine).digest()[:16] in card
    assert ".partial" not in card and "Not verified on Lava" in card


def test_whoever_may_read_the_folder_may_read_every_file(pristine: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in pristine.rglob("*") if path.is_file()} == {0o666 & ~umask}


def test_another_request_gives_another_digest(model: Path, pristine: Path, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{"seed": 1}, {"seq_len": 9}, {"recipe": "kirin-w8a5-12"}]
    digests = {export(str(model), tmp_path / str(i), **{**SMALL, **c}).digest for i, c in enumerate(changes)}
    assert len(digests | {Bundle(pristine).digest()}) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("fresh", 8), ("force", 4), ("renames", 1)])
def test_killed_at_any_moment(model: Path, tmp_path: Path, kind: str, kills: int) -> None:
    """SIGKILL before any of the calls that touch the disk, at every step of the publication: OUT is what it was or what it is
    to be; and the next run gives the same bytes, without help, and leaves nothing else."""
    script = Path(__file__).with_name("killed_exports.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(model), str(tmp_path), str(kills), kind]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    killed = report["killed"]
    publishing = [kill for kill in killed if kill["publishing"]]
    assert report["events"] > 50 and len(publishing) >= (3 if kind == "fresh" else 12)
    before = "nothing" if kind == "fresh" else "old"
    for kill in killed:
        assert kill["signal"] == 9, kill
        torn = kind == "renames" and kill["out"] == "nothing" and ".out.replaced" in kill["left"]
        assert kill["out"] in (before, "new") or torn, kill
        assert kill["publishing"] or kill["out"] == before, kill
        done = kind == "fresh" and kill["out"] == "new" and not kill["resume"]  # an export that says that there is a bundle
        assert kill["again"]["code"] == (2 if done else 0), kill
        assert kill["at the end"] == ["out"] and kill["same"], kill
        if kill["publishing"] and kill["resume"]:
            assert kill["again"]["converted"] == 0, kill
    assert {kill["out"] for kill in publishing} >= {before, "new"}


def interrupted(model: Path, out: Path, blocks: int, **changes: Any) -> Path:
    """An export that Ctrl-C ends behind its first blocks; returns OUT.partial."""

    def stop(what: str, done: int, total: int) -> None:
        if what == "convert layers" and done == blocks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(str(model), out, **{**SMALL, **changes}, progress=stop)
    assert not out.exists()
    return out.with_name(f"{out.name}.partial")


def converted(model: Path, out: Path, **changes: Any) -> tuple[list[int], ExportResult]:
    """Resume an export; how many blocks were done each time it said so."""
    seen: list[int] = []
    result = export(str(model), out, **{**SMALL, **changes}, resume=True, progress=lambda what, done, total: seen.append(done))
    return seen[1:], result


def test_resume_goes_on_behind_the_last_block(model: Path, pristine: Path, tmp_path: Path) -> None:
    for blocks in (1, 2, 3):
        out = tmp_path / f"out{blocks}"
        interrupted(model, out, blocks)
        seen, result = converted(model, out)
        assert seen == list(range(blocks, 4))
        assert result.digest == Bundle(pristine).digest() and contents(out) == contents(pristine)
    assert list(tmp_path.iterdir()) == [tmp_path / f"out{i}" for i in (1, 2, 3)] or len(list(tmp_path.iterdir())) == 3


def test_resume_converts_again_what_was_damaged(model: Path, pristine: Path, tmp_path: Path) -> None:
    """The order of the blocks stays, though the first one is now written last."""
    out = tmp_path / "out"
    partial = interrupted(model, out, 2)
    (partial / "host/blocks.0.safetensors").write_bytes(b"damaged")
    (partial / "net/.blocks.1.attn.o.net.part").write_bytes(b"half")
    (partial / "net/strange.net").write_bytes(b"?")
    seen, result = converted(model, out)
    assert seen == [1, 2, 3]
    assert result.digest == Bundle(pristine).digest() and contents(out) == contents(pristine)
    assert Bundle(out).complete


def test_nothing_is_left_where_nothing_was_finished(model: Path, tmp_path: Path) -> None:
    partial = interrupted(model, tmp_path / "out", 0)
    assert not partial.exists()


def test_resume_with_another_request(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    partial = interrupted(model, out, 1)
    before = contents(partial)
    for changes, word in (({"seq_len": 9}, "source"), ({"recipe": "kirin-w8a5-12"}, "recipe"), ({"layers": (0, 1)}, "blocks")):
        with pytest.raises(UsageError, match=rf"out\.partial was begun with another {word}; leave out --resume"):
            converted(model, out, **changes)
        assert contents(partial) == before
    result = export(str(model), out, **{**SMALL, "seq_len": 9})  # without --resume it begins anew
    assert Bundle(out).digest() == result.digest and not partial.exists()


def test_resume_replaces_no_finished_bundle_of_another_request(pristine: Path, tmp_path: Path) -> None:
    """Even where the last step of its publication is missing, its journal being there."""
    out = tmp_path / "out"
    shutil.copytree(pristine, out)
    request = {"request": {"blocks": ["blocks.0"]}, "blocks": {}}
    (out / JOURNAL).write_text(json.dumps(request | {"checksum": checksum(request)}))
    with pytest.raises(UsageError, match="out exists; give another folder, or --force to replace a bundle"):
        BundleWriter(out, {"blocks": ["blocks.1"]}, resume=True)
    assert contents(out) == contents(pristine) and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_resume_without_anything_to_resume(model: Path, pristine: Path, tmp_path: Path) -> None:
    assert converted(model, tmp_path / "out")[1].digest == Bundle(pristine).digest()


@pytest.mark.parametrize(
    "journal",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"request": 3, "blocks": {}}',
        '{"request": {}, "blocks": [1]}',
        '{"request": {}, "blocks": {"a": 1}}',
    ],
)
def test_a_damaged_journal(model: Path, tmp_path: Path, journal: str) -> None:
    out = tmp_path / "out"
    (interrupted(model, out, 1) / JOURNAL).write_text(journal)
    with pytest.raises(UsageError, match=r"journal\.json|out\.partial"):
        converted(model, out)
    export(str(model), out, **SMALL)


@pytest.mark.parametrize("journal", ["{", "[]"])
def test_a_bundle_beside_a_journal_of_nobody_is_not_taken_for_the_one_that_was_asked_for(
    model: Path, bundle: Path, journal: str
) -> None:
    (bundle / JOURNAL).write_text(journal)
    with pytest.raises(UsageError, match="exists"):
        converted(model, bundle)


def test_versions_are_those_of_the_packages_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_write, "_PACKAGES", ("a-package-that-nobody-has", "numpy"))
    assert bundle_write._versions() == {"python": platform.python_version(), "numpy": np.__version__}


def test_segments_are_read_as_they_were_written_unless_asked_otherwise(bundle: Path) -> None:
    name = next(iter(Bundle(bundle).nets("blocks.0").values()))
    with h5py.File(bundle / name, "r+") as file:
        file["layer/0/weight"][0, 0] ^= 1
    with pytest.raises(UsageError, match="layer/0/weight: is not what was written"):
        Bundle(bundle).segments("blocks.0")
    assert len(Bundle(bundle).segments("blocks.0", intact=False)) == len(Bundle(bundle).nets("blocks.0"))


def test_a_journal_that_points_elsewhere(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    partial = interrupted(model, out, 1)
    journal = json.loads((partial / JOURNAL).read_text())
    edits: list[dict[str, Any]] = [{"files": {"../../etc/passwd": "0"}}, {"files": []}, {"graph": 1}]
    for edit in edits:
        edited = {**journal, "blocks": {"blocks.0": {**journal["blocks"]["blocks.0"], **edit}}}
        (partial / JOURNAL).write_text(json.dumps({**edited, "checksum": checksum(edited)}))
        with pytest.raises(UsageError, match=r"leads out of the bundle|journal\.json is damaged; leave out --resume"):
            converted(model, out)


def test_two_exports_to_one_place(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refusals = []

    def second(what: str, done: int, total: int) -> None:
        if what == "convert layers":
            for resume in (False, True):
                with pytest.raises(
                    UsageError, match=r"another export writes to .*out\.partial right now; wait for it"
                ) as caught:
                    export(str(model), out, **SMALL, resume=resume)
                refusals.append(caught.value)

    export(str(model), out, **SMALL, progress=second)
    assert len(refusals) == 8 and Bundle(out).damaged_files() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_out_that_comes_up_meanwhile_is_not_replaced(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def appear(what: str, done: int, total: int) -> None:
        out.mkdir(exist_ok=True)
        (out / "mine.txt").write_text("keep me")

    with pytest.raises(UsageError, match="out exists; give another folder"):
        export(str(model), out, **SMALL, progress=lambda what, done, total: appear(what, done, total) if done == 3 else None)
    assert contents(out) == contents(out) and (out / "mine.txt").read_text() == "keep me"


# ---- what is there already --------------------------------------------------------------------------------------------


def test_an_existing_bundle(model: Path, bundle: Path) -> None:
    before = contents(bundle)
    with pytest.raises(UsageError, match="bundle exists; give another folder, or --force"):
        export(str(model), bundle, **SMALL)
    assert contents(bundle) == before
    (bundle / "net" / "blocks.0.attn.o.net").unlink()
    export(str(model), bundle, **SMALL, force=True)
    assert contents(bundle).keys() == before.keys() and Bundle(bundle).damaged_files() == []
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["bundle"]


@pytest.mark.parametrize("kind", ["file", "folder", "manifest of another program", "broken manifest", "link", "dangling link"])
def test_force_does_not_replace_what_is_not_ours(model: Path, tmp_path: Path, bundle: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("text")
    elif kind == "link":
        out.symlink_to(bundle)
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
        name, text = {
            "folder": ("thesis.tex", "years of work"),
            "manifest of another program": (MANIFEST, '{"format": 1, "files": []}'),
            "broken manifest": (MANIFEST, "{"),
        }[kind]
        (out / name).write_text(text)
    before = (contents(out), out.lstat().st_ino)
    for force in (False, True):
        with pytest.raises(
            UsageError, match="out exists" if not force else "is no bundle of this program, so --force does not"
        ):
            export(str(model), out, **SMALL, force=force)
        assert (contents(out), out.lstat().st_ino) == before
    assert not (tmp_path / "out.partial").exists()


def test_force_takes_an_empty_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(str(model), tmp_path / "out", **SMALL, force=True)
    assert Bundle(tmp_path / "out").complete


def test_a_partial_folder_that_is_not_ours(model: Path, tmp_path: Path) -> None:
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"out\.partial holds files that are not ours \(thesis\.tex\); remove it first"):
            export(str(model), tmp_path / "out", **SMALL, resume=resume)
    assert (partial / "thesis.tex").read_text() == "years of work"


def test_a_folder_of_the_users_where_the_old_bundle_would_be_put_aside(model: Path, bundle: Path) -> None:
    other = bundle.with_name(f".{bundle.name}.replaced")
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is no bundle of this program"):
        export(str(model), bundle, **SMALL, force=True)
    assert (other / "thesis.tex").exists() and Bundle(bundle).damaged_files() == []


@pytest.mark.parametrize("name", ["/", "//"])
def test_out_without_a_name(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a bundle"):
        Place(Path(name)).prepare(force=True)


def test_odd_names(model: Path, tmp_path: Path) -> None:
    for name in ("a b", "[red]x[/red] ünï \n", "x" * 240):
        source = Path(shutil.copytree(model, tmp_path / "models" / name))
        out = tmp_path / "bundles" / name
        export(str(source), out, **SMALL)
        assert Bundle(out).manifest["source"]["model"] == str(source) and not Bundle(out).damaged_files()


def test_names_that_are_no_text(model: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    out = tmp_path / name
    text = tmp_path / f"{name}.txt"
    text.write_text("A calibration text of some words.")
    export(str(model), out, **SMALL, calibration=text)
    read_all(out)
    source = Path(shutil.copytree(model, tmp_path / "models" / name))
    with pytest.raises(UsageError, match="the path is no UTF-8, which safetensors needs; rename the folder"):
        export(str(source), tmp_path / "other", **SMALL)


# ---- the disk ---------------------------------------------------------------------------------------------------------

LIMITED = """
import os, resource, sys
import torch
from pathlib import Path
from kirin_lava.base.errors import UsageError
from tests.exports import export
torch.set_num_threads(1)
arguments = dict(recipe="fast", num_samples=1, seq_len=8, verify_with="none")
export(sys.argv[1], Path(sys.argv[2] + "-free"), **arguments)
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        export(sys.argv[1], Path(sys.argv[2]), **arguments)
    except UsageError as error:
        print(error.exit_code, error)
    assert not os.path.exists(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
export(sys.argv[1], Path(sys.argv[2]), **arguments, resume=True)
"""


def test_a_disk_that_takes_no_more(model: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: it stops the writers of HDF5, safetensors and JSON in turn."""
    limits = ["0", "500", "12000", "35000"]
    command = [sys.executable, "-c", LIMITED, str(model), str(tmp_path / "out"), *limits]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    assert len(said) == len(limits)
    for line in said:
        assert line.startswith(f"2 writing {tmp_path}/out.partial/") and "File too large" in line
    assert any(".net" in line for line in said) and any(".safetensors" in line for line in said)
    assert contents(tmp_path / "out") == contents(tmp_path / "out-free")


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A small file system of its own, where this user may mount one."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(model: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-o", "size=300k"):
        out = tmp_path / "disk" / "out"
        with pytest.raises(UsageError, match=r"No space left on device|GB free, the bundle may need"):
            export(str(model), out, **SMALL)
        assert not out.exists()
    with mounted(tmp_path / "crammed", "-o", "size=2m"):
        (tmp_path / "crammed" / "other").write_bytes(bytes(1_900_000))
        with pytest.raises(UsageError, match=r"crammed has [0-9.]+ kB free, the bundle may need [0-9.]+ kB|No space left"):
            export(str(model), tmp_path / "crammed" / "out", **SMALL)


def test_a_folder_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"writing .*file.* failed: (Not a directory|File exists)"):
        export(str(model), tmp_path / "file" / "out", **SMALL)
    with mounted(tmp_path / "disk"):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        with pytest.raises(UsageError, match=r"writing .*disk/out.* failed: Read-only file system"):
            export(str(model), tmp_path / "disk" / "out", **SMALL)


def test_errors_of_the_disk_name_the_file(tmp_path: Path) -> None:
    for write in (lambda path: save_json(path, {}), lambda path: save_arrays(path, {"a": np.zeros(3)})):
        with pytest.raises((UsageError, OSError)) as caught:
            write(tmp_path / "none" / "x.json")
        assert "none" in str(caught.value)
    with pytest.raises(UsageError, match=r"x\.safetensors does not exist; export again"):
        load_arrays(tmp_path / "x.safetensors")


# ---- read without trust -----------------------------------------------------------------------------------------------


def test_a_bundle_computes_what_it_was_made_from(model: Path, bundle: Path) -> None:
    ids = torch.tensor([[0, 5, 9]])
    made = convert_model(open_checkpoint(str(model)), [ids[0]], load_recipe("fast"))  # which looks at no text
    read = Bundle(bundle).model()
    assert [block.name for block in read.blocks] == [block.name for block in made.blocks]
    assert torch.equal(Executor(read).forward(ids), Executor(made).forward(ids))


def test_some_layers_alone(model: Path, tmp_path: Path) -> None:
    export(str(model), tmp_path / "out", **SMALL, layers=(1, 1))
    opened = Bundle(tmp_path / "out")
    assert opened.block_names == ["blocks.1"] and not opened.complete
    with pytest.raises(UsageError, match=r"holds only blocks\.1; export all layers to run the model"):
        opened.model()


def test_folders_that_are_no_bundle(model: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, model, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"is no bundle: it has no manifest\.json$"):
            Bundle(folder)
    partial = interrupted(model, tmp_path / "out", 1)
    with pytest.raises(UsageError, match=r"an unfinished export: run it again with --resume"):
        Bundle(partial)


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as somebody would who knows how it is hashed: its hashes fit."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    change(manifest)
    with contextlib.suppress(LookupError, TypeError, AttributeError):  # what has no hash is refused before it is looked at
        manifest = sealed(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def read_all(bundle: Path) -> None:
    """Everything that any command reads."""
    opened = Bundle(bundle)
    assert opened.digest() and opened.complete in (True, False)
    for name in opened.block_names:
        opened.segments(name, intact=False)
        opened.probes(name)
        opened.block(name)
    opened.model()
    opened.require_whole()


def op(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    """An operation of the first block."""
    found: dict[str, Any] = next(item for item in manifest["blocks"][0]["ops"] if item["name"] == name)
    return found


def set_op(name: str, **changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: op(manifest, name).update(changes)


def rule(kind: str, **entries: Any) -> dict[str, Any]:
    """A step rule as a manifest holds it."""
    return {"kind": kind, **entries}


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], object]:
    """Set one entry of the manifest; `...` takes it away."""

    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in path[:-1]:
            place = place[key]
        if value is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = value

    return change


HOSTILE: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("other format", put("format", value=1), f"bundle format 1 cannot be read, this version reads {FORMAT}"),
    ("format as text", put("format", value=str(FORMAT)), f"bundle format '{FORMAT}'"),
    ("format as bool", put("format", value=True), "bundle format True"),
    ("no format", put("format", value=...), "bundle format None"),
    *[(f"no {key}", put(key, value=...), f"{key} is None") for key in ("blocks", "files", "facts", "source", "max_positions")],
    ("no recipe", put("recipe", value=...), "recipe is None"),
    ("recipe with something new", put("recipe", "colour", value="red"), "unknown entry 'colour'"),
    ("recipe of a wrong type", put("recipe", "weights", "bits", value="4"), "bits is '4'"),
    ("blocks as entries", put("blocks", value={}), "blocks is {}"),
    ("a block as text", put("blocks", 0, value="x"), "a block is named None"),
    ("a block without operations", put("blocks", 0, "ops", value=...), "has operations of type NoneType"),
    ("operations as text", put("blocks", 0, "ops", value="abc"), "has operations of type str"),
    ("an operation as text", put("blocks", 0, "ops", 0, value="abc"), "an operation is 'abc'"),
    ("a block that leads out", put("blocks", 0, "name", value="../../x"), "a block is named '../../x'"),
    ("a block with a number for a name", put("blocks", 0, "name", value=0), "a block is named 0"),
    ("a block twice", put("blocks", 0, "name", value="blocks.1"), "holds a name twice"),
    (
        "a block of another model",
        put("blocks", 0, "name", value="blocks.7"),
        "'host/blocks.7.safetensors' of blocks.7 has no hash",
    ),
    ("net that leads out", set_op("attn.o", net="../../etc/passwd"), "'../../etc/passwd' of blocks.0 has no hash"),
    ("net of a wrong type", set_op("attn.o", net=3), "an operation is {"),
    (
        "net of another segment",
        set_op("attn.o", net="net/blocks.0.attn.qkv.net"),
        "holds segment 'attn.qkv' instead of 'attn.o'",
    ),
    ("file that leads out", put("files", "../../../../etc/passwd", value="0"), "leads out of the bundle"),
    ("absolute file", put("files", "/etc/passwd", value="0"), "leads out of the bundle"),
    ("file with a zero byte", put("files", "a\0b", value="0"), "cannot be a file"),
    ("file without a name", put("files", "", value="0"), "is no file name"),
    ("file with a long name", put("files", "x" * 5000, value="0"), "leads out of the bundle"),
    ("wrong hash", put("files", "recipe.yaml", value="0" * 64), "recipe.yaml is not as it was exported (1 such files)"),
    ("hash of a wrong type", put("files", "recipe.yaml", value=0), "files: a hash is no string"),
    ("facts as text", put("facts", "layers", value="2"), "facts.layers is '2'"),
    ("facts as bool", put("facts", "heads", value=True), "facts.heads is True"),
    ("endless layers", put("facts", "layers", value=10**12), "layers is 1000000000000"),
    ("negative width", put("facts", "width", value=-32), "width is -32"),
    ("no vocabulary", put("facts", "vocabulary", value=0), "vocabulary is 0"),
    ("another width", put("facts", "width", value=64), "weight has 32 values instead of 64"),
    ("another vocabulary", put("facts", "vocabulary", value=100), "the output 'logits' is not a real value of width 100"),
    ("endless positions", put("max_positions", value=10**15), "max_positions is 1000000000000000"),
    ("positions as a fraction", put("max_positions", value=64.0), "max_positions is 64.0"),
    (
        "more positions than rotary tables",
        put("max_positions", value=65),
        "cos is float32 of shape (64, 8), the manifest asks for",
    ),
    ("negative offset", put("position_offset", value=-1), "position_offset is -1"),
    ("source without calibration", put("source", "calibration", value=None), "source.calibration is None"),
    ("passages as text", put("source", "calibration", "passages", value="ab"), "source.calibration.passages is 'ab'"),
    ("source without a name", put("source", "name", value=...), "source.name is None"),
    ("verification as a list", put("verification", value=[1]), "verification is [1]"),
    ("verification as text", put("verification", value={"segment": "fine"}), "verification.segment is 'fine'"),
    ("verification of nothing known", put("verification", value={"segment": {}}), "verification.'segment'.digest is None"),
    (
        "verification without numbers",
        put("verification", value={"segment": {"digest": ""}}),
        "verification.'segment'.compared is None",
    ),
    ("verified as text", put("verified", value="yes"), "verified is 'yes'"),
    ("unknown kind", set_op("attn.residual", kind="Exec"), "kind 'Exec' is none of Norm, "),
    ("kind as a list", set_op("attn.residual", kind=["Add"]), "kind ['Add'] is none of"),
    ("fire phase as an operation", set_op("attn.residual", kind="Silence"), "kind 'Silence' is none of"),
    ("unknown entry", set_op("attn.residual", colour="red"), "entries colour are missing or unknown"),
    ("missing entry", lambda m: op(m, "attn.residual").pop("other"), "entries other are missing or unknown"),
    ("entry of a wrong type", set_op("attn.q", start="0"), "start is '0', not of type int"),
    ("number too large", set_op("attn.q", stop=10**400), "stop is a number of 401 digits"),
    ("fraction too large", set_op("input_layernorm", eps=10**400), "eps is a number of 401 digits"),
    ("not a number", set_op("input_layernorm", eps=float("nan")), "eps is NaN, which is no number of JSON"),
    ("endless", set_op("input_layernorm", eps=float("inf")), "eps is Infinity, which is no number of JSON"),
    ("null for a name", set_op("attn.residual", input=None), "input is missing"),
    ("missing array", set_op("input_layernorm", weight={"array": "none"}), "the array 'none' is missing"),
    ("array named by a list", set_op("input_layernorm", weight={"array": [1]}), "array: expected str, found list"),
    ("number for an array", set_op("input_layernorm", weight=1.0), "weight: expected dict, found float"),
    (
        "array of another kind",
        set_op("input_layernorm", weight={"array": "attn.o.decode.scale"}, groups=2),
        "32 values instead of 16",
    ),
    ("code unknown", set_op("attn.o.encode", code="rate"), "unknown code 'rate'"),
    ("code as a number", set_op("attn.o.encode", code=4), "code: expected str, found int"),
    ("cycle", set_op("attn.residual", other="y"), "value 'y' is read before it is written"),
    ("itself", set_op("attn.residual", input="middle"), "value 'middle' is read before it is written"),
    ("written twice", set_op("attn.residual", output="x"), "value 'x' is written twice"),
    ("output never written", put("blocks", 0, "output", value="z"), "the output 'z' is not a real value"),
    ("output of a wrong kind", put("blocks", 0, "output", value="attn.o.sums"), "the output 'attn.o.sums' is not a real value"),
    ("codes for a real value", set_op("attn.residual", other="attn.o.codes"), "value 'attn.o.codes' holds codes"),
    ("a real value for codes", set_op("attn.o", input="x"), "value 'x' holds real, which"),
    ("sums for codes", set_op("attn.score", input="attn.qkv.sums"), "holds sums"),
    ("another width added", set_op("attn.residual", other="qkv"), "other: 64 instead of 32"),
    ("slice beyond", set_op("attn.v", stop=65), "48:65 is no part of a value of width 64"),
    ("slice backwards", set_op("attn.v", start=64, stop=48), "64:48 is no part"),
    ("slice of nothing", set_op("attn.v", start=-1, stop=0), "-1:0 is no part"),
    ("no heads", set_op("attn.score", heads=0), "0 heads over 2 key/value heads"),
    ("endless heads", set_op("attn.score", heads=2**40, kv_heads=2**40), "heads over"),
    ("heads that do not divide", set_op("attn.q.rotary", heads=5), "a value of width 32 has no 5 heads"),
    ("heads of another width", set_op("attn.q.rotary", heads=8), "rotary tables: 8 instead of 4"),
    ("groups that do not divide", set_op("input_layernorm", groups=7), "has no 7 groups"),
    ("groups below one", set_op("attn.q.encode", groups=-4), "has no -4 groups"),
    ("steps per head where there must be one", set_op("attn.o.encode", groups=4), "groups: 4 instead of 1"),
    ("ratio too high", set_op("attn.o.encode", rule=rule("TokenBudget", ratio=0.9)), "ratio 0.9 is not within 0 to 0.5"),
    (
        "static step",
        set_op("attn.o.encode", rule=rule("StaticStep", step=0.0, ratio=0.1)),
        "step is 0.0, not a positive number",
    ),
    ("rule unknown", set_op("attn.o.encode", rule=rule("Linear")), "rule: kind 'Linear' is none of TokenBudget, "),
    ("rule by name", set_op("attn.o.encode", rule="TokenBudget"), "rule: expected dict, found str"),
    ("rule with something new", set_op("attn.o.encode", rule=rule("TokenBudget", ratio=0.1, step=1.0)), "entries step are"),
    (
        "rule of a wrong type",
        set_op("attn.o.encode", rule=rule("TokenBudget", ratio="0.1")),
        "ratio is '0.1', not of type float",
    ),
    ("no rule", set_op("attn.o.encode", rule=None), "rule is missing"),
    (
        "a row cached",
        set_op("attn.p.encode", cached=True),
        "a row of probabilities has one step for each head, and is not cached",
    ),
    ("keys that are not cached", set_op("attn.k.encode", cached=False), "is not cached"),
    ("codes cached for nobody", set_op("attn.o.encode", cached=True), "cached codes are read by no attention"),
    ("cached codes for others", set_op("attn.mix", cache="attn.k.codes"), "cached codes are read by no attention"),
    ("no factor", set_op("attn.softmax", factor=0.0), "factor is 0.0"),
    ("codes of another code", set_op("attn.score", code="offset"), "it takes offset codes, its input has"),
    (
        "probabilities as tokens",
        set_op("attn.p.encode", rule=rule("TokenBudget", ratio=0.1)),
        "holds real per head and position",
    ),
    (
        "tokens as probabilities",
        set_op("attn.o.encode", rule=rule("RowBudget", ratio=0.1)),
        "which this operation does not read",
    ),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_hostile_manifests(bundle: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(bundle, change)
    with pytest.raises(UsageError) as caught:
        read_all(bundle)
    said = str(caught.value)
    assert str(bundle) in said and message in said
    assert len(said) < 600 + len(str(bundle))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xff", b"[" * 100_000, b'{"a":' * 50_000, b"null"])
def test_manifests_that_are_no_json(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(UsageError, match=r"manifest\.json"):
        read_all(bundle)


def files_of(bundle: Path) -> list[str]:
    return sorted(Bundle(bundle).manifest["files"])


DAMAGES: list[Callable[[bytes], bytes | None]] = [
    lambda whole: None,
    lambda whole: b"",
    lambda whole: whole[: len(whole) // 2],
    lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
    lambda whole: b"\0" + whole[1:],
]


def test_every_file_is_needed_and_hashed(bundle: Path) -> None:
    for i, name in enumerate(files_of(bundle)):
        path = bundle / name
        whole = path.read_bytes()
        damaged = DAMAGES[i % len(DAMAGES)](whole)
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(UsageError) as caught:
            read_all(bundle)
        assert path.name in str(caught.value)
        assert Bundle(bundle).damaged_files() == [name]
        path.write_bytes(whole)
    read_all(bundle)


def test_links_that_lead_out(bundle: Path, tmp_path: Path) -> None:
    for name in [*files_of(bundle), MANIFEST]:
        path = bundle / name
        outside = tmp_path / "outside"
        shutil.move(path, outside)
        path.symlink_to(outside)
        with pytest.raises(UsageError, match="leads out of the bundle"):
            read_all(bundle)
        path.unlink()
        shutil.move(outside, path)
    (bundle / "net").rename(tmp_path / "net")
    (bundle / "net").symlink_to(tmp_path / "net")
    with pytest.raises(UsageError, match="leads out of the bundle"):
        read_all(bundle)


def test_a_bundle_behind_a_link(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    read_all(tmp_path / "link")


def test_a_circle_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError, match=r"cannot be a file|leads out"):
        inside(tmp_path, "a/x")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E8M0", "F4", "BF16", "C64", "F6_E2M3", "nonsense"])
def test_arrays_of_types_that_numpy_lacks(tmp_path: Path, dtype: str) -> None:
    size = {"BF16": 8, "C64": 32, "F4": 2, "F6_E2M3": 3}.get(dtype, 4)
    header = json.dumps({"a": {"dtype": dtype, "shape": [4], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    if dtype == "C64":
        assert load_arrays(path)["a"].dtype == np.complex64
        return
    with pytest.raises(UsageError, match=rf"^{path} cannot be read: "):
        load_arrays(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokens", lambda a: {**a, "tokens": a["tokens"][:-1]}),
        ("tokens", lambda a: {**a, "tokens": a["tokens"].astype(np.float64)}),
        ("tokens", lambda a: {k: v for k, v in a.items() if k != "tokens"}),
        ("cos", lambda a: {**a, "cos": a["cos"][:, :2]}),
        ("sin", lambda a: {k: v for k, v in a.items() if k != "sin"}),
        ("positions", lambda a: {**a, "positions": a["tokens"][:3]}),
    ],
)
def test_embeddings_that_do_not_fit(bundle: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = bundle / EMBEDDING
    save_arrays(path, change(load_arrays(path)))
    with pytest.raises(UsageError, match=rf"embedding\.safetensors: {name} is "):
        Bundle(bundle).model()


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {k: v for k, v in a.items() if k != "attn.o.codes"},
        lambda a: {k: v for k, v in a.items() if k != "attn.o.result"},
        lambda a: {k: v for k, v in a.items() if k != "attn.o.peak"},
        lambda a: {**a, "attn.o.codes": a["attn.o.codes"].astype(np.float32)},
        lambda a: {**a, "attn.o.result": a["attn.o.result"][:-1]},
        lambda a: {**a, "attn.o.peak": a["attn.o.result"]},
        lambda a: {**a, "attn.o.codes": a["attn.o.codes"][:0], "attn.o.result": a["attn.o.result"][:0]},
        lambda a: {**a, "alone": a["attn.o.codes"]},
    ],
)
def test_probes_that_do_not_fit(bundle: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = bundle / "probe/blocks.0.safetensors"
    save_arrays(path, change(load_arrays(path)))
    with pytest.raises(UsageError, match=r"probe/blocks\.0\.safetensors: the probe of "):
        Bundle(bundle).probes("blocks.0")


def test_a_writer_lets_go_of_its_lock(tmp_path: Path) -> None:
    request = {"blocks": ["head"], "recipe": Recipe().to_dict()}
    for _ in range(3):
        with BundleWriter(tmp_path / "out", request) as writer:
            assert (writer.folder / LOCK).exists() and not writer.finished("head")
        assert list(tmp_path.iterdir()) == []
