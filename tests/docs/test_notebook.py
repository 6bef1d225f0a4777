"""The notebook runs from its first cell to its last, and the pictures of the pages are those that it draws."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.pages import ROOT, all_pages
from tools import docs_figures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jupyter's own packages
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    notebook = nbformat.read(docs_figures.NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    drawn = [cell for cell in code if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    assert len(drawn) == 3
    assert "text/plain" in code[-1].outputs[0].data


def test_the_notebook_is_kept_without_output() -> None:
    for cell in nbformat.read(docs_figures.NOTEBOOK, as_version=4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


@pytest.mark.slow
def test_the_pictures_are_those_of_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["docs_figures.py", str(tmp_path)])
    docs_figures.main()
    kept = {path.name: path.read_bytes() for path in (ROOT / "docs" / "images").iterdir()}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_every_picture_is_shown_and_there() -> None:
    shown = {
        (page.parent / name).resolve()
        for page in all_pages()
        for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert all(path.is_file() for path in shown)
    assert shown == {ROOT / "docs" / "window.png", ROOT / "docs" / "methods.svg", *(ROOT / "docs" / "images").iterdir()}
