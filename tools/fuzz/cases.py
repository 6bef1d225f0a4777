"""What is damaged, and which commands read it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from kirin_lava.export.manifest import MANIFEST, sealed
from kirin_lava.hardware import profile
from kirin_lava.methods.recipe import load_recipe
from tests.gguf_models import save_gguf
from tests.hf_models import save_model
from tools.fuzz.damage import copy_of, damages_of
from tools.fuzz.run import Ran, fault_of, run

__all__ = ["KINDS", "Campaign", "Case", "Kind"]

TEXT = "A small boat went over the lake. The wind was kind and the water was blue.\n\n" * 8
SAMPLE = ["--num-samples", "1", "--seq-len", "8"]
DRY = ["export", "-m", "model", "-o", "out", "--dry-run", "--json", *SAMPLE]
EXPORT = ["export", "-m", "model", "-o", "out", "--layers", "0-0", *SAMPLE]
EVAL = ["eval", "bundle", "--text", "text.txt", "--max-rows", "1", "--seq-len", "16"]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        target: the folder or file that is damaged. weight: how often it is taken.
        commands: those that read it, each with its weight. hashed: the bundle vouches for it, so no other result may come out.
    """

    target: str
    weight: int
    commands: tuple[tuple[int, list[str]], ...]
    hashed: bool = False


KINDS: dict[str, Kind] = {
    "bundle": Kind(
        "bundle",
        9,
        (
            (5, ["verify", "bundle", "--backend", "reference"]),
            (3, ["inspect", "bundle"]),
            (1, ["inspect", "bundle", "--json"]),
            (5, ["run", "bundle", "--max-new-tokens", "1"]),
            (3, EVAL),
            (1, ["report", "bundle", "--text", "text.txt", "--max-rows", "1", "--json"]),
        ),
        hashed=True,
    ),
    "checkpoint": Kind(
        "model", 9, ((5, DRY), (6, EXPORT), (1, [*EVAL, "--original", "model"]), (1, ["report", "model", "--json"]))
    ),
    "shards": Kind("shards", 3, ((4, [*EXPORT[:2], "shards", *EXPORT[3:]]), (1, [*DRY[:2], "shards", *DRY[3:]]))),
    "gguf": Kind("model.gguf", 5, ((4, [*DRY[:2], "model.gguf", *DRY[3:]]), (4, [*EXPORT[:2], "model.gguf", *EXPORT[3:]]))),
    "recipe": Kind("recipe.yaml", 4, ((4, [*DRY, "--recipe", "recipe.yaml"]), (3, [*EXPORT, "--recipe", "recipe.yaml"]))),
    "profile": Kind("prices.yaml", 3, ((1, ["report", "model", "--profile", "prices.yaml", "--json"]),)),
    "text": Kind("text.txt", 4, ((3, [*EXPORT, "--calibration", "text.txt"]), (3, EVAL))),
    "net": Kind("one.net", 3, ((2, ["inspect", "one.net"]), (1, ["inspect", "one.net", "--json"]))),
}
_WHOLE = {"recipe.yaml", "prices.yaml", "text.txt", "one.net"}


@dataclass(frozen=True)
class Case:
    """One damaged input and what a command made of it. fault: None where it was right."""

    number: int
    kind: str
    damage: str
    arguments: list[str]
    ran: Ran
    fault: str | None


class Campaign:
    """Undamaged inputs in a folder, and cases that depend on a seed and their number alone.

    Args:
        folder: an empty one. seed: of all cases.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self._clean: dict[str, Ran] = {}
        self._kinds = [name for name, kind in KINDS.items() for _ in range(kind.weight)]
        self._sources = folder / "sources"
        self._make_sources()

    def case(self, number: int) -> Case:
        """Damage one input, run one command on it; the folder `case` is left as it was found."""
        rng = Random(f"{self.seed} {number}")
        name = rng.choice(self._kinds)
        kind = KINDS[name]
        arguments = rng.choice([line for weight, line in kind.commands for _ in range(weight)])
        expected = self._expected(arguments) if kind.hashed else None
        folder = self._fresh()
        damage, trusted = _damage(rng, folder / kind.target, kind)
        ran = run(arguments, folder)
        fault = fault_of(arguments, ran, None if trusted else expected)
        if fault is not None and fault.startswith("another result") and "damaged" in ran.out:
            fault = None  # `inspect` says so
        if fault is None and ran.code != 0 and (folder / "out").exists():
            fault = f"exit code {ran.code}, but there is a bundle"
        return Case(number, name, damage, arguments, ran, fault)

    def _fresh(self) -> Path:
        folder = self.folder / "case"
        shutil.rmtree(folder, ignore_errors=True)
        return copy_of(self._sources, folder)

    def _expected(self, arguments: list[str]) -> Ran:
        key = " ".join(arguments)
        if key not in self._clean:
            self._clean[key] = run(arguments, self._fresh())
            if self._clean[key].code != 0:
                raise RuntimeError(f"{key} fails without any damage: {self._clean[key].err}")
        return self._clean[key]

    def _make_sources(self) -> None:
        here = self._sources
        here.mkdir(parents=True)
        (here / "text.txt").write_text(TEXT)
        (here / "recipe.yaml").write_text(load_recipe("kirin-w4a4-8").to_yaml())
        shutil.copyfile(Path(profile.__file__).parent / "profiles" / "yan-22nm.yaml", here / "prices.yaml")
        save_model(here / "model", num_hidden_layers=1)
        save_gguf(here / "model.gguf", matrices="Q4_0", num_hidden_layers=1)
        shutil.copytree(here / "model", here / "shards")
        _split(here / "shards")
        made = run(["export", "-m", "model", "-o", "bundle", "--recipe", "kirin-w4a4-8", *SAMPLE], here)
        if made.code != 0:
            raise RuntimeError(f"the undamaged model cannot be exported: {made.err}")
        shutil.copyfile(here / "bundle/net/blocks.0.attn.o.net", here / "one.net")


def _damage(rng: Random, target: Path, kind: Kind) -> tuple[str, bool]:
    """Damage one file of the target; returns words, and whether the hashes in the manifest were made to fit."""
    file = target
    if target.is_dir():
        files = sorted(path for path in target.rglob("*") if path.is_file())
        # one of a bundle's many segments counts as much as its manifest
        folder = rng.choice(sorted({(path.parent, path.suffix if path.parent == target else "") for path in files}))
        file = rng.choice([p for p in files if (p.parent, p.suffix if p.parent == target else "") == folder])
    chosen: Callable[[Random, Path], str] = rng.choice(damages_of(file))
    trusted = False
    words = f"{file.relative_to(target.parent)}: {chosen.__name__}, {chosen(rng, file)}"
    if kind.hashed and rng.random() < 0.5:
        trusted = _hash_again(target, file)
        words += ", hashed again" if trusted else ""
    return words, trusted


def _hash_again(bundle: Path, file: Path) -> bool:
    """As whoever damages on purpose: the manifest has the hash of the new content, and its own seal."""
    manifest = bundle / MANIFEST
    if not file.is_file() or file.is_symlink() or file.stat().st_size > 1 << 24:
        return False
    try:
        values = json.loads(manifest.read_bytes())
        if file != manifest:
            values["files"][str(file.relative_to(bundle))] = hashlib.sha256(file.read_bytes()).hexdigest()
        text = json.dumps(sealed(values), indent=1)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return False
    manifest.write_text(text, encoding="utf-8", errors="surrogatepass")
    return True


def _split(folder: Path) -> None:
    """A checkpoint's weights in two files with an index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / shard, {"format": "pt"})
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
