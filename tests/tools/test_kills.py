"""A short campaign of kills; `make kills` is the long one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_six_kills() -> None:
    """In a process of its own, because it becomes the parent of what is left behind."""
    command = [sys.executable, "-m", "tools.kills", "--scale", "0.07", "--only", "fresh", "force", "resume", "verify"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=900)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    total = re.search(r"^(\d+) kills with seed 0 in \d+ s, 0 problems$", ran.stdout, re.MULTILINE)
    assert total and int(total[1]) == 6
    assert re.search(r"^force +2 kills; OUT then: ", ran.stdout, re.MULTILINE)
