"""100 greedy tokens of a float original and of its conversion, side by side.

Run: python examples/side_by_side.py demo demo-opt        (any folder or hub id works as well)
"""

from __future__ import annotations

import sys
import tempfile
import textwrap
from pathlib import Path

import kirin_lava

PROMPT, TOKENS = "Once upon a time", 100


def main() -> None:
    """One pair of texts per model."""
    sample, unchecked = kirin_lava.options.Sample(rows=64), kirin_lava.options.Checks("none")
    for model in sys.argv[1:] or ["demo"]:
        with tempfile.TemporaryDirectory() as folder:
            kirin_lava.export(model, Path(folder) / "bundle", sample=sample, checks=unchecked)
            bundle = kirin_lava.load(Path(folder) / "bundle")
            spikes = PROMPT + bundle.generate(PROMPT, TOKENS).text
            tokenizer, network = bundle.tokenizer, bundle.original()
        ids = tokenizer(PROMPT, return_tensors="pt").input_ids
        greedy = network.generate(ids, max_new_tokens=TOKENS, do_sample=False)[0]
        original = tokenizer.decode(greedy, skip_special_tokens=True)
        for name, story in ((f"{model}, float32", original), (f"{model}, spikes", spikes)):
            print(textwrap.fill(f"[{name}] {story}", 118, replace_whitespace=False), end="\n\n")


if __name__ == "__main__":
    main()
