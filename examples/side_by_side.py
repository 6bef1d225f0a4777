"""100 greedy tokens of a float original and of its conversion, side by side.

Run: python examples/side_by_side.py demo demo-opt        (any folder or hub id works as well)
"""

from __future__ import annotations

import sys
import tempfile
import textwrap
from pathlib import Path

import torch

from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.tasks.export import export
from kirin_lava.tasks.generate import generate, stop_ids
from kirin_lava.tasks.quality.original import load_original

PROMPT, TOKENS = "Once upon a time", 100


def original(model: str) -> str:
    """The float model's greedy continuation."""
    checkpoint = open_checkpoint(model)
    tokenizer = checkpoint.tokenizer()
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    network = load_original(checkpoint, ids[0])
    stops = stop_ids(checkpoint.path)
    with torch.inference_mode():
        for _ in range(min(TOKENS, checkpoint.dimensions.max_positions - ids.shape[1])):
            token = network(ids).logits[0, -1].argmax()
            if int(token) in stops:
                break
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
    return str(tokenizer.decode(ids[0], skip_special_tokens=True))


def main() -> None:
    """One pair of stories per model."""
    for model in sys.argv[1:] or ["demo"]:
        with tempfile.TemporaryDirectory() as folder:
            bundle = Path(folder) / "bundle"
            export(model, bundle, num_samples=64, verify_with="none")
            result = generate(bundle, PROMPT, TOKENS)
        for name, story in ((f"{model}, float32", original(model)), (f"{model}, spikes", PROMPT + result.text)):
            print(textwrap.fill(f"[{name}] {story}", 118, replace_whitespace=False), end="\n\n")


if __name__ == "__main__":
    main()
