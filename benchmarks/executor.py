"""Tokens per second of the integer executor and of the float32 original under transformers, on the same text and threads.

    python -m benchmarks.executor [--models NAME ...] [--original FOLDER] [--recipe NAME] [--tokens N ...] [--decode N]
                                  [--behind N ...] [--rounds N] [--threads N ...]

    prefill    all tokens in one batch, logits of the last, as `run` does it
    decode     token by token behind a text, keys and values cached

Models are bundles, folders, hub ids, embedded models, and random Llamas: `smollm2` has the shape of SmolLM2-135M, `wide` is
1024 wide and has 8 layers. Of their matrices only a few rows are really rounded, and repeated, each matrix in memory of its
own: random weights say nothing, but reading them costs. A bundle is measured beside the model that it was made from, or beside
the one in FOLDER, of the same shape.

Every round measures both networks on a machine as it is, and once more beside a process that keeps one core busy; the median
round counts, the first one warms up and does not. Other work on the machine slows all of them: what compares is the ratio.

    ratio       executor / float32, in tokens per second
    busy        the same beside the busy process
    keeps       busy / quiet, of the executor and of float32
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group
from rich.table import Table
from torch import Tensor

import kirin_lava
from kirin_lava.base.console import print_table, say
from kirin_lava.graph.block import Model
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.hardware.split import make_provable
from kirin_lava.methods.recipe import Recipe, load_recipe
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.text import CALIBRATION_TEXT, EVALUATION_TEXT, read_text, token_rows
from kirin_lava.quantize.convert import convert_model, frame_of
from kirin_lava.quantize.lower import lower_block
from kirin_lava.quantize.sites import Calibration
from kirin_lava.quantize.weights import WeightCodes, quantize_weight
from kirin_lava.tasks.quality.original import load_original

__all__ = ["Pair", "Rates", "load", "main", "measure"]

STORIES = Path(__file__).parents[2] / "shared" / "data" / "stories260K-hf"
SHAPES = {
    "wide": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 16},
    "smollm2": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
}
_CALIBRATION_ROWS = 16
_ROUNDED_ROWS = 32
_COMPARED = 256  # tokens


@dataclass(frozen=True)
class Pair:
    """A model twice, and text for it: tokens (1, L)."""

    name: str
    original: Any
    executor: Executor
    tokens: Tensor


@dataclass(frozen=True)
class Rates:
    """Medians of one phase, in tokens per second of wall time: of the original and the executor, on a quiet machine and on a
    busy one."""

    model: str
    phase: str
    threads: int
    original: float
    executor: float
    busy_original: float
    busy_executor: float


def load(model: str, recipe: Recipe, tokens: int, original: str | None = None) -> Pair:
    """Read, convert and tokenize. Weights of known models are rounded to nearest: the rounding changes no time.

    Args:
        original: of a bundle, a folder of transformers; None for what it was made from.
    """
    if model in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            return _load_random(Path(folder), model, _to_nearest(recipe), tokens)
    if (Path(model) / "manifest.json").is_file():
        bundle = kirin_lava.load(model)
        length = min(tokens, bundle.bundle.manifest["max_positions"])
        text = token_rows(bundle.tokenizer, read_text(EVALUATION_TEXT), length)[0][None]
        network = bundle.original() if original is None else load_original(open_checkpoint(original), text[0])
        return Pair(Path(model).name, network, Executor(bundle.bundle.model()), text)
    checkpoint = open_checkpoint(model)
    tokenizer = checkpoint.tokenizer()
    length = min(tokens, checkpoint.dimensions.max_positions)
    rows = token_rows(tokenizer, read_text(CALIBRATION_TEXT), length)[:_CALIBRATION_ROWS]
    text = token_rows(tokenizer, read_text(EVALUATION_TEXT), length)[0][None]
    converted = convert_model(checkpoint, rows, _to_nearest(recipe))
    return Pair(checkpoint.name, load_original(checkpoint, text[0]), Executor(converted), text)


def _to_nearest(recipe: Recipe) -> Recipe:
    return replace(recipe, weights=replace(recipe.weights, method="rtn"))


def _load_random(folder: Path, shape: str, recipe: Recipe, tokens: int) -> Pair:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    vocabulary = open_checkpoint("demo").dimensions.vocabulary
    config = {"vocab_size": vocabulary, "max_position_embeddings": tokens, "tie_word_embeddings": True, **SHAPES[shape]}
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    checkpoint = open_checkpoint(str(folder))
    text = torch.randint(vocabulary, (1, tokens))
    return Pair(f"random {shape}", load_original(checkpoint, text[0]), Executor(_convert_random(checkpoint, recipe)), text)


def _convert_random(checkpoint: Checkpoint, recipe: Recipe) -> Model:
    family, config, width = checkpoint.family, checkpoint.config, checkpoint.dimensions.width
    layers = [family.block(config, index, checkpoint.load) for index in range(checkpoint.dimensions.layers)]
    rounded = {op.name: quantize_weight(op.weight[:_ROUNDED_ROWS], recipe.weights) for op in layers[0].denses()}
    blocks = []
    for layer in layers:
        codes = {op.name: _repeated(rounded[op.name], len(op.weight) // _ROUNDED_ROWS) for op in layer.denses()}
        block = lower_block(layer, width, recipe, Calibration(), codes)
        blocks.append(make_provable(block, checkpoint.dimensions.max_positions)[0])
    head = lower_block(family.head(config, checkpoint.load), width, recipe, Calibration())
    return Model(blocks=tuple(blocks), head=head, **frame_of(checkpoint, recipe))


def _repeated(codes: WeightCodes, times: int) -> WeightCodes:
    """Rows of a rounded matrix over and over."""
    return WeightCodes(np.tile(codes.weight, (times, 1)), np.tile(codes.scale, times))


@contextmanager
def busy() -> Iterator[None]:
    """Beside a process that does nothing, as fast as it can."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


