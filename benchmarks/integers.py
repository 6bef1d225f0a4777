"""Whether a change of the program changed an integer: digests of every exported integer, beside those of an earlier commit.

Run: python benchmarks/integers.py [DATA] [--write COMMIT]      DATA holds stories260K-hf/, ../shared/data by default

Every shipped recipe exports both embedded models and, where it is at hand, stories260K; per export four digests are compared:

    net     what the `.net` files hold for lava-dl (weights, neurons) and for us (constants, ramps, scales, samples), names
            apart
    probe   codes and sums that the compiler saw, which `verify` compares
    host    float32 arrays of the host operations, embeddings, rotary tables
    text    what `run` generates

The command line alone is used, so that the same file runs on the commit that is compared with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from kirin_lava.methods.recipe import load_recipe, recipe_names

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
RECORD = Path(__file__).parent / "integers.json"
_TOKENS = "24"


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "kirin_lava", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"kirin-lava {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def _net_arrays(path: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    with h5py.File(path, "r") as file:
        found: dict[str, npt.NDArray[Any]] = {}
        file.visititems(lambda name, item: found.update({name: np.asarray(item)}) if isinstance(item, h5py.Dataset) else None)
    for name, array in sorted(found.items()):
        if not name.endswith("/metadata"):
            yield name.partition("/")[2], array


def _tensors(path: Path) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    yield from sorted(safetensors.numpy.load_file(path).items())


def _digest(files: list[Path], arrays: Callable[[Path], Iterator[tuple[str, npt.NDArray[Any]]]]) -> str:
    digest = hashlib.sha256()
    for path in files:
        for name, array in arrays(path):
            digest.update(f"{path.name} {name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def digests(model: str, recipe: str) -> dict[str, str]:
    """Export a model and hash what came out."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        _run("export", "-m", model, "-o", str(out), "--recipe", recipe, "--verify", "reference", "-q")
        text = _run("run", str(out), "--max-new-tokens", _TOKENS)
        return {
            "net": _digest(sorted(out.glob("net/*.net")), _net_arrays),
            "probe": _digest(sorted(out.glob("probe/*")), _tensors),
            "host": _digest(sorted(out.glob("host/*")), _tensors),
            "text": hashlib.sha256(text.encode()).hexdigest()[:16],
        }


def _fitting(model: str) -> list[str]:
    """Recipes that convert a model; only the layers of demo-opt are not gated."""
    return [name for name in recipe_names() if model == "demo-opt" or not load_recipe(name).method.needs_activation]


def main() -> None:
    """Print a line per export; exit 1 where a digest differs."""
    parser = argparse.ArgumentParser(description="Digests of every exported integer.")
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="folder that holds stories260K-hf/")
    parser.add_argument("--write", metavar="COMMIT", help=f"record the digests in {RECORD.name} as those of a commit")
    arguments = parser.parse_args()
    models = {"demo": "demo", "demo-opt": "demo-opt", "stories260K": str(arguments.data / "stories260K-hf")}
    if not Path(models["stories260K"]).is_dir():
        models.pop("stories260K")
        print("stories260K is not at hand: left out")
    record = {} if arguments.write else json.loads(RECORD.read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}
    changed = 0
    for model, place in models.items():
        for recipe in _fitting(model):
            key = f"{model} {recipe}"
            found[key] = digests(place, recipe)
            before = {} if arguments.write else record["digests"].get(key, {})
            differing = [part for part, digest in found[key].items() if before and before[part] != digest]
            changed += bool(differing)
            state = (
                f"CHANGED: {', '.join(differing)}"
                if differing
                else "recorded"
                if arguments.write
                else "equal"
                if before
                else "not recorded"
            )
            print(f"{key:<34} {' '.join(f'{part} {digest}' for part, digest in found[key].items())}  {state}", flush=True)
    if arguments.write:
        RECORD.write_text(json.dumps({"commit": arguments.write, "digests": found}, indent=1) + "\n", encoding="utf-8")
        return
    print(f"{len(found)} exports, {changed} of them differ from commit {record['commit']}")
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
