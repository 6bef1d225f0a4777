"""What a stock Dense multiplies by, where a `.net` holds a given weight matrix.

netx shifts weights left as far as a synapse allows, and Lava's bit-accurate Dense clips and truncates them by their sign mode:
integers may arrive changed. Source: `lava/lib/dl/netx/utils.py` (lava-dl 0.6.0), `lava/utils/weightutils.py` (lava-nc 0.10.0).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["stock_weights"]

_BITS = 8


def stock_weights(weight: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """Effective weights of a dense layer, or None where netx fails on them (all are zero).

    Args:
        weight: (N, K) numbers; fractions are cut off.
    """
    meant = weight.astype(np.int64)
    low, high = int(meant.min()), int(meant.max())
    if (high > 254 and low < 0) or (low < -256 and high > 0):
        meant = np.clip(meant, -256, 254)
        low, high = int(meant.min()), int(meant.max())
    if low == high == 0:
        return None
    mixed = low < 0 <= high
    if mixed:
        scale = min(127 / high if high else math.inf, -128 / low)
    else:
        scale = 255 / high if low >= 0 else -256 / low
    shift = math.floor(math.log2(scale)) + mixed
    if shift < 0:  # NumPy shifts by a negative count to zero
        return np.zeros(meant.shape)
    even = next(n for n in range(_BITS, -1, -1) if not (meant % 2**n).any()) - mixed
    stored = meant << shift
    # Lava looks at the signs again: without a positive weight it takes a matrix for inhibitory, whatever netx thought
    inhibitory = high <= 0
    both = not inhibitory and low < 0
    size = np.clip(-stored if inhibitory else stored, -(2**_BITS) if both else 0, 2**_BITS - 1)
    cut = shift + even + both
    size = size >> cut << cut if cut >= 0 else np.zeros_like(size)
    return (-size if inhibitory else size) / 2**shift
