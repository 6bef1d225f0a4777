"""Weight rounding: a float matrix to integer synapses and one scale per output row.

    W[n, k] ~= scale[n] * weight[n, k],    weight[n, k] = c[n, k] * 2**shift[n, k // group_size]

Codes c are 4-bit (-8..7) or 8-bit (-127..127). Whatever the shifts, `weight` and `-weight` both fit an int8 synapse,
and one integer accumulator sums a whole row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kirin_lava.base.errors import UsageError
from kirin_lava.methods.recipe import WeightSpec
from kirin_lava.quantize.gptq import damped, quantize_gptq
from kirin_lava.quantize.grid import Grid, search_scales

_CODES = {4: (-8, 7), 8: (-127, 127)}


def grid_of(spec: WeightSpec) -> Grid:
    """The integers that weights of a spec are rounded to."""
    low, high = _CODES[spec.bits]
    return Grid(low, high, spec.group_size)


@dataclass(frozen=True)
class WeightCodes:
    """A rounded matrix, W ~= scale[:, None] * weight.

    weight: int8 (N, K), c * 2**k; -8..7 at 4 bits, -64..56 with groups, -127..127 at 8 bits.
    scale: float32 (N,), > 0; 1 for a row without any nonzero code.
    shift: uint8 (N, ceil(K / group_size)) exponents k in 0..3, None without groups; 0 for a group of zeros, and at
        least one 0 in every row.
    """

    weight: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    shift: npt.NDArray[np.uint8] | None

    def dequantized(self) -> npt.NDArray[np.float32]:
        """The matrix that the codes stand for, float32 (N, K)."""
        return self.scale[:, None] * self.weight.astype(np.float32)


def quantize_weight(weight: torch.Tensor, spec: WeightSpec, hessian: torch.Tensor | None = None) -> WeightCodes:
    """Round `weight` (N, K), any float type and device, as `spec` says.

    hessian: second moments `sum x^T x` of the inputs, (K, K), in any unit; required by "gptq". An input that never
    was active (zero diagonal) is rounded to nearest. A row of zeros gets codes 0 and scale 1.
    Runs on the device of `weight`; the same arguments give the same codes.
    Raises UsageError for a shape that does not fit and for values that are not finite, with their place.
    """
    if weight.ndim != 2 or 0 in weight.shape:
        raise UsageError(f"a weight matrix has shape (outputs, inputs), both at least 1, not {_shape(weight)}")
    _check_finite(weight, "weight")
    matrix = weight.detach().to(torch.float32)
    moments = None if hessian is None else _checked_moments(hessian, matrix)
    grid = grid_of(spec)
    amax = matrix.abs().amax(1)
    # Below the normal numbers a float32 scale has no precision left: such a row is as good as zero.
    alive = amax > torch.finfo(torch.float32).tiny * 2**12
    rows = matrix / torch.where(alive, amax, torch.ones_like(amax))[:, None] * alive[:, None]
    if spec.method == "gptq":
        if moments is None:
            raise UsageError("weight rounding 'gptq' needs the second moments of the inputs: pass hessian=")
        code, scale, exponent = quantize_gptq(grid, rows, moments)
    else:
        ones = torch.ones_like(rows[0])
        importance = ones if moments is None else moments.diagonal().to(torch.float32)
        scales, exponents = search_scales(grid, rows, importance, keep=1)
        scale, exponent = scales[:, 0], exponents[:, 0]
        code = grid.codes(rows, scale[:, None] * grid.expand(exponent, rows.shape[1]))
    return _pack(grid, code, scale * amax, exponent)


def _pack(grid: Grid, code: torch.Tensor, scale: torch.Tensor, exponent: torch.Tensor) -> WeightCodes:
    """Canonical form: groups of zeros get shift 0, and every row its smallest shifts (the scale takes the rest)."""
    inputs = code.shape[1]
    groups, width = grid.groups(inputs), grid.group_size or inputs
    padded = torch.nn.functional.pad(code, (0, groups * width - inputs)).view(len(code), groups, width)
    used = (padded != 0).any(2)
    alive = used.any(1)
    least = torch.where(used, exponent, 127).amin(1) * alive
    exponent = torch.where(used, exponent - least[:, None], 0)
    scale = torch.where(alive, scale * torch.exp2(least.to(torch.float32)), 1.0)
    return WeightCodes(
        weight=(code * grid.expand(exponent, inputs)).to(torch.int8).cpu().numpy(),
        scale=scale.to(torch.float32).cpu().numpy(),
        shift=exponent.to(torch.uint8).cpu().numpy() if grid.group_size else None,
    )


def _checked_moments(hessian: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
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


def _check_finite(matrix: torch.Tensor, name: str) -> None:
    bad = (~torch.isfinite(matrix)).nonzero()
    if len(bad):
        row, column = (int(i) for i in bad[0])
        raise UsageError(
            f"{name}: {float(matrix[row, column])} at row {row}, column {column} ({len(bad)} values are not finite): "
            "the checkpoint or the calibration is damaged"
        )


def _shape(tensor: torch.Tensor) -> str:
    return str(tuple(tensor.shape))
