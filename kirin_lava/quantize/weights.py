"""Weight rounding: a float matrix to integer synapses and one scale per output row.

    W[n, k] ~= scale[n] * weight[n, k]

Synapses are 4-bit (-8..7) or 8-bit (-127..127): `weight` and `-weight` both fit int8, and one integer accumulator sums a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kirin_lava.base.errors import UsageError
from kirin_lava.base.threads import spread
from kirin_lava.methods.recipe import WeightSpec
from kirin_lava.quantize.gptq import EFFORT, Effort, Moments, damped, round_rows
from kirin_lava.quantize.grid import Grid, search_scales

_CODES = {4: (-8, 7), 8: (-127, 127)}
_MOST_ROWS, _FEWEST_ROWS, _ELEMENTS = 512, 64, 1 << 20  # of a chunk: operators that are not tiny, in the caches and in memory


def grid_of(spec: WeightSpec) -> Grid:
    """The integers that weights of a spec are rounded to."""
    low, high = _CODES[spec.bits]
    return Grid(low, high)


@dataclass(frozen=True)
class WeightCodes:
    """A rounded matrix, W ~= scale[:, None] * weight.

    weight: int8 (N, K); -8..7 at 4 bits, -127..127 at 8 bits.
    scale: float32 (N,), > 0; 1 for a row without any nonzero code.
    """

    weight: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]

    def dequantized(self) -> npt.NDArray[np.float32]:
        """The matrix that the codes stand for, float32 (N, K)."""
        return self.scale[:, None] * self.weight.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Matrix:
    """A float matrix to be rounded.

    Attributes:
        weight: (N, K), any float type and device. spec: how.
        hessian: second moments `sum x^T x` of the inputs, (K, K), in any unit; required by "gptq".
    """

    weight: Tensor
    spec: WeightSpec
    hessian: Tensor | None = None


def quantize_weight(weight: Tensor, spec: WeightSpec, hessian: Tensor | None = None) -> WeightCodes:
    """Round `weight` (N, K) as `spec` says; see `Matrix` for the arguments.

    An input that never was active (zero diagonal) is rounded to nearest. A row of zeros gets codes 0 and scale 1.
    Runs on the device of `weight`; the same arguments give the same codes, for any number of threads.
    Raises UsageError for a shape that does not fit and for values that are not finite, with their place.
    """
    return quantize_weights([Matrix(weight, spec, hessian)])[0]


def quantize_weights(matrices: Sequence[Matrix], effort: Effort = EFFORT) -> list[WeightCodes]:
    """Round several matrices as `quantize_weight` does each. Chunks of rows of all of them are spread over the threads."""
    todo = list(matrices)
    moments = spread(_moments_of, todo)
    chunks = [(index, start, stop) for index, matrix in enumerate(todo) for start, stop in _chunks(*matrix.weight.shape)]

    def rounded(chunk: tuple[int, int, int]) -> WeightCodes:
        index, start, stop = chunk
        return _round_chunk(todo[index].weight[start:stop], grid_of(todo[index].spec), moments[index], effort)

    parts = spread(rounded, chunks)
    return [
        _joined([part for (of, _, _), part in zip(chunks, parts, strict=True) if of == index]) for index in range(len(todo))
    ]


def _chunks(rows: int, inputs: int) -> list[tuple[int, int]]:
    """Ranges of rows that are rounded at a time, about equal; they depend on the shape alone, so that the bits do, too."""
    count = -(-rows // max(_FEWEST_ROWS, min(_MOST_ROWS, _ELEMENTS // inputs)))
    bounds = [rows * i // count for i in range(count + 1)]
    return list(pairwise(bounds))


def _moments_of(matrix: Matrix) -> Moments | Tensor | None:
    """What rounding needs of the inputs: all for "gptq", else their importance (K,), or nothing. Checks the arguments."""
    weight, hessian = matrix.weight, matrix.hessian
    if weight.ndim != 2 or 0 in weight.shape:
        raise UsageError(f"a weight matrix has shape (outputs, inputs), both at least 1, not {_shape(weight)}")
    _check_finite(weight, "weight")
    moments = None if hessian is None else _checked_moments(hessian, weight)
    if matrix.spec.method == "gptq":
        if moments is None:
            raise UsageError("weight rounding 'gptq' needs the second moments of the inputs: pass hessian=")
        return Moments.of(moments)
    return None if moments is None else moments.diagonal().to(torch.float32)


def _round_chunk(weight: Tensor, grid: Grid, moments: Moments | Tensor | None, effort: Effort) -> WeightCodes:
    """Some rows of a matrix, rounded."""
    columns = weight.detach().T.to(torch.float32).contiguous()
    amax = columns.abs().amax(0)
    # Below the normal numbers a float32 scale has no precision left: such a row is as good as zero.
    alive = amax > torch.finfo(torch.float32).tiny * 2**12
    columns = columns.div(torch.where(alive, amax, 1.0)).mul_(alive)
    if isinstance(moments, Moments):
        code, scale = round_rows(grid, columns, moments, effort)
    else:
        importance = torch.ones_like(columns[:, 0]) if moments is None else moments
        scale = search_scales(grid, columns, importance, keep=1)[0]
        code = grid.codes(columns, scale)
    alive = (code != 0).any(0)
    scale = torch.where(alive, scale * amax, 1.0).to(torch.float32)
    return WeightCodes(code.T.to(torch.int8).cpu().numpy(), scale.cpu().numpy())


def _joined(parts: list[WeightCodes]) -> WeightCodes:
    return WeightCodes(np.concatenate([part.weight for part in parts]), np.concatenate([part.scale for part in parts]))


def _checked_moments(hessian: Tensor, weight: Tensor) -> Tensor:
    inputs = weight.shape[1]
    if hessian.shape != (inputs, inputs):
        raise UsageError(f"a weight of {inputs} inputs needs a Hessian ({inputs}, {inputs}), not {_shape(hessian)}")
    _check_finite(hessian, "Hessian")
    lowest = int(hessian.diagonal().argmin())
    if float(hessian[lowest, lowest]) < 0:
        raise UsageError(
            f"Hessian: negative diagonal {float(hessian[lowest, lowest]):g} at input {lowest}: sums of squares cannot be"
        )
    return damped(hessian.detach().to(weight.device))


def _check_finite(matrix: Tensor, name: str) -> None:
    finite = torch.isfinite(matrix)
    if not finite.all():
        bad = (~finite).nonzero()
        row, column = (int(i) for i in bad[0])
        raise UsageError(
            f"{name}: {float(matrix[row, column])} at row {row}, column {column} ({len(bad)} values are not finite): "
            "the checkpoint or the calibration is damaged"
        )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
