"""Level segment: every linear segment on calibration vectors, by every backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kirin_lava.base.errors import FitError, UsageError, VerificationError
from kirin_lava.base.matmul import ExactMatmul
from kirin_lava.base.threads import spread
from kirin_lava.export.bundle import Bundle, Probe
from kirin_lava.export.netx.read import StoredSegment
from kirin_lava.graph.ops import Linear
from kirin_lava.hardware.estimate import verified_at_once
from kirin_lava.processes.runtime import Session
from kirin_lava.spikes.neurons import READ_OUT
from kirin_lava.spikes.neurons.emit import emitted
from kirin_lava.spikes.neurons.simulate import period_of, simulate
from kirin_lava.spikes.neurons.two_state import Arrivals, membranes
from kirin_lava.tasks.verify.on_lava import Answer, SegmentRunner
from kirin_lava.tasks.verify.result import Found, Row, Verification
from kirin_lava.tasks.verify.walk import Walk

__all__ = ["FORMS", "verify_segments"]

Integers = npt.NDArray[np.integer[Any]]

_WEIGHTS_PER_JOB = 2**24  # a job keeps some 40 bytes of each for good


class _Lava:
    """Segments on Lava, one after the other in a job that is begun anew now and then: Lava lets go of little."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout, self._weights = timeout, 0
        self._session: Session | None = None

    def run(self, segment: StoredSegment, codes: Integers) -> Answer:
        """What Lava computes of input codes (windows, K)."""
        if self._weights > _WEIGHTS_PER_JOB:
            self.close()
        if self._session is None:
            self._session = Session(SegmentRunner, timeout=self._timeout)
        self._weights += segment.linear.weight.size
        answer: Answer = self._session.call("run", str(segment.path), segment.linear, codes)
        return answer

    def close(self) -> None:
        """End the job."""
        if self._session is not None:
            self._session.close()
        self._session, self._weights = None, 0


def verify_segments(bundle: Bundle, walk: Walk, result: Verification, windows: int | None, timeout: float | None) -> None:
    """Compare the linear segments of a walk by the backends that the result names, "native" and "stock" among them or not."""
    lava = _Lava(timeout)
    try:
        for block in bundle.block_names:
            wanted = [name for name in bundle.nets(block) if f"{block}.{name}" in walk.todo]
            found = [_Case(block, segment, _some(probe, windows)) for segment, probe in _segments(bundle, block, wanted)]
            tasks = [(form, case.linear, case.codes) for case in found for form in FORMS.values()]
            computed = iter(spread(lambda task: task[0](*task[1:]), tasks))
            for case in found:
                walk.begin(case.name)
                unit = Verification(result.level, result.backends)
                row = _row(case.name, case.linear, case.codes)
                unit.rows.append(row)
                for form in FORMS:
                    unit.note(row, form, case.probe.result, next(computed))
                if "native" in result.backends:
                    _compare_lava(unit, row, case, lava)
                walk.add(case.name, Found(unit.rows, unit.first, len(case.codes)))
    finally:
        lava.close()
    walk.end()


@dataclass(frozen=True, eq=False)
class _Case:
    """A segment and what is known of it."""

    block: str
    segment: StoredSegment
    probe: Probe

    @property
    def name(self) -> str:
        return f"{self.block}.{self.linear.name}"

    @property
    def linear(self) -> Linear:
        return self.segment.linear

    @cached_property
    def codes(self) -> Integers:
        return self.probe.codes.astype(np.int64)


def _segments(bundle: Bundle, name: str, wanted: list[str]) -> Iterator[tuple[StoredSegment, Probe]]:
    """Some segments of a block with their probes."""
    if not wanted:
        return
    probes = bundle.probes(name)
    for segment in bundle.segments(name, intact=False, wanted=wanted):
        linear, place = segment.linear, f"{bundle.path}/probe/{name}.safetensors"
        if linear.name not in probes:
            raise UsageError(f"{place} has no probe of {linear.name}; export again")
        probe, (outputs, inputs), code = probes[linear.name], linear.weight.shape, linear.code
        if probe.codes.shape[1] != inputs or probe.result.shape[1] != outputs:
            raise UsageError(f"{place}: the probe of {linear.name} is not of {inputs} inputs and {outputs} outputs")
        if probe.codes.min() < code.code_min or probe.codes.max() > code.code_max:
            raise UsageError(f"{place}: the probe of {linear.name} holds codes beyond {code.code_min}..{code.code_max}")
        yield segment, probe


def _some(probe: Probe, windows: int | None) -> Probe:
    """As many windows of a probe, evenly spread."""
    if windows is None or windows >= len(probe.codes):
        return probe
    few = np.linspace(0, len(probe.codes) - 1, windows).astype(int)
    return replace(probe, codes=probe.codes[few], result=probe.result[few])


def _compare_lava(unit: Verification, row: Row, case: _Case, lava: _Lava) -> None:
    start = time.monotonic()
    answer = lava.run(case.segment, case.codes)
    row.seconds = time.monotonic() - start
    row.ms_native, row.ms_stock = answer.ms_native, answer.ms_stock
    unit.note(row, "native", case.probe.result, answer.native)
    expected: Integers = case.probe.result
    if case.linear.fires is not None and not answer.stock_fires:  # its fire phase does not fit stock Lava
        expected = _by_products(replace(case.linear, neuron=READ_OUT), case.codes)
    unit.note(row, "stock", expected, answer.stock)


def _row(name: str, linear: Linear, codes: Integers) -> Row:
    spikes, messages, silent = linear.code.events(codes)
    outputs, inputs = linear.weight.shape
    return Row(name, linear.kind, inputs, outputs, linear.code.window, spikes, messages, silent)


def _sums(linear: Linear, codes: Integers) -> torch.Tensor:
    code, device = linear.code, torch.device("cpu")
    return ExactMatmul(linear.weight, code.largest, device, wide=code.by_plane)(torch.from_numpy(codes).float())


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
    payload = emitted(linear.code, codes, period)
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
        name = f"{linear.name}[{few.start}:{few.stop}]"
        yield replace(linear, name=name, weight=linear.weight[few], neuron=neuron)


FORMS: dict[str, Callable[[Linear, Integers], Integers]] = {
    "reference": _by_products,
    "closed form": _by_times,
    "stepped": _by_steps,
}
