"""Level segment: every linear segment on calibration vectors, by every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kirin_lava.base.errors import FitError, UsageError, VerificationError
from kirin_lava.base.exact import ExactMatmul
from kirin_lava.base.threads import spread
from kirin_lava.export.bundle import Bundle, Probe
from kirin_lava.export.netx.read import StoredSegment
from kirin_lava.graph.ops import Linear
from kirin_lava.hardware.estimate import verified_at_once
from kirin_lava.processes.runtime import run_job
from kirin_lava.spikes.neurons import READ_OUT
from kirin_lava.spikes.neurons.simulate import period_of, simulate
from kirin_lava.spikes.neurons.two_state import Arrivals, membranes
from kirin_lava.tasks.verify.on_lava import run_segments
from kirin_lava.tasks.verify.result import Row, Verification

__all__ = ["verify_segments"]

Integers = npt.NDArray[np.integer[Any]]
Progress = Callable[[str, int, int], None]


def _segments(bundle: Bundle, name: str) -> Iterator[tuple[StoredSegment, Probe]]:
    """The segments of a block with their probes."""
    probes = bundle.probes(name)
    for segment in bundle.segments(name, intact=False):
        linear, place = segment.linear, f"{bundle.path}/probe/{name}.safetensors"
        if linear.name not in probes:
            raise UsageError(f"{place} has no probe of {linear.name}; export again")
        probe, (outputs, inputs), code = probes[linear.name], linear.weight.shape, linear.code
        if probe.codes.shape[1] != inputs or probe.result.shape[1] != outputs:
            raise UsageError(f"{place}: the probe of {linear.name} is not of {inputs} inputs and {outputs} outputs")
        if probe.codes.min() < code.code_min or probe.codes.max() > code.code_max:
            raise UsageError(f"{place}: the probe of {linear.name} holds codes beyond {code.code_min}..{code.code_max}")
        yield segment, probe


def verify_segments(bundle: Bundle, backend: str, timeout: float | None, progress: Progress | None) -> Verification:
    """Compare every linear segment; `backend` "lava" adds native processes and stock lava-dl to the NumPy forms."""
    backends = ("reference", "closed form", "stepped") + (("native", "stock") if backend == "lava" else ())
    result = Verification("segment", backends)
    work: list[tuple[str, Linear, Integers]] = []
    probes: list[Probe] = []
    forms = {"reference": _by_products, "closed form": _by_times, "stepped": _by_steps}
    for block in bundle.block_names:
        found = [(segment, probe, probe.codes.astype(np.int64)) for segment, probe in _segments(bundle, block)]
        tasks = [(form, segment.linear, codes) for segment, _, codes in found for form in forms.values()]
        computed = iter(spread(lambda task: task[0](*task[1:]), tasks))
        for segment, probe, codes in found:
            linear = segment.linear
            row = _row(f"{block}.{linear.name}", linear, codes)
            result.rows.append(row)
            for name in forms:
                result.note(row, name, probe.result, next(computed))
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
            if linear.fires is not None and not answer.stock_fires:  # its fire phase does not fit stock Lava
                expected = _by_products(replace(linear, neuron=READ_OUT), probe.codes.astype(np.int64))
            result.note(row, "stock", expected, answer.stock)
    return result


def _row(name: str, linear: Linear, codes: Integers) -> Row:
    spikes, messages, silent = linear.code.events(codes)
    outputs, inputs = linear.weight.shape
    return Row(name, linear.kind, inputs, outputs, linear.code.window, spikes, messages, silent)


def _sums(linear: Linear, codes: Integers) -> torch.Tensor:
    return ExactMatmul(linear.weight, linear.code.largest, torch.device("cpu"))(torch.from_numpy(codes).float())


def _by_products(linear: Linear, codes: Integers) -> Integers:
    parts = [part.neuron.reference(_sums(part, codes), part.name) for part in _parts(linear, codes)]
    return torch.cat(parts, 1).numpy().astype(np.int64)


def _by_times(linear: Linear, codes: Integers) -> Integers:
    arrivals = Arrivals.of(linear.code.payloads(codes))
    parts = []
    for part in _parts(linear, codes):
        v = membranes(arrivals, part.weight, part.code)
        parts.append(part.neuron.closed(v - part.code.zero * part.weight.sum(1, dtype=np.int64)))
    return np.concatenate(parts, axis=1)


def _by_steps(linear: Linear, codes: Integers) -> Integers:
    period = period_of(linear.code, linear.neuron)
    payload = linear.code.payloads(codes, period).transpose(1, 0, 2).reshape(codes.shape[1], -1)
    try:
        parts = [simulate(p.name, p.weight, p.code, p.neuron, payload, period) for p in _parts(linear, codes)]
        return np.concatenate(parts, axis=1)
    except FitError as error:
        raise VerificationError(f"the stepped neuron overflows where the reference does not: {error}") from error


def _parts(linear: Linear, codes: Integers) -> Iterator[Linear]:
    """The segment in parts of neighbouring outputs: what one part needs for all its events stays below `VERIFY_BYTES`.

    A neuron does not depend on its neighbours, so the results of the parts lie side by side. A part is named with its outputs:
    an error counts neurons from the first of them.
    """
    events = int(np.count_nonzero(linear.code.payloads(codes)))
    outputs, rows = len(linear.weight), verified_at_once(max(events, codes.size))
    if rows >= outputs:
        yield linear
        return
    each = [field.name for field in fields(linear.neuron) if isinstance(getattr(linear.neuron, field.name), np.ndarray)]
    for start in range(0, outputs, rows):
        few = slice(start, min(start + rows, outputs))
        neuron = replace(linear.neuron, **{name: getattr(linear.neuron, name)[few] for name in each})
        shift = None if linear.group_shift is None else linear.group_shift[few]
        name = f"{linear.name}[{few.start}:{few.stop}]"
        yield replace(linear, name=name, weight=linear.weight[few], neuron=neuron, group_shift=shift)
