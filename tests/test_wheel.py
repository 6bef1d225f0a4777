"""The wheel and the source archive: built without a network, installed into an empty environment, used from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import kirin_lava

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def call(*command: object, **options: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return str(done.stdout)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both; the wheel is made from the source archive."""
    folder = tmp_path_factory.mktemp("built")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def programs(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel. What it depends on is borrowed from this one."""
    venv = tmp_path_factory.mktemp("empty") / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", venv)
    wheel = next(built.glob("*.whl"))
    call(sys.executable, "-m", "pip", "--python", venv / "bin/python", "install", "-q", "--no-deps", "--no-index", wheel)
    site = next((venv / "lib").glob("python*")) / "site-packages"
    # .pth files of a folder that comes from a .pth file are not read: the editable install of this one stays out
    (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return venv / "bin"


def test_the_archive_holds_what_is_needed_to_work_on_it(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"mkdocs.yml", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md", "README.md", "LICENSE", "Makefile"}
    wanted |= {"constraints.txt", "pyproject.toml", "docs/index.md", "docs/follow_a_value.ipynb", "tools/setup.sh"}
    assert wanted <= names, wanted - names
    tracked = call("git", "ls-files", cwd=ROOT).split() if (ROOT / ".git").exists() else []
    missing = {name for name in tracked if name not in names and not (ROOT / name).is_symlink()}
    assert missing <= {".ci/run", ".gitignore"}, missing


def test_the_wheel_holds_the_package_alone(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {name.split("/")[0] for name in names} == {"kirin_lava", f"kirin_lava-{kirin_lava.__version__}.dist-info"}
    assert {"kirin_lava/py.typed", "kirin_lava/models/data/demo-llama/model.safetensors"} <= set(names)
    assert "Provides-Extra: docs" in metadata


def test_export_and_inspect_from_an_empty_environment_and_folder(programs: Path, tmp_path: Path) -> None:
    environment = {"PATH": f"{programs}:{os.defpath}", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    folder = tmp_path / "folder"
    folder.mkdir()

    def run(*command: object) -> str:
        return call(*command, cwd=folder, env=environment)

    place = Path(run(programs / "python", "-c", "import kirin_lava; print(kirin_lava.__file__)").strip())
    assert place.is_relative_to(programs.parent)
    run(programs / "kirin-lava", "export", "-m", "demo", "-o", "out", "--layers", "0-0", "--num-samples", "4", "-q")
    seen = json.loads(run(programs / "kirin-lava", "inspect", "out", "--json"))
    assert "blocks.0.mlp.down" in json.dumps(seen)
    net = json.loads(run(programs / "kirin-lava", "inspect", "out/net/blocks.0.mlp.down.net", "--json"))
    assert "224" in json.dumps(net)
    assert sorted(path.name for path in folder.iterdir()) == ["out"]