Run = Callable[[], object]


def phases(
    pair: Pair, prefill: list[int], decode: int, behind: list[int]
) -> Iterator[tuple[str, int, list[Callable[[], Run]]]]:
    """Name, tokens, and of the original and the executor what prepares a run and returns it."""
    tokens, executor = pair.tokens, pair.executor
    for length in sorted({min(length, tokens.shape[1]) for length in prefill}):

        def original_prefill(prompt: Tensor = tokens[:, :length]) -> Run:
            return lambda: pair.original(prompt, use_cache=True, logits_to_keep=1)

        def executor_prefill(prompt: Tensor = tokens[:, :length]) -> Run:
            return lambda: executor.forward(prompt, Cache(), last_only=True)

        yield f"prefill {length}", length, [original_prefill, executor_prefill]
    for place in behind:
        steps = tokens[:, place : place + decode].split(1, dim=1)
        if not steps[0].numel():
            continue

        def original_decode(place: int = place, steps: tuple[Tensor, ...] = steps) -> Run:
            past = pair.original(tokens[:, :place], use_cache=True).past_key_values

            def run() -> None:
                for token in steps:
                    pair.original(token, past_key_values=past, use_cache=True)

            return run

        def executor_decode(place: int = place, steps: tuple[Tensor, ...] = steps) -> Run:
            cache = Cache()
            executor.forward(tokens[:, :place], cache, last_only=True)

            def run() -> None:
                for token in steps:
                    executor.forward(token, cache, last_only=True)

            return run

        yield f"decode behind {place}", len(steps), [original_decode, executor_decode]


@torch.inference_mode()
def measure(pair: Pair, prefill: list[int], decode: int, behind: list[int], rounds: int, threads: int) -> list[Rates]:
    """Every phase of both networks, quiet and busy, in turns."""
    found = []
    torch.set_num_threads(threads)
    for phase, count, networks in phases(pair, prefill, decode, behind):
        walls: list[list[float]] = [[], [], [], []]
        for i in range(rounds + 1):
            for beside, (first, second) in ((nullcontext, walls[:2]), (busy, walls[2:])):
                for network, wall in zip(networks, (first, second), strict=True):
                    run = network()
                    with beside():
                        began = time.perf_counter()
                        run()
                        took = time.perf_counter() - began
                    if i:
                        wall.append(took)
        found.append(Rates(pair.name, phase, threads, *(count / statistics.median(wall) for wall in walls)))
    return found


@torch.inference_mode()
def agreement(pair: Pair) -> float:
    """Share of the first tokens for which both networks would go on alike."""
    tokens = pair.tokens[:, :_COMPARED]
    a, b = (logits.argmax(-1) for logits in (pair.original(tokens).logits, pair.executor.forward(tokens)))
    return float((a == b).float().mean())


def table(rates: list[Rates]) -> Table:
    """A row per model, phase and number of threads."""
    made = Table("model", "phase", "threads", "float32", "executor", "ratio", "busy", "keeps", "float32 keeps")
    for i, column in enumerate(made.columns):
        column.no_wrap, column.justify = True, "left" if i < 2 else "right"
    for r in rates:
        ratios = (r.executor / r.original, r.busy_executor / r.busy_original)
        kept = (r.busy_executor / r.executor, r.busy_original / r.original)
        numbers = (f"{r.original:.1f}", f"{r.executor:.1f}", *(f"{x:.2f} x" for x in (*ratios, *kept)))
        made.add_row(r.model, r.phase, str(r.threads), *numbers)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="stories260K where it is at hand, demo, wide and smollm2")
    parser.add_argument("--original", metavar="FOLDER", help="of transformers, to put beside the bundles")
    parser.add_argument("--recipe", default="kirin-w4a4-8")
    parser.add_argument("--tokens", type=int, nargs="+", default=[256], help="in one batch")
    parser.add_argument("--decode", type=int, default=16, help="tokens one by one")
    parser.add_argument("--behind", type=int, nargs="+", default=[64], help="behind so many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args(arguments)
    models = given.models or [str(STORIES), "demo", "wide", "smollm2"]
    if given.models is None and not STORIES.is_dir():
        say(f"stories260K is not at {STORIES}: left out")
        models.remove(str(STORIES))
    facts = Table(show_header=False)
    facts.add_row("machine", f"{os.cpu_count()} cores, load average before {os.getloadavg()[0]:.1f}")
    facts.add_row("software", f"torch {torch.__version__}, recipe {given.recipe}; of a bundle its own")
    facts.add_row("rounds", f"{given.rounds}, {given.decode} tokens one by one; tokens/s")
    rates = []
    for model in models:
        say(f"load {model}")
        pair = load(
            model,
            load_recipe(given.recipe),
            max(*given.tokens, *(place + given.decode for place in given.behind)),
            given.original,
        )
        for threads in given.threads:
            say(f"measure {pair.name}, {threads} threads")
            rates += measure(pair, given.tokens, given.decode, given.behind, given.rounds, threads)
        if model not in SHAPES:
            facts.add_row(pair.name, f"{100 * agreement(pair):.1f} % of tokens lead to the same next one")
    print_table(Group(facts, table(rates)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
