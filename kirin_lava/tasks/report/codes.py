"""Histograms of codes, per encoding, in bins that a small figure can hold: every spike code, and outliers by powers of two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kirin_lava.graph.counts import Stats
from kirin_lava.spikes.codes import SpikeCode, code_named

__all__ = ["code_histograms"]


def code_histograms(stats: Stats) -> list[dict[str, Any]]:
    """One entry per encoding that came up, those with spikes first; JSON-able.

    Each has `values` (how many values of the graph carry such codes), `elements` and `bins` with `low`, `high` (codes q,
    inclusive), `kind` ("spike", "silent", "outlier", or "integer" of codes that never spike), `count` and `share`.
    """
    result = []
    names = dict.fromkeys(row.encoding for row in stats.codes)
    for enc in sorted(map(code_named, names), key=lambda code: not code.has_spikes):
        rows = [row for row in stats.codes if row.encoding == enc.name]
        codes = np.array([code for row in rows for code in row.histogram], np.int64)
        counts = np.array([count for row in rows for count in row.histogram.values()], np.int64)
        elements = int(counts.sum())
        bins: list[dict[str, Any]] = [
            {
                "low": low,
                "high": high,
                "label": str(low) if low == high else f"{low} to {high}",
                "kind": _kind(low, enc),
                "count": int(counts[(low <= codes) & (codes <= high)].sum()),
            }
            for low, high in _bins(enc)
        ]
        for entry in bins:
            entry["share"] = entry["count"] / max(elements, 1)
        result.append(
            {
                "encoding": enc.name,
                "window": enc.window,
                "zero": enc.zero,
                "values": len(rows),
                "elements": elements,
                "clipped": sum(row.clipped for row in rows),
                "largest": max(row.largest for row in rows),
                "bins": bins,
            }
        )
    return result


def _kind(code: int, enc: SpikeCode) -> str:
    if code + enc.zero == 0:
        return "silent"
    if not enc.has_spikes:
        return "integer"
    low, high = enc.code_span(messages=False)
    return "spike" if low <= code <= high else "outlier"


def _bins(enc: SpikeCode) -> Iterator[tuple[int, int]]:
    first, last = (0, 0) if enc.wide else enc.code_span(messages=False)
    below = []
    high = first - 1
    while high >= enc.code_min:
        low = max(enc.code_min, 2 * high + 1 if high < -1 else high)
        below.append((low, high))
        high = low - 1
    yield from reversed(below)
    yield from ((code, code) for code in range(first, last + 1))
    low = last + 1
    while low <= enc.code_max:
        high = min(enc.code_max, 2 * low - 1)
        yield low, high
        low = high + 1
