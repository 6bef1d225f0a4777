"""Runs the `.net` files of a block with lava-dl alone: nothing of kirin-lava is imported here.

Every file carries a few windows of input codes and the integers they must give. This script turns the codes into spikes by
the rules that the file states, runs unmodified `lava.lib.dl.netx.hdf5.Network`, and compares. Where one segment fires into
the next, the next one gets what came out of Lava, not the codes in its file.

    python examples/run_block_with_lava_dl.py OUT                        all segments of the first block of a bundle
    python examples/run_block_with_lava_dl.py OUT --block head           of another one
    python examples/run_block_with_lava_dl.py OUT/net/blocks.0.*.net     any files

Needs Python 3.10 with lava-nc 0.10.0 and lava-dl 0.6.0. The exit code is 1 where an integer differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from lava.lib.dl.netx.hdf5 import Network
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source

Array = npt.NDArray[Any]
ROW = "{:32} {:5} {:12} {:>11} {:>10} {:>8}   {}"


def stimulus(facts: dict[str, Any], codes: Array) -> Array:
    """Codes (windows, inputs) -> payloads (lines, windows * period + 1)."""
    code, plan = facts["code"], facts["stimulus"]
    if code["family"] not in ("single spikes", "graded messages"):
        sys.exit(f"{facts['name']}: codes of the family {code['family']!r} are not known here; see its stimulus.columns")
    window, period = code["window"], plan["period"]
    low, high = code.get("spike_min", 1), code.get("spike_max", 0)  # no spikes among graded messages
    lines = facts["inputs"] + len(plan["control"])
    x = np.zeros((lines, len(codes) * period + 1), np.int32)
    for b, row in enumerate(codes):
        start = b * period
        for k, q in enumerate(row):
            c = int(q) + code["zero"]
            if low <= q <= high and c:
                x[k, start + window - abs(c)] = np.sign(c)  # a spike: the later, the smaller
            else:
                x[k, start + window - 1] = c  # an outlier: a graded message
            x[k, start + window] = -x[k, start : start + window].sum()  # takes back what it sent
        for control in plan["control"]:
            for column, payload in control["events"]:
                x[control["line"], start + column] = payload
    return x


def run(path: Path, facts: dict[str, Any], x: Array) -> Array:
    """What the neurons send, (neurons, steps)."""
    net = Network(str(path), **facts["network"])
    source, sink = Source(data=x), Sink(shape=net.out.shape, buffer=x.shape[1])
    source.s_out.connect(net.inp)
    net.out.connect(sink.a_in)
    try:
        sink.run(condition=RunSteps(x.shape[1]), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
        return sink.data.get().astype(np.int64)
    finally:
        sink.stop()


def integers(facts: dict[str, Any], constant: Array, sent: Array) -> Array:
    """Sums v or output codes q, (windows, outputs)."""
    window, period, outputs = facts["code"]["window"], facts["stimulus"]["period"], facts["outputs"]
    answer = sent[:, 1:].reshape(len(sent), -1, period).transpose(1, 0, 2)  # Dense answers one step later
    if facts["kind"] == "read":
        return answer[..., :window] @ -np.diff([*facts["code"]["kernel"], 0]) - constant
    fire = facts["fires"]
    spikes = answer[..., window:]
    level = np.where(spikes.any(2), fire["window"] - 1 - spikes.argmax(2), 0)
    if len(sent) == 2 * outputs:  # a neuron for positive and one for negative codes
        return level[:, :outputs] - level[:, outputs:]
    return level - fire["zero"]


def files_of(bundle: Path, block: str | None) -> list[Path]:
    """The files of a block in the order in which its values flow, as the manifest has it."""
    blocks = json.loads((bundle / "manifest.json").read_text())["blocks"]
    ops = next(b["ops"] for b in blocks if block in (None, b["name"]))
    return [bundle / op["net"] for op in ops if "net" in op]


def main() -> int:
    """Check every file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="OUT|FILE")
    parser.add_argument("--block", help="of a bundle; by default the first")
    arguments = parser.parse_args()
    files = [f for path in arguments.paths for f in (files_of(path, arguments.block) if path.is_dir() else [path])]

    rows, compared, differ = [], 0, 0
    fired: dict[tuple[str, str], tuple[str, Array]] = {}  # codes that Lava computed, by block and name of the value
    for path in files:
        with h5py.File(path, "r") as file:
            facts = json.loads(file["kirin/metadata"][()])
            codes, expected = file["kirin/sample_codes"][()], file["kirin/sample_result"][()]
            constant = file["kirin/constant"][()]
        block = path.name.removesuffix(f".{facts['name']}.net")
        source, codes = fired.get((block, facts["input"]), ("its file", codes))
        got = integers(facts, constant, run(path, facts, stimulus(facts, codes)))
        if facts["kind"] == "fire":
            fired[block, facts["output"]] = f"what {facts['name']} fired", got
        wrong = int((got != expected).sum())
        compared, differ = compared + expected.size, differ + wrong
        size = f"{facts['outputs']} x {facts['inputs']}"
        rows.append((path.stem, facts["kind"], facts["code"]["name"], size, expected.size, wrong, source))
    print(ROW.format("file", "kind", "codes in", "size", "integers", "differ", "codes from"))
    for row in rows:
        print(ROW.format(*row))
    print(f"{len(files)} files, {differ} mismatches in {compared} integers")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
