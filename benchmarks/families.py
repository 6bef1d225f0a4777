"""Every family and variant, from a checkpoint of transformers to Lava: a row each, and what is off in it.

A random checkpoint of two layers is saved by transformers, read, and its float twin's logits are set beside those of
transformers; then it is exported by two recipes, and all of it is verified: every segment by native Lava and by unmodified
lava-dl, every block and the whole model as networks of Lava, token by token.

Run: python -m benchmarks.families [WORD ...]      only variants whose name contains a word; ends with 1 where anything is off
     python -m benchmarks.families --configs       seconds and memory of a dry run and a report from config.json alone
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from transformers import AutoModelForCausalLM

from kirin_lava.base.console import print_table
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.tasks.quality.original import twin_logits
from kirin_lava.tasks.verify import verify
from tests.encoder_models import ENCODER_VARIANTS, ENCODERS, save_encoder
from tests.encoder_models import VOCABULARY as ENCODER_LETTERS
from tests.exports import export
from tests.hardware.known_configs import PUBLIC
from tests.hf_models import VOCABULARY, save_model
from tests.variants import VARIANTS, name_of

RECIPES = ("kirin-w4a4-8", "kirin-w4a4-12")  # the paper's; and one of 8 steps
LEVELS = ("segment", "block", "model")
_TOKENS, _TEXT = 24, 8  # longer than the windows of the variants
_REACH = 1e-4


@dataclass(frozen=True)
class Measured:
    """A variant: the largest relative difference of its logits, and by recipe and level what was compared and what differs."""

    name: str
    error: float
    compared: dict[tuple[str, str], int]
    mismatches: dict[tuple[str, str], int]

    @property
    def fine(self) -> bool:
        """Nothing is off, and nothing was left out."""
        return self.error <= _REACH and not any(self.mismatches.values()) and all(self.compared.values())


def measure(kind: str, changes: dict[str, Any], recipes: tuple[str, ...] = RECIPES) -> Measured:
    """One variant through everything."""
    compared, mismatches = {}, {}
    with tempfile.TemporaryDirectory() as place:
        save = save_encoder if kind in ENCODERS else save_model
        folder = save(Path(place) / "model", kind, **changes)
        error = logits_differ(folder, kind)
        for recipe in recipes:
            out = Path(place) / recipe
            export(str(folder), out, recipe, num_samples=2, seq_len=_TOKENS, verify_with="none")
            for level in LEVELS:
                found = verify(out, level, tokens=_TEXT)
                compared[recipe, level], mismatches[recipe, level] = found.compared, found.mismatches
    return Measured(name_of(kind, changes), error, compared, mismatches)


@torch.inference_mode()
def logits_differ(folder: Path, kind: str) -> float:
    """Largest difference between the float twin's logits, or states of an encoder without a head, and those of transformers,
    relative to the largest of these."""
    letters = ENCODER_LETTERS if kind in ENCODERS else VOCABULARY
    ids = torch.randint(0, letters, (2, _TOKENS), generator=torch.Generator().manual_seed(0))
    plain = {"attn_implementation": "eager", "dtype": torch.float32}
    found = ENCODERS[kind][1] if kind in ENCODERS else AutoModelForCausalLM
    answer = found.from_pretrained(folder, local_files_only=True, **plain).eval()(ids)
    expected = answer.prediction_logits if hasattr(answer, "prediction_logits") else answer[0]
    ours = twin_logits(open_checkpoint(str(folder)), ids).view(expected.shape)
    return float((ours - expected).abs().max() / expected.abs().max())


def configs() -> None:
    """What a plan costs of models of today, of which nothing but config.json is there."""
    shown = Table(title="from config.json alone")
    for column in ("model", "command", "seconds", "of a processor", "MB at most"):
        shown.add_column(column, justify="left" if column in ("model", "command") else "right")
    with tempfile.TemporaryDirectory() as place:
        for name, config in PUBLIC.items():
            folder = Path(place) / name
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps(config))
            for words in (["export", "-m", str(folder), "-o", f"{place}/none", "--dry-run"], ["report", str(folder)]):
                start = time.monotonic()
                process = subprocess.Popen([sys.executable, "-m", "kirin_lava", *words], stdout=subprocess.DEVNULL)
                _, status, used = os.wait4(process.pid, 0)
                if status:
                    sys.exit(f"{name}: {words[0]} ended with {os.waitstatus_to_exitcode(status)}")
                cpu = used.ru_utime + used.ru_stime
                shown.add_row(name, words[0], f"{time.monotonic() - start:.1f}", f"{cpu:.1f}", f"{used.ru_maxrss / 1024:.0f}")
    print_table(shown)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Every family and variant through transformers, the reference and Lava.")
    parser.add_argument("words", nargs="*", help="of the variants to take; all without any")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--configs", action="store_true", help="plans of models of today instead")
    arguments = parser.parse_args()
    if arguments.configs:
        configs()
        return
    every = [*VARIANTS, *ENCODER_VARIANTS]
    chosen = [v for v in every if not arguments.words or any(word in name_of(*v) for word in arguments.words)]
    rows = []
    for kind, changes in chosen:
        rows.append(measure(kind, changes, tuple(arguments.recipes)))
        parts = ", ".join(f"{level} {rows[-1].compared[recipe, level]}" for recipe in arguments.recipes for level in LEVELS)
        state = "exact" if rows[-1].fine else "OFF"
        print(f"{rows[-1].name}: {state} (logits {rows[-1].error:.1e}; {parts})", file=sys.stderr, flush=True)
    shown = Table(title="integers compared, and mismatches")
    for column in ("variant", "logits off by", *(f"{recipe} {level}" for recipe in arguments.recipes for level in LEVELS)):
        shown.add_column(column, justify="left" if column == "variant" else "right")
    for row in rows:
        cells = [f"{row.compared[key]:,}, {row.mismatches[key]}" for key in row.compared]
        shown.add_row(row.name, f"{row.error:.1e}", *cells)
    print_table(shown)
    sys.exit(not all(row.fine for row in rows))


if __name__ == "__main__":
    main()
