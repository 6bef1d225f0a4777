"""What the tests here let a Lava job do; Lava itself is imported there alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kirin_lava.graph.ops import Linear


def run_linears(work: Sequence[tuple[Linear, np.ndarray]]) -> list[np.ndarray]:
    """Membranes or codes (windows, N) of segments, each with its input codes (windows, K), one network after the other."""
    from kirin_lava.processes import build_segment

    results: list[np.ndarray] = []
    for linear, codes in work:
        with build_segment(linear, codes) as network:
            results.append(network.run().result)
    return results
