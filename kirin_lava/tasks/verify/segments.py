"""Level segment: every linear segment on calibration vectors, by every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kirin_lava.base.errors import FitError, UsageError, VerificationError
from kirin_lava.export.bundle import Bundle, Probe
from kirin_lava.export.netx.read import Segment
from kirin_lava.graph.executor import ExactMatmul, fire
from kirin_lava.graph.ops import Linear
from kirin_lava.processes.runtime import run_job
from kirin_lava.spikes.codes.coding import encode_raster, is_outlier, is_silent
from kirin_lava.spikes.neurons import neuron
from kirin_lava.tasks.verify.on_lava import run_segments
from kirin_lava.tasks.verify.result import Row, Verification

__all__ = ["verify_segments"]

Integers = npt.NDArray[np.integer[Any]]
Progress = Callable[[str, int, int], None]


def _segments(bundle: Bundle) -> Iterator[tuple[str, Segment, Probe]]:
    for name in bundle.block_names:
        probes = bundle.probes(name)
        for segment in bundle.segments(name, intact=False):
            linear, place = segment.linear, f"{bundle.path}/probe/{name}.safetensors"
            if linear.name not in probes:
                raise UsageError(f"{place} has no probe of {linear.name}; export again")
            probe, (outputs, inputs), enc = probes[linear.name], linear.weight.shape, linear.encoding
            if probe.codes.shape[1] != inputs or probe.result.shape[1] != outputs:
                raise UsageError(f"{place}: the probe of {linear.name} is not of {inputs} inputs and {outputs} outputs")
            if probe.codes.min() < enc.code_min or probe.codes.max() > enc.code_max:
                raise UsageError(f"{place}: the probe of {linear.name} holds codes beyond {enc.code_min}..{enc.code_max}")
            yield name, segment, probe


def verify_segments(bundle: Bundle, backend: str, timeout: float | None, progress: Progress | None) -> Verification:
    """Compare every linear segment; `backend` "lava" adds native processes and stock lava-dl to the NumPy forms."""
    backends = ("reference", "closed form", "stepped") + (("native", "stock") if backend == "lava" else ())
    result = Verification("segment", backends)
    work: list[tuple[str, Linear, Integers]] = []
    probes: list[Probe] = []
    for block, segment, probe in _segments(bundle):
        linear, codes = segment.linear, probe.codes.astype(np.int64)
        row = _row(f"{block}.{linear.name}", linear, codes)
        result.rows.append(row)
        for name, compute in (("reference", _by_products), ("closed form", _by_times), ("stepped", _by_steps)):
            result.note(row, name, probe.result, compute(linear, codes))
        if backend == "lava":
            work.append((str(segment.path), linear, codes))
            probes.append(probe)
    if backend == "lava":
        report = progress or (lambda what, done, total: None)
        steps = lambda done, total: report("Lava steps", done, total)  # noqa: E731
        answers = run_job(run_segments, work, timeout=timeout, on_progress=steps)
        for row, probe, (_, linear, _), answer in zip(result.rows, probes, work, answers, strict=True):
            row.ms_native, row.ms_stock = answer.ms_native, answer.ms_stock
            result.note(row, "native", probe.result, answer.native)
            expected: Integers = probe.result
            if linear.fire is not None and not answer.stock_fires:  # its fire phase does not fit stock Lava
                expected = _by_products(_without_fire(linear), probe.codes.astype(np.int64))
            result.note(row, "stock", expected, answer.stock)
    return result


def _row(name: str, linear: Linear, codes: Integers) -> Row:
    enc = linear.encoding
    outliers, silent = int(is_outlier(codes, enc).sum()), int(is_silent(codes, enc).sum())
    spikes = codes.size - outliers - silent
    outputs, inputs = linear.weight.shape
    return Row(name, "fire" if linear.fire else "read", inputs, outputs, enc.window, spikes, outliers, silent)


def _without_fire(linear: Linear) -> Linear:
    return Linear(linear.name, linear.input, linear.output, linear.weight, linear.bits, linear.encoding)


def _by_products(linear: Linear, codes: Integers) -> Integers:
    enc = linear.encoding
    matmul = ExactMatmul(linear.weight, max(-enc.code_min, enc.code_max), torch.device("cpu"))
    sums = matmul(torch.from_numpy(codes).float())
    if linear.fire is not None:
        sums = fire(sums, linear.fire, linear.name)
    return sums.numpy().astype(np.int64)


def _by_times(linear: Linear, codes: Integers) -> Integers:
    spikes, outliers = encode_raster(codes, linear.encoding)
    v = neuron.membranes(neuron.Events.of(spikes + outliers), linear.weight)
    v -= linear.encoding.zero * linear.weight.astype(np.int64).sum(1)
    return v if linear.fire is None else neuron.codes_of(v, linear.fire)


def _by_steps(linear: Linear, codes: Integers) -> Integers:
    period = linear.encoding.window if linear.fire is None else max(linear.encoding.window, linear.fire.encoding.window)
    spikes, outliers = encode_raster(codes, linear.encoding, period)
    payload = (spikes + outliers).transpose(1, 0, 2).reshape(codes.shape[1], -1)
    try:
        return neuron.simulate(linear, payload, period)
    except FitError as error:
        raise VerificationError(f"the stepped neuron overflows where the reference does not: {error}") from error
