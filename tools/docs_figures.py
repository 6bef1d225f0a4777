"""Draw the pictures of the documentation: run the cells of docs/follow_a_value.ipynb and save its figures in docs/images.

Usage: python tools/docs_figures.py [FOLDER], by default docs/images. The picture of a window, docs/window.png, is
`kirin-lava report OUT --figures DIR` of the embedded model by its default recipe.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import nbformat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "follow_a_value.ipynb"
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)


def draw() -> dict[str, Figure]:
    """The notebook's figures by name, from its cells run in a folder that is thrown away."""
    matplotlib.use("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        try:
            for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
                if cell.cell_type == "code":
                    exec(compile(cell.source, f"{NOTEBOOK.name} {cell.id}", "exec", dont_inherit=True), names)
        finally:
            os.chdir(before)
    figures: dict[str, Figure] = names["figures"]
    return figures


def main() -> None:
    """Save them as SVG, the same bytes for the same numbers."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in draw().items():
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        (folder / f"{name}.svg").write_text(_TRAILING.sub("", text.getvalue()), encoding="utf-8")
        print(folder / f"{name}.svg")


if __name__ == "__main__":
    main()
