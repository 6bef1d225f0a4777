"""What a decoder block costs on Lava's simulator: our network against a naive one, on the same tokens, integers compared first.

    python -m benchmarks.lava_block [--model FOLDER|demo] [--recipe NAME] [--tokens N] [--singles N] [--rounds N]

    ours     `kirin_lava.processes.block`: a Process per synapse, neuron and host stage, all heads in one
    naive    `benchmarks.naive_network`: a Process per operation, and in the attention per operation and head

Both run the first decoder layer on real text in two ways: tokens pipelined, a new one every window (ms/token), and each alone,
the next one when the result of the one before is there (ms/token alone), which is how a naive host would feed them. Rounds of
the two networks alternate; the median round counts. Times are wall time of the steps, start-up left out; CPU ms/step is what
all processes of a network computed, which other work on the machine does not change. A mismatch with the integer executor is
exit code 1: a comparison of networks that compute different things would mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group
from rich.table import Table

from benchmarks.block_jobs import BlockBench, Built, Round
from kirin_lava.base.console import print_table, say
from kirin_lava.graph.block import Block
from kirin_lava.graph.executor import BlockExecutor, Cache
from kirin_lava.graph.ops import CoreOp, Op
from kirin_lava.graph.values import Codes, Float32, Value, rotary_tables
from kirin_lava.methods.recipe import DEFAULT_RECIPE, load_recipe
from kirin_lava.models.checkpoint import Checkpoint, open_checkpoint
from kirin_lava.models.text import CALIBRATION_TEXT, EVALUATION_TEXT, read_text, token_rows
from kirin_lava.processes.runtime import Session
from kirin_lava.quantize.convert import convert_blocks

__all__ = ["compare", "first_block", "main"]

STORIES = Path(__file__).parents[2] / "shared" / "data" / "stories260K-hf"


def first_block(checkpoint: Checkpoint, recipe: str, tokens: int) -> tuple[Block, Float32, tuple[Float32, Float32] | None]:
    """The first layer, its inputs (tokens, width) on text that it was not calibrated on, and the rotary tables for them."""
    tokenizer, length = checkpoint.tokenizer(), min(128, checkpoint.dimensions.max_positions)
    rows = token_rows(tokenizer, read_text(CALIBRATION_TEXT), length)[:8]
    block = next(convert_blocks(checkpoint, rows, load_recipe(recipe), stop="blocks.0")).block
    ids = token_rows(tokenizer, read_text(EVALUATION_TEXT), tokens)[0]
    embedding = checkpoint.family.embedding(checkpoint.config, checkpoint.load)
    x = embedding.tokens[ids].float()
    if embedding.positions is not None:
        x = x + embedding.positions[embedding.position_offset : embedding.position_offset + tokens]
    frequencies = checkpoint.family.rotary(checkpoint.config)
    if frequencies is None:
        return block, x.numpy(), None
    cos, sin = rotary_tables(frequencies, tokens)
    return block, x.numpy(), (cos.numpy(), sin.numpy())


def compare(block: Block, x: Float32, rotary: Any, networks: Iterable[Built]) -> tuple[int, int]:
    """Integers and result bits of the networks against the executor: how many were compared, how many differ."""
    kept: dict[str, np.ndarray] = {}

    def watch(_: Block, op: Op, values: dict[str, Value]) -> None:
        if isinstance(op, CoreOp):
            value = values[op.output]
            sums = value.q if isinstance(value, Codes) else value
            rows = sums.transpose(1, 2) if sums.dim() == 4 else sums  # scores: (B, H, L, J) -> (B, L, H, J)
            kept[op.output] = rows[0].flatten(1).numpy().astype(np.int64)

    executor = BlockExecutor(rotary, observer=watch)
    expected = executor.run(block, torch.from_numpy(x)[None], torch.arange(len(x)), Cache())[0].numpy()
    compared = wrong = 0
    for network in networks:
        pairs: list[tuple[Any, Any]] = [(expected.view(np.int32), network.result.view(np.int32))]
        pairs += [(kept[name], got) for name, got in network.integers.items()]
        compared += sum(a.size for a, _ in pairs)
        wrong += sum(int((a != b).sum()) for a, b in pairs)
    return compared, wrong


def row(built: Built, rounds: list[Round], singles: int) -> list[float]:
    """Processes, descriptors, CPU ms and ms per step, and ms per token pipelined and alone."""
    costs = [(r.cpu_seconds / r.steps, r.seconds / r.steps, r.seconds / len(built.result), r.alone / singles) for r in rounds]
    return [built.processes, built.descriptors, *(1000 * statistics.median(cost) for cost in zip(*costs, strict=True))]


def table(rows: dict[str, list[float]]) -> Table:
    """A row per network and one of ratios."""
    made = Table("network", "processes", "descriptors", "CPU ms/step", "ms/step", "ms/token", "ms/token alone")
    for i, column in enumerate(made.columns):
        column.no_wrap, column.justify = True, "right" if i else "left"
    for name, values in rows.items():
        made.add_row(name, *(f"{v:.0f}" for v in values[:2]), *(f"{v:.1f}" for v in values[2:]))
    made.add_row("naive / ours", *(f"{a / b:.1f} x" for a, b in zip(rows["naive"], rows["ours"], strict=True)))
    return made


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder, hub id or embedded model; stories260K where it is at hand, else demo")
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--tokens", type=int, default=8, help="of real text, pipelined")
    parser.add_argument("--singles", type=int, default=2, help="how many of them alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--timeout", type=float, default=1800.0, metavar="SECONDS", help="of building a network and of each round"
    )
    given = parser.parse_args(arguments)
    model = given.model
    if model is None:
        model = str(STORIES) if STORIES.is_dir() else "demo"
        if model == "demo":
            say(f"stories260K is not at {STORIES}: the embedded model instead")
    load = os.getloadavg()[0]
    checkpoint = open_checkpoint(model)
    block, x, rotary = first_block(checkpoint, given.recipe, given.tokens)
    with contextlib.ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for kind in ("ours", "naive"):
            say(f"build {kind}")
            sessions[kind] = stack.enter_context(Session(BlockBench, kind, block, x, rotary, timeout=given.timeout))
        networks = {kind: session.call("built") for kind, session in sessions.items()}
        compared, wrong = compare(block, x, rotary, networks.values())
        rounds: dict[str, list[Round]] = {kind: [] for kind in sessions}
        for i in range(given.rounds if not wrong else 0):
            for kind, session in sessions.items():
                say(f"round {i + 1}, {kind}: {given.tokens} tokens pipelined and {given.singles} alone")
                rounds[kind].append(session.call("round", given.singles))
    wrong += sum(not r.same for kind in rounds for r in rounds[kind])
    ours = networks["ours"]
    facts = Table(show_header=False)
    d = checkpoint.dimensions
    facts.add_row("block", f"{checkpoint.name} {block.name}, width {d.width}, {d.heads} heads, {d.kv_heads} of keys and values")
    facts.add_row("recipe", f"{given.recipe}, {ours.period} time steps per window, {ours.latency} windows deep")
    facts.add_row("machine", f"{os.cpu_count()} cores, load average before {load:.1f}, one thread per process")
    facts.add_row("integers", f"{wrong} mismatches in {compared} compared with the executor")
    rows = {kind: row(networks[kind], rounds[kind], given.singles) for kind in rounds if rounds[kind]}
    print_table(Group(facts, table(rows)) if not wrong else facts)
    return int(wrong > 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the naive network needs more than many systems grant
    sys.exit(main())
