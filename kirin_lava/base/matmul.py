"""Codes times synapses: exact integers out of float32 or int8 kernels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.arrays import floor_, light, like

__all__ = ["FLOAT32_EXACT", "ROUNDS_ONCE", "ExactMatmul"]

FLOAT32_EXACT = 2**24
"""Integers up to it are exact in float32."""
ROUNDS_ONCE = 2**15 - 1
"""Largest code of two digits, signed or not."""
_MANY_WEIGHTS = 2**16  # the int8 kernel has a fixed cost: it pays from so many weights on,
_MANY_ROWS = 16  # or from so many rows
_PAIR_SAFE = 64  # x86 without VNNI adds two 8-bit products in 16 bits: 2 * 255 * 64 fits
_BASE = 256
_FEW_COLUMNS = 4  # of so many columns one may have higher digits
_SUMS, _FEWEST_ROWS = 2**20, 64  # of digits at a time: what a cache holds, but not fewer rows


class ExactMatmul:
    """`x @ weight.T` of integers without rounding.

    A float32 sum of integers is exact as long as no partial sum can reach 2^24; the fan-in is split where one could. On CPUs
    with an int8 kernel whose sums are proved, or tested, to be exact, large weights are kept in 8 bits alone.

    Codes of more than 8 bits are split into digits, `q = 256 h + l`, which are further rows of the same product: with the
    int8 kernel a token costs what it costs with 8 bits, a long text twice as much, half of what float32 costs. Where few
    columns hold a higher digit at all, as where few codes are messages, it costs little more than with 8 bits.

    Args:
        weight: (N, K) int8 synapses.
        max_code: largest magnitude of a code.
        device: of the codes.
        signed: whether codes are negative, too.
        wide: whether sums beyond 2^24 are wanted to the last bit: all come in float64 then.

    Attributes:
        bound: largest sum that codes can reach. widest: the same for codes of 1.
    """

    def __init__(
        self, weight: npt.NDArray[np.int8], max_code: int, device: torch.device, signed: bool = True, wide: bool = False
    ):
        magnitude = np.abs(weight.astype(np.int16))
        largest, self.widest = int(magnitude.max(initial=0)), int(magnitude.sum(1, dtype=np.int64).max(initial=0))
        del magnitude
        self.bound = max_code * self.widest
        self._wide = wide
        self._packed = self._dense = None
        if device.type == "cpu" and _int8_kernel_is_exact(largest > _PAIR_SAFE):
            self._packed = _Product(weight, _Digits.of(max_code, signed), device, packed=True, wide=wide)
        if self._packed is None or weight.size < _MANY_WEIGHTS:
            digits = _Digits.whole(max_code) if self.bound < FLOAT32_EXACT else _Digits.of(max_code, signed)
            self._dense = _Product(weight, digits, device, packed=False, wide=wide)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., K) codes in float32 -> (..., N) sums in float32 or, where the fan-in was split, float64.

        Sums up to 2^24 are exact, and any in float64; float32 makes of others, which no neuron holds, at least 2^24. Codes up
        to `ROUNDS_ONCE` are rounded once: the result is the float32 number next to the sum.
        """
        product = self._packed
        if product is None or (self._dense is not None and x.numel() < _MANY_ROWS * x.shape[-1]):
            product = self._dense
        assert product is not None
        return product(x).double() if self._wide else product(x)


