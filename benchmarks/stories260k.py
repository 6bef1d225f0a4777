"""The quality table on stories260K: recipes with and without recovery, and rivals at equal bits.

Run: python benchmarks/stories260k.py [DATA]      DATA holds stories260K-hf/ and text/, ../shared/data by default
"""

from __future__ import annotations

import sys
from pathlib import Path

from kirin_lava.compare import compare
from kirin_lava.console import print_table

DATA = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent.parent / "shared" / "data")
RECIPES = ("kirin-w4a4-8", "kirin-signed-w4a4-8", "kirin-uniform-w4a4-8", "kirin-w8a4-8")


def main() -> None:
    """Print the table."""
    if not (DATA / "stories260K-hf").is_dir():
        sys.exit(f"{DATA} has no stories260K-hf: give the folder that holds it")
    result = compare(
        str(DATA / "stories260K-hf"),
        RECIPES,
        text=DATA / "text" / "tinystories-eval.txt",
        calibration=DATA / "text" / "tinystories-calibration.txt",
        num_samples=264,
        max_rows=66,
        recover="distill",
        rivals=True,
        progress=lambda what, done, total: print(f"{done}/{total} {what}", file=sys.stderr, flush=True),
    )
    print_table(result.table())


if __name__ == "__main__":
    main()
