"""The peak of one program: not that of its parent, and not less than what it took."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from kirin_lava.base.memory import peak_memory
before = peak_memory()
taken = bytearray(200_000_000)
taken[::4096] = b"x" * len(taken[::4096])
print(before, peak_memory() - before)
"""


def test_the_peak_is_that_of_the_program_itself() -> None:
    mine = bytearray(b"x") * 300_000_000  # the parent's own peak, which a child must not inherit
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, grown = map(int, ran.stdout.split())
    assert before < len(mine) and 190_000_000 < grown < 230_000_000
