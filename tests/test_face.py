"""The public face: eight names, imported when they are used, and nothing else in the command line and the examples."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import kirin_lava
import kirin_lava.export.bundle  # its package must not hide the function
from tests.hf_models import save_model

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "h5py", "transformers", "lava", "numpy", "scipy", "pandas", "matplotlib"}
ALONE = "import sys, kirin_lava; dir(kirin_lava); print(*{name.partition('.')[0] for name in sys.modules})"


def test_there_are_six_to_eight_names_and_each_is_there() -> None:
    assert 6 <= len(kirin_lava.__all__) <= 8
    for name in kirin_lava.__all__:
        assert getattr(kirin_lava, name).__doc__, name
    assert set(kirin_lava.__all__) <= set(dir(kirin_lava))
    with pytest.raises(AttributeError, match="'nothing'"):
        getattr(kirin_lava, "nothing")  # noqa: B009


def test_the_package_of_files_does_not_hide_the_function() -> None:
    assert inspect.isfunction(kirin_lava.export)
    assert inspect.ismodule(sys.modules["kirin_lava.export"])


def test_the_face_alone_imports_nothing_heavy() -> None:
    ran = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert not HEAVY & set(ran.stdout.split())


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {inner for node in typing_only for inner in ast.walk(node)}
    nodes = [node for node in ast.walk(tree) if node not in skipped]
    found = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    found |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in found if name.split(".")[0] == "kirin_lava"}


def test_the_command_line_is_a_user_of_the_face() -> None:
    """Beside it, what prints, and what its help lists before anything heavy is there."""
    allowed = ("kirin_lava.base", "kirin_lava.cli", "kirin_lava.methods.recipes")
    for name in imported(ROOT / "kirin_lava/cli/main.py"):
        assert name == "kirin_lava" or name.startswith(allowed), name


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_use_only_what_is_public(path: Path) -> None:
    """The face, and the Lava Processes with the codes and neurons they take for networks of one's own."""
    for name in imported(path):
        assert name in ("kirin_lava", "kirin_lava.processes", "kirin_lava.spikes.codes", "kirin_lava.spikes.neurons"), name


@pytest.mark.slow
def test_a_model_from_file_to_text_by_the_face_alone(tmp_path: Path) -> None:
    model, text = save_model(tmp_path / "model"), tmp_path / "text.txt"
    text.write_text("\n\n".join("one two three four five six" for _ in range(8)))
    options = kirin_lava.options
    recipe = kirin_lava.Recipe.from_dict({"name": "mine", "kirin": {"encoding": "signed"}})
    sample = options.Sample(rows=2, tokens=24)
    result = kirin_lava.export(str(model), tmp_path / "out", recipe, sample)
    bundle = kirin_lava.load(result.path)
    assert bundle.recipe == recipe and bundle.inspect().to_dict()["digest"] == result.digest
    ids = [[3, 1, 4, 1, 5]]
    logits = bundle.forward(ids)
    assert logits.shape[:2] == (1, 5) and bool((bundle.forward(ids[0]) == logits[0]).all())
    assert bundle.original()(bundle.forward(ids).argmax(-1)).logits.shape == logits.shape
    assert len(bundle.generate("one two", 3).tokens) <= 3
    bundle.verify(backend="reference").require()
    assert kirin_lava.evaluate(bundle.path, text, seq_len=24).tokens > 0
    assert kirin_lava.plan(str(model), recipe, sample).recipe == recipe
    with pytest.raises(kirin_lava.errors.UsageError, match="is not there"):
        kirin_lava.load(tmp_path / "nothing")
    with pytest.raises(kirin_lava.errors.UsageError, match="is no bundle"):
        kirin_lava.load(tmp_path / "model").generate("one")
