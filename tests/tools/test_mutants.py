"""The mutation tests of `make mutants`: what is changed, what is drawn, and what they are told to look at."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from tools.mutants.__main__ import HERE, ROOT, file_by_file, known_survivors
from tools.mutants.places import Mutant, mutants_of, sample
from tools.mutants.run import run_tests

SOURCE = '''"""Adds 1 to 2, x or not x."""

from __future__ import annotations

LIMIT: int | None = 3


def add(a: int | float, b: int = 4) -> int | None:
    """1 + 1 == 2."""
    return a + b if a < LIMIT else None
'''


def all_of(root: Path) -> list[Mutant]:
    return [m for seed in range(40) for m in sample(root, ["m.py"], 10**9, seed)[0]]


def test_numbers_and_operators_are_changed_but_no_types_and_no_words(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(SOURCE)
    found = {(m.before, m.after) for m in all_of(tmp_path)}
    assert {line for line, _ in found} == {
        "LIMIT: int | None = 3",
        "def add(a: int | float, b: int = 4) -> int | None:",
        "return a + b if a < LIMIT else None",
    }
    assert ("LIMIT: int | None = 3", "LIMIT: int | None = 4") in found
    assert ("return a + b if a < LIMIT else None", "return a - b if a < LIMIT else None") in found
    assert ("return a + b if a < LIMIT else None", "return a + b if a <= LIMIT else None") in found
    assert not any("int & None" in after or "int - None" in after for _, after in found)


def test_a_sample_is_drawn_by_its_seed_from_different_places() -> None:
    modules = ["kirin_lava/quantize/gptq.py", "kirin_lava/hardware/split.py"]
    (first, total), (again, _), (other, _) = (sample(ROOT, modules, 8, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert [sum(m.module == module for m in first) for module in modules] == [8, 8]
    assert sample(ROOT, modules[1:], 8, 1)[0] == first[8:], "what is drawn of a module does not depend on the others"
    assert len({(m.module, m.line, m.column) for m in first}) == 16
    assert total == sum(len(mutants_of(module, (ROOT / module).read_text())) for module in modules) > 500
    for mutant in first:
        source = (ROOT / mutant.module).read_text()
        assert mutant.code(source) != source
        ast.parse(mutant.code(source))
        assert mutant.before != mutant.after


@pytest.mark.parametrize(
    ("body", "outcome"),
    [("assert 1 + 1 == 2", "passed"), ("assert 1 + 1 == 3", "failed"), ("while True: pass", "hung"), ("broken(", "failed")],
)
def test_outcomes(tmp_path: Path, body: str, outcome: str) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    {body}\n")
    assert run_tests(tmp_path, ["test_it.py"], 5 if outcome == "hung" else 120) == outcome


def test_no_tests_are_no_success(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("")
    assert run_tests(tmp_path, ["test_it.py"], 120) == run_tests(tmp_path, ["nowhere.py"], 120) == "broken"


def test_files_are_timed_once_with_the_options_of_their_module() -> None:
    assert file_by_file(["a.py", "b", "-m", "not lava"]) == [["a.py", "-m", "not lava"], ["b", "-m", "not lava"]]
    assert file_by_file(["a.py"]) == [["a.py"]]


def test_the_modules_and_their_tests_exist() -> None:
    modules = yaml.safe_load((HERE / "modules.yaml").read_text())
    for module, tests in modules.items():
        assert (ROOT / module).is_file(), module
        files = [word.partition("::")[0] for word in tests if word.startswith("tests/")]
        assert files and all((ROOT / file).exists() for file in files), module


def test_explained_survivors_are_lines_of_today() -> None:
    tests_of: dict[str, list[str]] = yaml.safe_load((HERE / "modules.yaml").read_text(encoding="utf-8"))
    lines = {module: {line.strip() for line in (ROOT / module).read_text().splitlines()} for module in tests_of}
    for (module, before, _), why in known_survivors().items():
        assert module in (*lines, "*"), module
        held = set.union(*lines.values()) if module == "*" else lines[module]
        assert before in held, f"{module} no longer has the line {before}"
        assert why.strip()
