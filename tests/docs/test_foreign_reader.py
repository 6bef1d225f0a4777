"""The pages on files are enough for a reader without our code: their blocks, with `kirin_lava` out of reach, read a bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks_of

ALONE = """
import sys
sys.modules["kirin_lava"] = sys.modules["torch"] = None
"""


def read(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    blocks = [block for block in blocks_of(ROOT / "docs" / page) if block.language == "python" and block.runs]
    code = ALONE + "".join(block.code for block in blocks)
    return subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(("page", "word"), [("bundle.md", "4 linear segments"), ("net.md", "mlp.fc1 fire 4096 codes")])
def test_a_stranger_reads_a_bundle_by_the_page(bundles: Path, page: str, word: str) -> None:
    done = read(page, bundles)
    assert done.returncode == 0, done.stderr
    assert word in done.stdout


def test_a_stranger_notices_a_changed_file(bundles: Path) -> None:
    path = bundles / "out" / "net" / "blocks.0.mlp.down.net"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert "AssertionError: net/blocks.0.mlp.down.net" in read("bundle.md", bundles).stderr
    finally:
        path.write_bytes(whole)
