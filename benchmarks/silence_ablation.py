"""What the silence threshold is for: output codes with and without it, on random layers and on layers of real models.

A neuron that may fire while its inputs still arrive fires at the first moment that happens to look like the end. The program
simulates layers step by step twice, with the threshold infinite until the window ends and with one that falls from the start,
and counts codes that differ from the integer reference.

    python benchmarks/silence_ablation.py                    random layers and the first decoder layer of the embedded models
    python benchmarks/silence_ablation.py MODEL [MODEL ..]   of other ones: folders or hub ids

Layers that fire by themselves (OPT's fc1) are taken as they are; the others get a fire phase for the next layer's codes, with
steps calibrated on their own sums. The exit code is 1 where a code differs with the threshold in place.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table

from kirin_lava.base.console import print_table, say
from kirin_lava.graph.ops import Linear
from kirin_lava.methods.kirin import search_step
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.models.checkpoint import EMBEDDED_MODELS, open_checkpoint
from kirin_lava.models.text import CALIBRATION_TEXT, read_text, sample_rows, token_rows
from kirin_lava.quantize.convert import convert_blocks, frame_of
from kirin_lava.quantize.record import probe_block
from kirin_lava.spikes.codes import OFFSET, SIGNED, SpikeCode
from kirin_lava.spikes.neurons import Silence
from kirin_lava.spikes.neurons.silence.stepped import SteppedSilence
from kirin_lava.spikes.neurons.simulate import period_of, simulate

Codes = npt.NDArray[np.integer[Any]]

RECIPES = ("kirin-w4a4-8", "kirin-w4a4-12")  # one of each code
WINDOWS = 64
SHIFT = 3  # ramps in eighths of a sum


@dataclass(frozen=True)
class Ablation:
    """What came out of one layer.

    Attributes:
        codes: code of its inputs and of its outputs.
        own: whether it fires in the model, too.
        total: codes compared. silent, restless: those that are wrong with the silence threshold, and without.
    """

    layer: str
    codes: str
    own: bool
    total: int
    silent: int
    restless: int


def ablate(name: str, op: Linear, codes: Codes, outputs: SpikeCode) -> Ablation:
    """Simulate a layer on codes (windows, K), with silence and without; one that does not fire is made to fire `outputs`."""
    own = isinstance(op.neuron, Silence)
    fire = op.neuron if isinstance(op.neuron, Silence) else fire_phase(op, codes, outputs)
    sums = codes.astype(np.int64) @ op.weight.T.astype(np.int64)
    expected = fire.reference(torch.from_numpy(sums), op.name).to(torch.int64).numpy()
    period = period_of(op.code, fire)
    payload = np.moveaxis(op.code.payloads(codes, period), 0, 1).reshape(codes.shape[1], -1)  # window after window
    constant = op.code.zero * (op.weight.astype(np.int64) << fire.shift).sum(1)

    def wrong(silence: bool) -> int:
        layer = SteppedSilence(fire, (len(op.weight),), period, op.code.gains(period), constant, silence=silence)
        return int((simulate(op.name, op.weight, op.code, fire, payload, period, layer) != expected).sum())

    return Ablation(name, f"{op.code.name} -> {fire.code.name}", own, expected.size, wrong(True), wrong(False))


def fire_phase(op: Linear, codes: Codes, outputs: SpikeCode) -> Silence:
    """Neurons of a layer that fire codes for a next one, in steps of least squared error on these windows."""
    sums = codes.astype(np.float64) @ op.weight.T.astype(np.float64)
    steps = search_step(torch.from_numpy(sums), outputs).numpy()
    ramp = np.maximum(np.rint(steps * 2**SHIFT), 1).astype(np.int64)
    return Silence(outputs, ramp, np.zeros_like(ramp), SHIFT)


def random_layers() -> Iterator[Ablation]:
    """4-bit weights; codes as of normal activations, a twentieth of them outliers."""
    rng = np.random.default_rng(0)
    for enc in (OFFSET, SIGNED):
        q = rng.normal(0, enc.code_span(messages=False)[1] / 2, (WINDOWS, 256))
        q[rng.random(q.shape) < 0.05] *= 8
        codes = np.clip(np.rint(q), enc.code_min, enc.code_max).astype(np.int64)
        weight = rng.integers(-7, 8, (128, 256)).astype(np.int8)
        yield ablate("random 128 x 256", Linear("random", "x", "y", weight, 4, enc), codes, enc)


def real_layers(model: str) -> Iterator[Ablation]:
    """The segments of a model's first decoder layer, on calibration text."""
    checkpoint = open_checkpoint(model)
    text = token_rows(checkpoint.tokenizer(), read_text(CALIBRATION_TEXT), min(128, checkpoint.dimensions.max_positions))
    rotary = frame_of(checkpoint, load_recipe(RECIPES[0]))["rotary"]
    for name in RECIPES:
        recipe = load_recipe(name)
        item = next(convert_blocks(checkpoint, sample_rows(text, 8, 0), recipe, stop="blocks.0"))
        probes = probe_block(item.block, item.rows, rotary, WINDOWS)
        for op in item.block.linears():
            codes = probes[op.name].codes.astype(np.int64)
            yield ablate(f"{checkpoint.name} {op.name}", op, codes, recipe.method.activations(recipe.options))


def table(found: list[Ablation]) -> Table:
    """A row per layer."""
    made = Table("layer", "codes", "fire phase", "compared", "wrong", "without silence")
    for i, column in enumerate(made.columns):
        column.no_wrap, column.justify = True, "left" if i < 3 else "right"
    for a in found:
        wrong = f"{100 * a.silent / a.total:.1f} %", f"{100 * a.restless / a.total:.1f} %"
        made.add_row(a.layer, a.codes, "its own" if a.own else "added", str(a.total), *wrong)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Count and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    models = parser.parse_args(arguments).models
    found = list(random_layers())
    if not models:
        models = [name for name, folder in EMBEDDED_MODELS.items() if folder.is_dir()]
        missing = [name for name in EMBEDDED_MODELS if name not in models]
        if missing:
            say(f"not embedded here, left out: {', '.join(missing)}")
    for model in models:
        found += real_layers(model)
    print_table(table(found))
    return int(any(a.silent for a in found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
