"""The example of a network of one's own: it runs as a script and compares its membranes with integer arithmetic."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.lava
def test_the_network_is_exact() -> None:
    run = subprocess.run([sys.executable, "examples/custom_network.py"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("0 of 24 membranes differ")
