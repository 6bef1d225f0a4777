"""Every block of Python and bash in the documentation runs, in order, each page in a folder of its own."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, Block, after, all_pages, blocks_of, label

PAGES = [page for page in all_pages() if any(block.runs for block in blocks_of(page))]


class Reader:
    """Somebody who follows the pages: keeps, for each page that was read, the folder its blocks left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._left: dict[Path, Path] = {}
        programs = folder / "bin"
        programs.mkdir()
        for name, words in (("kirin-lava", "-m kirin_lava"), ("python", "")):
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
            (programs / name).chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
            "COLUMNS": "120",
        }

    def read(self, page: Path) -> Path:
        """Run the blocks of a page, those of the page before it first; returns the folder."""
        if page in self._left:
            return self._left[page]
        folder = self._folder / label(page).replace("/", "-").removesuffix(".md")
        before = after(page)
        if before is None:
            folder.mkdir()
        else:
            shutil.copytree(self.read(before), folder)
        names: dict[str, Any] = {"__name__": "__main__"}
        printed = ""
        for block in blocks_of(page):
            if block.mark == "prints":
                assert block.code.split() == printed.split(), f"{block.page}:{block.line} prints\n{printed}"
            elif block.runs:
                printed = self._python(block, folder, names) if block.language == "python" else self._bash(block, folder)
        self._left[page] = folder
        return folder

    def _python(self, block: Block, folder: Path, names: dict[str, Any]) -> str:
        # the empty lines make the numbers in a traceback those of the page
        code = compile("\n" * block.line + block.code, ROOT / block.page, "exec", dont_inherit=True)
        before = Path.cwd()
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, names)
        finally:
            os.chdir(before)
        return printed.getvalue()

    def _bash(self, block: Block, folder: Path) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code], cwd=folder, env=self._environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block.page}:{block.line} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=label)
def test_the_blocks_of_a_page_run(page: Path, reader: Reader) -> None:
    reader.read(page)


def test_blocks_are_found() -> None:
    found = {label(page): sum(block.runs for block in blocks_of(page)) for page in PAGES}
    assert {"README.md", "docs/index.md", "docs/net.md"} <= set(found)
    assert sum(found.values()) > 10


def test_what_is_not_run_says_why() -> None:
    for page in all_pages():
        for block in blocks_of(page):
            if block.mark.startswith("not run"):
                assert len(block.mark.removeprefix("not run:").split()) >= 2, f"{block.page}:{block.line}"


def test_a_block_that_fails_is_noticed(reader: Reader, tmp_path: Path) -> None:
    block = Block("README.md", 3, "bash", "echo so far; false | cat; echo not so far", "")
    with pytest.raises(AssertionError, match=r"README.md:3 ended with 1\n\s*so far\n(?!not)"):
        reader._bash(block, tmp_path)
    with pytest.raises(ZeroDivisionError):
        reader._python(Block("README.md", 3, "python", "1 / 0", ""), tmp_path, {})
