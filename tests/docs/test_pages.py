"""What the pages say about the repository is so: tests, files, commands and names they cite exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

import kirin_lava
from kirin_lava.cli.main import main
from kirin_lava.methods.recipes import recipe_names
from tests.docs.pages import ROOT, all_pages, label
from tools.refresh_docs import quoted

CITED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+)(?:::(\w+))?)?`")
FILES = re.compile(r"`((?:kirin_lava|tools|examples|benchmarks|docs)/[\w/.-]+\.\w+)`")


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_cited_tests_exist() -> None:
    found = 0
    for page in all_pages():
        for file, *names in CITED.findall(page.read_text(encoding="utf-8")):
            found += 1
            assert (ROOT / file).is_file(), f"{label(page)} cites {file}, which is not there"
            for name in filter(None, names):
                assert name in functions(ROOT / file), f"{label(page)} cites {file}::{name}, which is not there"
    assert found > 40


def test_named_files_exist() -> None:
    for page in all_pages():
        for file in FILES.findall(page.read_text(encoding="utf-8")):
            assert (ROOT / file).is_file(), f"{label(page)} names {file}, which is not there"


@pytest.mark.parametrize("page", all_pages(), ids=label)
def test_lines_are_as_short_as_code(page: Path) -> None:
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        inside ^= line.startswith("```")
        assert inside or line.startswith(("|", "<!-- run:")) or len(line) <= 128, f"{label(page)}:{number} is {len(line)} long"


def test_every_page_is_in_the_navigation() -> None:
    navigation = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(navigation) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in all_pages()[1:])


def test_every_public_name_has_its_page() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## `kirin_lava\.(\w+)`$", page, re.MULTILINE)) == set(kirin_lava.__all__)


def test_every_command_is_on_the_page_of_commands() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert "::: mkdocs-click\n    :module: kirin_lava.cli.main\n    :command: main" in page
    listed = set(re.findall(r"^\| `kirin-lava ([a-z]+)", page, re.MULTILINE))
    assert listed == set(main.commands)


def test_every_recipe_is_on_the_page_of_methods() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) >= set(recipe_names())


def test_the_readme_fits_two_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 105


def test_quoted_commands_can_be_run() -> None:
    pages = {label(page) for page, _ in quoted()}
    assert {"README.md", "docs/results.md"} <= pages
    for page, command in quoted():
        words = command.strip("()").split()
        if words[0] == "kirin-lava":
            assert words[1] in main.commands, f"{label(page)}: {command}"
            continue
        assert words[0] == "python", f"{label(page)}: {command}"
        script = f"{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1]
        assert (ROOT / script).is_file(), f"{label(page)}: {command}"


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license", "references"} <= set(citation)
    assert citation["version"] == kirin_lava.__version__
