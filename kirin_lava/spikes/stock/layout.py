"""What goes into a stock segment and what comes out: codes -> columns, columns -> sums or codes.

A `.net` holds one dense layer that unmodified lava-dl runs. Its input lines are the K inputs of the segment followed by a
few *control lines*. Time is counted in columns; a window takes `period` of them and starts at column `b * period`:

    column 0 .. T-1     the window of the input code, as `SpikeCode.raster` writes it
    column T            every input takes back what it sent (minus the sum of its payloads), so that the current u of every
                        neuron is zero again whatever arrived, in every code
    read:  period T+1   the neuron (Sigma) sends its u at every column; the sum of gain * u over columns 0 .. T-1 is v +
    constant fire:  period T+T'  the neuron (LIFReset) fires in column T + j for the output code level T'-1-j, j = 0 .. T'-2

with T the window of the input code and T' that of the output codes. Control lines send the same few payloads in every window,
whatever the codes; in a fire segment they lift the membrane by the silence offset in column T and ramp it afterwards
(`kirin_lava.spikes.neurons.silence.stock` derives their weights). Column c of the stimulus is seen in sample c + 1 of the
answer, because a Dense answers one step later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import UsageError, VerificationError
from kirin_lava.base.loihi2 import MESSAGE_BITS
from kirin_lava.spikes.codes import SpikeCode

__all__ = ["ControlLine", "Layout", "columns", "fired_codes", "read_sums"]

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ControlLine:
    """An input line that does not depend on the codes.

    means: what it does, for people.
    events: (column, payload) of every message it sends in a window; none for a line that stays silent.
    """

    means: str
    events: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Layout:
    """The lines and columns of one stock segment.

    Attributes:
        code: of the input codes.
        inputs: K. Line k < K carries input k, line K + i control line i.
        outputs: N.
        fires: code of the outputs of a fire segment, None for a read segment.
        control: the control lines.
    """

    code: SpikeCode
    inputs: int
    outputs: int
    fires: SpikeCode | None
    control: tuple[ControlLine, ...]

    @property
    def kind(self) -> str:
        """`read` or `fire`."""
        return "read" if self.fires is None else "fire"

    @property
    def period(self) -> int:
        """Columns per window."""
        return self.code.window + (1 if self.fires is None else self.fires.window)

    @property
    def lines(self) -> int:
        """Input lines, control lines included."""
        return self.inputs + len(self.control)

    @property
    def mirrored(self) -> bool:
        """Whether the outputs are signed: neuron n then fires for positive codes, neuron N + n for negative ones."""
        return self.fires is not None and self.fires.mirrored

    @property
    def neurons(self) -> int:
        """Neurons of the dense layer, N or, mirrored, 2 N."""
        return self.outputs * (2 if self.mirrored else 1)

    @property
    def network(self) -> dict[str, int]:
        """Keyword arguments of `lava.lib.dl.netx.hdf5.Network` that the file itself cannot carry."""
        if self.fires is None:
            return {"input_message_bits": MESSAGE_BITS}
        return {"input_message_bits": MESSAGE_BITS, "reset_interval": self.period, "reset_offset": 1}


def columns(layout: Layout, codes: Integers) -> npt.NDArray[np.int32]:
    """The stimulus of several windows in a row.

    Args:
        layout: of the segment.
        codes: (windows, K) codes q of `layout.code`.

    Returns:
        (lines, windows * period + 1) int32 payloads; the last column is empty, for the delay of the answer.

    Raises:
        UsageError: codes of another shape, or outside the code.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] != layout.inputs or not np.issubdtype(codes.dtype, np.integer):
        raise UsageError(f"codes are {codes.dtype} {codes.shape}: the segment takes integers (windows, {layout.inputs})")
    window, period = layout.code.window, layout.period
    payloads = layout.code.payloads(codes)
    stimulus = np.zeros((len(codes), layout.lines, period), np.int32)
    stimulus[:, : layout.inputs, :window] = payloads
    stimulus[:, : layout.inputs, window] = -payloads.sum(2)
    for line, control in enumerate(layout.control, layout.inputs):
        for column, payload in control.events:
            stimulus[:, line, column] = payload
    steps = stimulus.transpose(1, 0, 2).reshape(layout.lines, len(codes) * period)
    return np.pad(steps, ((0, 0), (0, 1)))


def _windows(layout: Layout, answer: Integers) -> npt.NDArray[np.int64]:
    """(neurons, windows * period + 1) samples -> (windows, neurons, period), column c at index c."""
    if answer.ndim != 2 or len(answer) != layout.neurons or answer.shape[1] % layout.period != 1 % layout.period:
        raise UsageError(
            f"the answer has shape {answer.shape}: the segment gives ({layout.neurons}, windows * {layout.period} + 1)"
        )
    windows = answer[:, 1:].astype(np.int64).reshape(layout.neurons, -1, layout.period)
    return windows.transpose(1, 0, 2)


def read_sums(layout: Layout, constant: Integers, answer: Integers) -> npt.NDArray[np.int64]:
    """Sums v (windows, N) of a read segment.

    Args:
        constant: (N,) what the zero-point of the input codes adds, `zero * sum_k weight[n, k]`.
        answer: (N, windows * period + 1) u as the Sigma neurons sent it.

    Raises:
        VerificationError: a neuron that is not at rest after its window.
    """
    u = _windows(layout, answer)
    rest = u[..., -1]
    if rest.any():
        window, neuron = np.argwhere(rest)[0]
        raise VerificationError(
            f"window {window}, neuron {neuron}: u is {rest[window, neuron]} after the closing column instead of 0:"
            " the stimulus is not the one this segment was written for"
        )
    return u[..., :-1] @ np.asarray(layout.code.gains(), np.int64) - constant


def fired_codes(layout: Layout, answer: Integers) -> npt.NDArray[np.int64]:
    """Codes q (windows, N) of a fire segment.

    Args:
        answer: (neurons, windows * period + 1) spikes, 0 or 1.

    Raises:
        VerificationError: a spike before the fire phase, or a neuron with two spikes in one.
    """
    fires = layout.fires
    if fires is None:
        raise UsageError("a read segment does not fire: use read_sums")
    spikes = _windows(layout, answer) != 0
    early, phase = spikes[..., : layout.code.window], spikes[..., layout.code.window :]
    for wrong, what in ((early.any(2), "fired before its inputs had arrived"), (phase.sum(2) > 1, "fired twice")):
        if wrong.any():
            window, neuron = np.argwhere(wrong)[0]
            raise VerificationError(f"window {window}, neuron {neuron} {what}: membrane or threshold are not as exported")
    levels = np.where(phase.any(2), fires.window - 1 - phase.argmax(2), 0).astype(np.int64)
    if layout.mirrored:
        return levels[:, : layout.outputs] - levels[:, layout.outputs :]
    return levels - fires.zero
