"""Tokens per second of the integer executor and of the float32 original under transformers, on the same text and threads.

    python -m benchmarks.executor [--models NAME ...] [--recipe NAME] [--tokens N] [--decode N] [--rounds N] [--threads N]

    prefill    all tokens in one batch, logits of every token
    decode     token by token behind half of them, keys and values cached

Models are folders, hub ids, embedded models, and `wide`: a random Llama of width 1024 with 8 layers. Of its matrices only a
few rows are really rounded, and repeated, each matrix in memory of its own: random weights say nothing, but reading them costs.
Rounds of the two networks alternate, and the median round counts; the first one warms up and does not. The ratio of CPU times
stands beside that of wall times, because other work on the machine changes it less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group
from rich.table import Table
from torch import Tensor

from kirin_lava.base.console import print_table, say
from kirin_lava.graph.block import Model
from kirin_lava.graph.executor import Cache, Executor
from kirin_lava.hardware.split import make_provable
from kirin_lava.methods.recipe import Recipe, load_recipe
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.text import CALIBRATION_TEXT, EVALUATION_TEXT, read_text, token_rows
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.quantize.convert import convert_model, frame_of
from kirin_lava.quantize.lower import lower_block
from kirin_lava.quantize.sites import Calibration
from kirin_lava.quantize.weights import WeightCodes, quantize_weight
from kirin_lava.tasks.quality.original import load_original

__all__ = ["Pair", "Rates", "load", "main", "measure"]

STORIES = Path(__file__).parents[2] / "shared" / "data" / "stories260K-hf"
WIDE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 16}
_CALIBRATION_ROWS = 16
_ROUNDED_ROWS = 32


@dataclass(frozen=True)
class Pair:
    """A model twice, and text for it: tokens (1, L)."""

    name: str
    original: Any
    executor: Executor
    tokens: Tensor


@dataclass(frozen=True)
class Rates:
    """Medians of one phase: tokens per second of wall time, and the ratios of executor to original."""

    model: str
    phase: str
    original: float
    executor: float
    ratio: float
    cpu_ratio: float


def load(model: str, recipe: Recipe, tokens: int) -> Pair:
    """Read, convert and tokenize. Weights of known models are rounded to nearest: the rounding changes no time."""
    recipe = replace(recipe, weights=replace(recipe.weights, method="rtn"))
    if model == "wide":
        with tempfile.TemporaryDirectory() as folder:
            return _load_wide(Path(folder), recipe, tokens)
    checkpoint = open_checkpoint(model)
    tokenizer = checkpoint.tokenizer()
    length = min(tokens, checkpoint.dimensions.max_positions)
    rows = token_rows(tokenizer, read_text(CALIBRATION_TEXT), length)[:_CALIBRATION_ROWS]
    text = token_rows(tokenizer, read_text(EVALUATION_TEXT), length)[0][None]
    return Pair(checkpoint.name, load_original(checkpoint, text[0]), Executor(convert_model(checkpoint, rows, recipe)), text)


def _load_wide(folder: Path, recipe: Recipe, tokens: int) -> Pair:
    from transformers import LlamaConfig, LlamaForCausalLM

    demo = open_checkpoint("demo")
    torch.manual_seed(0)
    config = LlamaConfig(
        **WIDE, vocab_size=demo.dimensions.vocabulary, max_position_embeddings=tokens, tie_word_embeddings=True
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    checkpoint = open_checkpoint(str(folder))
    text = token_rows(load_tokenizer(demo.path), read_text(EVALUATION_TEXT), tokens)[0][None]
    return Pair("random Llama", load_original(checkpoint, text[0]), Executor(_convert_wide(checkpoint, recipe)), text)


def _convert_wide(checkpoint: Checkpoint, recipe: Recipe) -> Model:
    family, config, width = checkpoint.family, checkpoint.config, checkpoint.dimensions.width
    layers = [family.block(config, index, checkpoint.load) for index in range(checkpoint.dimensions.layers)]
    rounded = {op.name: quantize_weight(op.weight[:_ROUNDED_ROWS], recipe.weights) for op in layers[0].denses()}
    blocks = []
    for layer in layers:
        codes = {op.name: _repeated(rounded[op.name], len(op.weight) // _ROUNDED_ROWS) for op in layer.denses()}
        block = lower_block(layer, width, recipe, Calibration(), codes)
        blocks.append(make_provable(block, checkpoint.dimensions.max_positions)[0])
    head = lower_block(family.head(config, checkpoint.load), width, recipe, Calibration())
    return Model(blocks=tuple(blocks), head=head, **frame_of(checkpoint))


def _repeated(codes: WeightCodes, times: int) -> WeightCodes:
    """Rows of a rounded matrix over and over."""
    shift = None if codes.shift is None else np.tile(codes.shift, (times, 1))
    return WeightCodes(np.tile(codes.weight, (times, 1)), np.tile(codes.scale, times), shift)


def measure(pair: Pair, decode: int, rounds: int) -> list[Rates]:
    """Both phases of both networks, in turns."""
    tokens, executor = pair.tokens, pair.executor
    behind = tokens.shape[1] // 2
    steps = tokens[:, behind : behind + decode].split(1, dim=1)

    def original_prefill() -> None:
        pair.original(tokens)

    def executor_prefill() -> None:
        executor.forward(tokens)

    def original_decode() -> Callable[[], None]:
        past = pair.original(tokens[:, :behind], use_cache=True).past_key_values

        def run() -> None:
            for token in steps:
                pair.original(token, past_key_values=past, use_cache=True)

        return run

    def executor_decode() -> Callable[[], None]:
        cache = Cache()
        executor.forward(tokens[:, :behind], cache)

        def run() -> None:
            for token in steps:
                executor.forward(token, cache)

        return run

    phases = {
        "prefill": (tokens.shape[1], lambda: original_prefill, lambda: executor_prefill),
        "decode": (len(steps), original_decode, executor_decode),
    }
    found = []
    with torch.inference_mode():
        for phase, (count, *networks) in phases.items():
            walls: tuple[list[float], list[float]] = ([], [])
            cpus: tuple[list[float], list[float]] = ([], [])
            for i in range(rounds + 1):
                for network, wall, cpu in zip(networks, walls, cpus, strict=True):
                    run = network()
                    began, worked = time.perf_counter(), time.process_time()
                    run()
                    if i:
                        wall.append(time.perf_counter() - began)
                        cpu.append(time.process_time() - worked)
            original, ours = map(statistics.median, walls)
            ratio, (original_cpu, our_cpu) = original / ours, map(statistics.median, cpus)
            found.append(Rates(pair.name, phase, count / original, count / ours, ratio, original_cpu / our_cpu))
    return found


@torch.inference_mode()
def agreement(pair: Pair) -> float:
    """Share of tokens for which both networks would go on alike."""
    a, b = (logits.argmax(-1) for logits in (pair.original(pair.tokens).logits, pair.executor.forward(pair.tokens)))
    return float((a == b).float().mean())


def table(rates: list[Rates]) -> Table:
    """A row per model and phase."""
    made = Table("model", "phase", "float32, tokens/s", "executor, tokens/s", "ratio", "ratio of CPU time")
    for i, column in enumerate(made.columns):
        column.no_wrap, column.justify = True, "left" if i < 2 else "right"
    for r in rates:
        made.add_row(r.model, r.phase, f"{r.original:.1f}", f"{r.executor:.1f}", f"{r.ratio:.2f} x", f"{r.cpu_ratio:.2f} x")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="stories260K where it is at hand, demo and wide")
    parser.add_argument("--recipe", default="kirin-w4a4-12")
    parser.add_argument("--tokens", type=int, default=256, help="of real text, in one batch")
    parser.add_argument("--decode", type=int, default=32, help="tokens one by one, at most half of those")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    models = given.models or [str(STORIES), "demo", "wide"]
    if given.models is None and not STORIES.is_dir():
        say(f"stories260K is not at {STORIES}: left out")
        models.remove(str(STORIES))
    torch.set_num_threads(given.threads)
    facts = Table(show_header=False)
    facts.add_row("machine", f"{os.cpu_count()} cores, load average before {os.getloadavg()[0]:.1f}, {given.threads} threads")
    facts.add_row("software", f"torch {torch.__version__}, recipe {given.recipe}")
    facts.add_row(
        "text", f"{given.tokens} tokens in one batch, {min(given.decode, given.tokens // 2)} one by one, {given.rounds} rounds"
    )
    rates = []
    for model in models:
        say(f"load {model}")
        pair = load(model, load_recipe(given.recipe), given.tokens)
        say(f"measure {pair.name}")
        rates += measure(pair, given.decode, given.rounds)
        if model != "wide":
            facts.add_row(pair.name, f"{100 * agreement(pair):.1f} % of tokens lead to the same next one")
    print_table(Group(facts, table(rates)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
