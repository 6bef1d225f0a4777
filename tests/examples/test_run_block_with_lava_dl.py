"""The example that runs a block's files: with lava-dl alone, every integer, and it says where one differs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from kirin_lava.export.netx.write import write_segment
from kirin_lava.spikes.codes import OFFSET, SIGNED
from tests.export.netx.cases import expected, some_codes, some_linear, with_fire
from tests.export.small_bundles import small_bundle

pytestmark = [pytest.mark.lava, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "run_block_with_lava_dl.py"
ALONE = """
import runpy, sys
sys.modules["kirin_lava"] = None  # an import of it fails from now on
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    ours = [name for name in sys.modules if name.startswith("kirin_lava.")]
    assert not ours, ours
"""


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, str(EXAMPLE), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


def rows(printed: str) -> list[str]:
    lines = printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("file "))
    return [" ".join(line.split()) for line in lines[start + 1 :]]


def test_a_block_of_a_bundle_comes_out_without_us(tmp_path: Path) -> None:
    done = run(tmp_path, small_bundle(tmp_path, "opt", "fast"))
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout) == [
        "blocks.0.attn.qkv read signed-16-m12 96 x 32 288 0 its file",
        "blocks.0.attn.o read signed-16-m12 32 x 32 96 0 its file",
        "blocks.0.mlp.fc1 fire signed-16 48 x 32 144 0 its file",
        "blocks.0.mlp.fc2 read unsigned-16 32 x 48 96 0 what mlp.fc1 fired",
        "4 files, 0 mismatches in 624 integers",
    ]


def test_single_files_and_one_that_was_edited(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    linear = some_linear(rng, 20, 6, OFFSET, -7, 7)
    codes = some_codes(rng, OFFSET, 4, 20)
    read, fire = tmp_path / "a.seg.net", tmp_path / "b.seg.net"
    write_segment(read, linear)
    write_segment(fire, with_fire(rng, linear, SIGNED, expected(linear, codes), 1), codes=codes)
    with h5py.File(read, "r+") as file:
        file["layer/0/weight"][0] += 1
    done = run(tmp_path, fire, read)
    assert done.returncode == 1
    *files, total = rows(done.stdout)
    assert files[0] == "b.seg fire offset 6 x 20 18 0 its file"
    assert files[1].startswith("a.seg read offset 6 x 20 18 ") and not files[1].startswith("a.seg read offset 6 x 20 18 0 ")
    assert "2 files, " in total and "2 files, 0 " not in total
