"""SpikeMatmul: synapses whose weights are made at run time, for attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from kirin_lava.processes.shared import shared_zeros

__all__ = ["PySpikeMatmulModel", "SpikeMatmul"]

_INT32 = np.iinfo(np.int32)


class SpikeMatmul(AbstractProcess):
    """Spikes and messages times cached integer codes, with grouped heads.

    Keeps one row of codes per position, R[j, h', d], and multiplies per time step what comes in:

    - score: x[h, d] in, a_out[h, j] = sum_d x[h, d] * R[j, h', d]
    - mix: x[h, j] in, a_out[i, h, d] = sum_j x[h, j] * R[j, h', d], j in the i-th part of the positions

    for positions j up to that of the row that came last, 0 beyond, with h' = h * kv_heads // heads. x is the sum of s_in and
    a_in. Where a code takes two synapses of 8 bits, R = 256 high + low, the sums of the high ones come first, then those of the
    low ones. As with Dense, a_out leaves one time step after its input. What the zero point of offset codes adds to a window is
    taken off in its last step, because the sums of R are not known before.

    Rows come at c_in, one message in the first time step of every window: position + 1, then the codes of that position; all
    zeros where there is none. Position 0 starts a new sequence.

    Where it is not causal, rows come before any input does: -(position + 1), then the codes. A positive number n then says that
    the input of the window meets the positions below n, which are all of the sequence.

    Parameters
    ----------
    kind : str
        "score" or "mix".

    heads : int
        Query heads.

    kv_heads : int
        Heads of the cached codes, a divisor of heads.

    head_dim : int
        Codes per position and head.

    capacity : int
        Most positions. A row beyond is not kept, and its position is noted in the Var rejected.

    period : int
        Time steps per window.

    zero : int, optional
        Zero point of the input codes. Default is 0.

    part : int, optional
        Positions that share the neurons of a mix. Default is all of them.

    halves : int, optional
        Synapses of 8 bits that a cached code takes, 1 or 2. Default is 1.

    window : int, optional
        The cache holds the last so many positions, position p in the place of p - window. Default is to hold all.

    causal : bool, optional
        Whether a row meets the input of its own window and later ones. Default is True.

    Attributes
    ----------
    rows : numpy.ndarray
        (capacity, kv_heads * head_dim) int32, what came for the cache, by position.
    """

    def __init__(
        self,
        *,
        kind: str,
        heads: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        period: int,
        zero: int = 0,
        part: int | None = None,
        halves: int = 1,
        window: int | None = None,
        causal: bool = True,
        **kwargs: Any,
    ) -> None:
        places = min(capacity, window or capacity)
        if kind not in ("score", "mix"):
            raise ValueError(f"kind is 'score' or 'mix', not {kind!r}")
        if heads % kv_heads:
            raise ValueError(f"{heads} heads do not share {kv_heads} cached heads evenly")
        self.rows = shared_zeros((capacity, kv_heads * head_dim), np.int32)
        super().__init__(
            kind=kind,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            capacity=capacity,
            period=period,
            zero=zero,
            part=part or places,
            places=places,
            halves=halves,
            causal=causal,
            rows=self.rows,
            **kwargs,
        )
        wide, narrow = heads * places, heads * head_dim
        parts = -(-places // (part or places))
        fan_in, fan_out = (narrow, wide) if kind == "score" else (wide, parts * narrow)
        self.s_in = InPort(shape=(fan_in,))
        self.a_in = InPort(shape=(fan_in,))
        self.c_in = InPort(shape=(1 + kv_heads * head_dim,))
        self.a_out = OutPort(shape=(halves * fan_out,))
        self.a_buff = Var(shape=(halves * fan_out,), init=0)
        self.rejected = Var(shape=(1,), init=-1)


@implements(proc=SpikeMatmul, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeMatmulModel(PyLoihiProcessModel):
    """SpikeMatmul on the CPU. float64 holds its sums exactly and multiplies faster than integers do."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=2)
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    c_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    a_buff: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    rejected: np.ndarray = LavaPyType(np.ndarray, np.int64)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self._score = proc_params["kind"] == "score"
        self._heads, self._kv_heads, self._head_dim = (proc_params[k] for k in ("heads", "kv_heads", "head_dim"))
        self._capacity, self._period = proc_params["capacity"], proc_params["period"]
        self._places = proc_params["places"]
        self._zero, self._part = proc_params["zero"], proc_params["part"]
        self._rows, self._causal = proc_params["rows"], proc_params["causal"]
        self._caches = np.zeros((proc_params["halves"], self._kv_heads, self._places, self._head_dim))
        self._visible = 0

    def run_spk(self) -> None:
        """Send the current of the step before, make that of this one."""
        self.a_out.send(self.a_buff)
        t = (self.time_step - 1) % self._period
        if t == 0:
            self._keep(self.c_in.recv())
        x = self.s_in.recv() + self.a_in.recv()
        if t == self._period - 1 and self._zero and self._visible:
            x = x - self._zero
        elif not x.any():
            self.a_buff = np.zeros(self.a_buff.shape, np.int32)
            return
        current = np.concatenate([self._multiply(x, half) for half in self._caches])
        self.a_buff = np.clip(current, _INT32.min, _INT32.max).astype(np.int32)  # the neuron behind reports the overflow

    def _keep(self, row: npt.NDArray[np.int32]) -> None:
        number = int(row[0])
        stored = abs(number) if self._causal or number < 0 else 0  # position + 1 of the row
        self._visible = min(max(number, 0), self._places)
        if stored > self._capacity:
            self.rejected[0] = max(int(self.rejected[0]), stored - 1)
        elif stored:
            self._rows[stored - 1] = row[1:]
            place = (stored - 1) % self._places
            left = row[1:].reshape(self._kv_heads, self._head_dim)
            for half in self._caches[:0:-1]:
                higher = (left + 128) // 256
                half[:, place] = left - 256 * higher
                left = higher
            self._caches[0, :, place] = left

    def _multiply(self, x: npt.NDArray[np.int32], half: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        cache = half[:, : self._visible]  # (kv_heads, j, d)
        grouped = x.reshape(self._kv_heads, self._heads // self._kv_heads, -1).astype(np.float64)
        if not self._score:
            sums = np.zeros((-(-self._places // self._part), *grouped.shape[:2], self._head_dim))
            for i, start in enumerate(range(0, self._visible, self._part)):
                few = slice(start, min(start + self._part, self._visible))
                sums[i] = grouped[..., few] @ cache[:, few]
            return sums.reshape(-1)
        out = np.zeros((*grouped.shape[:2], self._places))
        out[..., : self._visible] = grouped @ cache.transpose(0, 2, 1)
        return out.reshape(-1)