@dataclass(frozen=True)
class _Digits:
    """How codes are written with `count` digits to the base 256, highest first: `q = sum_i 256^i (d[i] + offset[i])`.

    Attributes:
        reach: largest magnitude of `d + offset`. zero: what makes digits unsigned.
        carry: put on before dividing: 128 leaves a remainder of -128..127, 0 one of 0..255.
        offset: of the last of two digits: -32767..32767 is no range of two that are signed, because 32767 = 128 * 256 - 1.
    """

    count: int
    reach: int
    zero: int
    carry: int = 0
    offset: int = 0

    @staticmethod
    def whole(max_code: int) -> _Digits:
        """A code as it is."""
        return _Digits(1, max_code, 0)

    @staticmethod
    def of(max_code: int, signed: bool) -> _Digits:
        """The fewest digits of 8 bits that hold codes up to this magnitude."""
        zero, most = (128, 127) if signed else (0, 255)
        if max_code <= most:
            return _Digits(1, max_code, zero)
        if signed and 127 * (_BASE + 1) < max_code < _BASE**2 // 2:
            return _Digits(2, 255, zero, offset=128)
        count, held = 1, most
        while held < max_code:
            count, held = count + 1, held * _BASE + most
        return _Digits(count, most + signed, zero, carry=zero)

    def far(self, x: Tensor) -> Tensor:
        """Columns of codes (rows, K) in which one does not fit the last digit, without `offset`."""
        below, above = x.amin(0) < -self.zero, x.amax(0) > _BASE - 1 - self.zero
        return (below | above).nonzero().squeeze(1)

    def split(self, x: Tensor) -> Tensor:
        """Codes (..., K) -> digits (count, ..., K); `d` alone, without the offset."""
        if self.count == 1:
            return x.unsqueeze(0)
        made = x.new_empty(self.count, *x.shape)
        digits = light(made)
        rest = like(x, digits)
        for i in range(self.count - 1, 0, -1):
            higher = rest + self.carry
            higher *= 1 / _BASE
            digits[i - 1] = floor_(higher)
            digits[i] = rest - higher * _BASE
            rest = higher
        if self.offset:
            digits[1] -= self.offset
        return made


