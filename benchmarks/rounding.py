"""What the effort of weight rounding buys, and what threads buy on a quiet and on a busy machine.

Run: python benchmarks/rounding.py [MODEL] [--layers 0,15] [--threads 2] [--no-table]      MODEL: as `export -m`

First table: matrices of some decoder layers with the second moments of their real inputs, rounded with more and fewer
candidates and refinements and, in the same run, by plain GPTQ: the published algorithm (Frantar et al. 2022, arXiv:2210.17323)
with act-order, one scale per row from its largest magnitude, blocks of 128, no groups. Error is `sum of e H e^T / sum of
w H w^T` over all matrices, H without damping; seconds are CPU seconds on one thread.

Second table: calibration and rounding of the same layers, wall seconds with one and more threads, quiet and beside a process
that only counts. The rows of a pair are measured in turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from rich.table import Table
from torch import Tensor

from kirin_lava.base.console import print_table
from kirin_lava.base.threads import one_thread
from kirin_lava.methods.recipe import WeightSpec, load_recipe
from kirin_lava.models import float_model
from kirin_lava.models.calibration_text import draw_sample
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.layout import FloatBlock
from kirin_lava.models.text import CALIBRATION_TEXT, read_text
from kirin_lava.quantize.calibrate import calibrate, run_rows
from kirin_lava.quantize.convert import rotary_of
from kirin_lava.quantize.gptq import DAMPING, EFFORT, Effort
from kirin_lava.quantize.lower import round_block
from kirin_lava.quantize.weights import Matrix, quantize_weights

SPECS = (WeightSpec(4, "gptq"), WeightSpec(8, "gptq"))
EFFORTS = tuple(Effort(candidates, refinements) for candidates in (1, 3, 6, 10, 19) for refinements in (0, 1, 2, 4))
RECIPE = "kirin-w4a4-8"
_PLAIN_BLOCK = 128


@dataclass(frozen=True)
class Sampled:
    """A decoder layer, the calibration rows that reach it, and its matrices (weight, moments)."""

    block: FloatBlock
    rows: list[Tensor]
    matrices: list[tuple[Tensor, Tensor]]


def sampled_layers(model: str, wanted: list[int], rows: int, tokens: int) -> tuple[list[Sampled], tuple[Tensor, Tensor] | None]:
    """The wanted layers of a model, and its rotary tables."""
    checkpoint = open_checkpoint(model)
    length = min(tokens, checkpoint.dimensions.max_positions)
    drawn = draw_sample(checkpoint.tokenizer(), read_text(CALIBRATION_TEXT), length, rows, 0)
    embedding = checkpoint.family.embedding(checkpoint.config, checkpoint.load)
    inputs = [float_model.embed(embedding, row.unsqueeze(0)) for row in drawn.rows]
    rotary, recipe, found = rotary_of(checkpoint), load_recipe(RECIPE), []
    for index in range(max(wanted) + 1):
        block = recipe.method.rewrite(checkpoint.family.block(checkpoint.config, index, checkpoint.load))
        if index not in wanted:
            inputs = run_rows(block, inputs, rotary)
            continue
        calibration, outputs = calibrate(block, inputs, rotary, recipe)
        found.append(Sampled(block, inputs, [(op.weight, calibration.moments[op.name]) for op in block.denses()]))
        inputs = outputs
    return found, rotary


def plain_gptq(weight: Tensor, hessian: Tensor, high: int) -> Tensor:
    """The published algorithm on codes -high - 1..high; the rounded weight."""
    order = hessian.diagonal().argsort(descending=True)
    matrix = hessian[order][:, order].clone()
    weight = weight[:, order].clone()
    matrix.diagonal().add_(DAMPING * matrix.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(matrix)), upper=True)
    scale = weight.abs().amax(1).clamp_min(1e-12) / (high + 0.5)
    rounded = torch.zeros_like(weight)
    for start in range(0, weight.shape[1], _PLAIN_BLOCK):
        end = min(start + _PLAIN_BLOCK, weight.shape[1])
        block, near = weight[:, start:end].clone(), inverse[start:end, start:end]
        errors = torch.zeros_like(block)
        for j in range(end - start):
            column = block[:, j]
            rounded[:, start + j] = (column / scale).round().clamp(-high - 1, high) * scale
            errors[:, j] = (column - rounded[:, start + j]) / near[j, j]
            block[:, j:] -= errors[:, j : j + 1] * near[j, j:][None]
        weight[:, end:] -= errors @ inverse[start:end, end:]
    return rounded[:, order.argsort()]


def _relative_error(pairs: list[tuple[Tensor, Tensor]], rounded: list[Tensor]) -> float:
    lost = whole = 0.0
    for (weight, moments), result in zip(pairs, rounded, strict=True):
        h, w = moments.double(), weight.double()
        e = w - result.double()
        lost += float(((e @ h) * e).sum())
        whole += float(((w @ h) * w).sum())
    return lost / whole


def _cpu_seconds(work: Callable[[], list[Tensor]]) -> tuple[float, list[Tensor]]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def effort_table(layers: list[Sampled]) -> Table:
    """Error and CPU seconds of every effort, beside plain GPTQ."""
    pairs = [pair for layer in layers for pair in layer.matrices]
    table = Table(title=f"{len(pairs)} matrices, {sum(w.numel() for w, _ in pairs):,} weights; one thread")
    for column in ("weights", "candidates", "refinements", "error", "to plain GPTQ", "CPU s", "to plain GPTQ "):
        table.add_column(column, justify="left" if column == "weights" else "right")
    torch.set_num_threads(1)
    for spec in SPECS:
        high = 7 if spec.bits == 4 else 127
        plain_seconds, rounded = _cpu_seconds(lambda high=high: [plain_gptq(w, h, high) for w, h in pairs])  # type: ignore[misc]
        plain_error = _relative_error(pairs, rounded)
        words = f"{spec.bits} bits"
        table.add_row(f"{spec.bits} bits, plain GPTQ", "", "", f"{plain_error:.3e}", "1.000", f"{plain_seconds:.2f}", "1.00")
        for effort in EFFORTS:

            def work(spec: WeightSpec = spec, effort: Effort = effort) -> list[Tensor]:
                codes = quantize_weights([Matrix(w, spec, h) for w, h in pairs], effort)
                return [torch.from_numpy(found.dequantized()) for found in codes]

            seconds, rounded = _cpu_seconds(work)
            error = _relative_error(pairs, rounded)
            table.add_row(
                words + (" (default)" if effort == EFFORT else ""),
                str(effort.candidates),
                str(effort.refinements),
                f"{error:.3e}",
                f"{error / plain_error:.3f}",
                f"{seconds:.2f}",
                f"{seconds / plain_seconds:.2f}",
            )
            print(f"{words} {effort}", file=sys.stderr, flush=True)
        table.add_section()
    return table


@contextmanager
def busy() -> Iterator[None]:
    """A process beside this one that only counts."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def thread_table(layers: list[Sampled], rotary: tuple[Tensor, Tensor] | None, threads: int, rounds: int = 2) -> Table:
    """Wall seconds of calibration and rounding; the best of some rounds, in turns."""
    recipe = load_recipe(RECIPE)

    def convert() -> None:
        with one_thread():
            for layer in layers:
                calibration, _ = calibrate(layer.block, layer.rows, rotary, recipe)
                round_block(layer.block, recipe, calibration)

    def seconds(count: int) -> float:
        torch.set_num_threads(count)
        start = time.monotonic()
        convert()
        return time.monotonic() - start

    quiet, loaded = {1: 1e9, threads: 1e9}, {1: 1e9, threads: 1e9}
    for _ in range(rounds):
        for count in quiet:
            quiet[count] = min(quiet[count], seconds(count))
            with busy():
                loaded[count] = min(loaded[count], seconds(count))
    table = Table(title=f"calibration and rounding of {len(layers)} layers, wall seconds")
    for column in ("threads", "quiet", "beside a busy process", "ratio"):
        table.add_column(column, justify="right")
    for count in quiet:
        table.add_row(str(count), f"{quiet[count]:.2f}", f"{loaded[count]:.2f}", f"{loaded[count] / quiet[count]:.2f}")
    table.add_row("gain", *(f"{times[1] / times[threads]:.2f}" for times in (quiet, loaded)), "")
    return table


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Effort and threads of weight rounding.")
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--layers", default="0", help="decoder layers, such as 0,15")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=max(2, torch.get_num_threads()))
    parser.add_argument("--no-table", action="store_true", help="only the threads")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    layers, rotary = sampled_layers(given.model, [int(i) for i in given.layers.split(",")], given.rows, given.tokens)
    if not given.no_table:
        print_table(effort_table(layers))
    if given.threads > 1:
        print_table(thread_table(layers, rotary, given.threads))


if __name__ == "__main__":
    main()