class _Product:
    """An `ExactMatmul` in one form of the weights: packed for the int8 kernel, or float32."""

    def __init__(self, weight: npt.NDArray[np.int8], digits: _Digits, device: torch.device, packed: bool, wide: bool):
        self._digits, self._is_packed, self._outputs, self._wide = digits, packed, len(weight), wide
        self.parts = [
            (start, stop, _form(np.ascontiguousarray(weight[:, start:stop]), device, packed))
            for start, stop in _exact_parts(weight, digits.reach)
        ]
        # of most codes the higher digit is 0: a product of the few columns where it is not costs less than one of all
        few = packed and digits.count == 2 and not digits.offset and len(self.parts) == 1 and not wide
        self._weight = weight if few else None
        self._constant = None
        if digits.offset:
            constant = digits.offset * weight.sum(1, dtype=np.int64).astype(np.float64)
            self._constant = torch.from_numpy(constant).to(device, self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32 if len(self.parts) == 1 and not self._wide else torch.float64

    def __call__(self, x: Tensor) -> Tensor:
        """See `ExactMatmul`."""
        if len(self.parts) == 1 and self._digits.count == 1:
            return self._multiply(x, self.parts[0][2])
        rows = x.flatten(0, -2)
        some = max(_FEWEST_ROWS, _SUMS // (self._outputs * self._digits.count))
        if len(rows) <= some:
            return self._sums(rows).view(*x.shape[:-1], -1)
        sums = torch.empty(len(rows), self._outputs, dtype=self._dtype, device=x.device)
        for start in range(0, len(rows), some):
            sums[start : start + some] = self._sums(rows[start : start + some])
        return sums.view(*x.shape[:-1], -1)

    def _sums(self, x: Tensor) -> Tensor:
        """Codes (rows, K) of several digits -> sums (rows, N)."""
        if self._weight is not None and len(x) >= _MANY_ROWS:
            far = self._digits.far(x)
            if len(far) * _FEW_COLUMNS <= x.shape[1]:
                return self._of_columns(x, far, self._weight)
        return self._value(self._of_digits(x))

    def _of_columns(self, x: Tensor, far: Tensor, weight: npt.NDArray[np.int8]) -> Tensor:
        """Codes (rows, K) -> sums of codes (rows, N), the higher digits of the columns `far` alone."""
        if not len(far):
            return self._multiply(x, self.parts[0][2])
        higher, lower = self._digits.split(x[:, far])
        sums = self._multiply(x.index_copy(1, far, lower), self.parts[0][2])
        columns = torch.from_numpy(weight[:, far.numpy()]).float()
        return sums.add_(torch.nn.functional.linear(higher, columns), alpha=_BASE)

    def _of_digits(self, x: Tensor) -> Tensor:
        """Codes (rows, K) -> sums of their digits (count, rows, N)."""
        digits = self._digits.split(x)
        if len(self.parts) == 1:
            return self._multiply(digits, self.parts[0][2])
        pieces = [self._multiply(digits[..., start:stop], weight).double() for start, stop, weight in self.parts]
        return torch.stack(pieces).sum(0)

    def _multiply(self, x: Tensor, weight: Any) -> Tensor:
        return _packed_product(x, self._digits.zero, weight) if self._is_packed else torch.nn.functional.linear(x, weight)

    def _value(self, sums: Tensor) -> Tensor:
        """Sums (count, ..., N) of digits as sums of codes, by Horner's scheme.

        In float32 every sum of digits is below 2^24, with the constant as well. What an addition adds is exact; it rounds only
        a result beyond 2^24, to 2^24 at least, and from there no further digit leads back.
        """
        if self._wide:
            sums = sums.double()
        if self._constant is not None:
            sums[-1].add_(self._constant)
        value = sums[0]
        for digit in sums[1:]:
            value = digit.add_(value, alpha=_BASE)
        return value


def _form(weight: npt.NDArray[np.int8], device: torch.device, packed: bool) -> Any:
    return _pack(torch.from_numpy(weight)) if packed else torch.from_numpy(weight).to(device, torch.float32)


def _exact_parts(weight: npt.NDArray[np.int8], max_code: int) -> list[tuple[int, int]]:
    """Ranges of the fan-in whose sums of magnitudes stay below 2^24."""
    fan_in = weight.shape[1]
    if max_code * int(np.abs(weight.astype(np.int16)).sum(1, dtype=np.int64).max(initial=0)) < FLOAT32_EXACT:
        return [(0, fan_in)]
    magnitude = np.abs(weight.astype(np.int64)).cumsum(1) * max_code
    parts, start, base = [], 0, np.zeros(len(weight), np.int64)
    while start < fan_in:
        fits = (magnitude[:, start:] - base[:, None]).max(0) < FLOAT32_EXACT
        stop = fan_in if fits.all() else start + max(1, int(np.argmin(fits)))
        parts.append((start, stop))
        base, start = magnitude[:, stop - 1], stop
    return parts


def _pack(weight: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # newer versions of PyTorch say that they will drop the type one day
        integers = torch.quantize_per_tensor(weight.float(), 1.0, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(integers, None)  # type: ignore[attr-defined]


def _packed_product(x: Tensor, zero: int, packed: Any) -> Tensor:
    kernel = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32  # type: ignore[attr-defined]
    product: Tensor = kernel(x, 1.0, zero, packed)
    return product


@cache
def _int8_kernel_is_exact(wide: bool) -> bool:
    """Whether PyTorch has the kernel on this CPU and its sums of extreme codes are exact; `wide`: of weights beyond 64, too."""
    largest = 127 if wide else _PAIR_SAFE
    row = np.array([largest, -largest, largest, largest], np.int64)
    weight = np.stack([np.resize(row[i:], 512) for i in range(4)] + [np.full(512, largest), np.full(512, -largest)])
    codes = np.stack([np.resize(c, 512) for c in ([127], [-128], [127, -128], [0, 127, 127], [1, -127, 3])])
    try:
        packed = _pack(torch.from_numpy(weight.astype(np.int8)))
        for zero in (128, 0):
            sent = codes + (128 - zero)
            sums = _packed_product(torch.from_numpy(sent).float(), zero, packed)
            if not np.array_equal(sums.numpy(), sent @ weight.T):
                return False
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return True
