"""SpikeMatmul on its own: causal products with a cache that grows, grouped heads, offset codes, a capacity."""

from __future__ import annotations

import numpy as np
import pytest

from kirin_lava.processes.runtime import run_job
from kirin_lava.spikes.codes import CODES, OFFSET, SIGNED, Integers, SpikeCode
from tests.processes.jobs import multiply

HEADS, KV_HEADS, WIDTH, CAPACITY = 4, 2, 3, 3


def expected(kind: str, q: Integers, cached: Integers, part: int = CAPACITY) -> np.ndarray:
    """The definition, for window i with positions 0..i in the cache, `part` of them in neurons of their own."""
    rows = []
    for i, codes in enumerate(q):
        repeated = np.repeat(cached.reshape(-1, KV_HEADS, WIDTH)[: i + 1], HEADS // KV_HEADS, axis=1)  # (j, heads, d)
        if kind == "score":
            out = np.zeros((HEADS, CAPACITY), np.int64)
            out[:, : i + 1] = np.einsum("hd,jhd->hj", codes.reshape(HEADS, WIDTH), repeated)
        else:
            p = codes.reshape(HEADS, CAPACITY)[:, : i + 1]
            few = [slice(start, start + part) for start in range(0, CAPACITY, part)]
            out = np.stack([np.einsum("hj,jhd->hd", p[:, some], repeated[some]) for some in few])
        rows.append(out.reshape(-1))
    return np.stack(rows)


@pytest.mark.lava
@pytest.mark.parametrize("code", [code for code in CODES if set(code.gains()) == {1}], ids=lambda code: code.name)
@pytest.mark.parametrize("kind", ["score", "mix"])
def test_products_equal_the_definition(kind: str, code: SpikeCode) -> None:
    rng = np.random.default_rng(1)
    cached = rng.integers(-127, 128, (CAPACITY, KV_HEADS * WIDTH))
    fan_in = HEADS * (WIDTH if kind == "score" else CAPACITY)
    q = rng.integers(code.code_min, code.code_max + 1, (CAPACITY, fan_in))
    if kind == "mix":  # positions that are not there yet are silent
        q.reshape(CAPACITY, HEADS, CAPACITY)[~np.tri(CAPACITY, dtype=bool)[:, None].repeat(HEADS, 1)] = -code.zero
    rows = np.hstack([np.arange(1, CAPACITY + 1)[:, None], cached])
    got, cache, rejected = run_job(multiply, kind, code.zero, code.window, CAPACITY, code.payloads(q), rows, timeout=300)
    np.testing.assert_array_equal(got, expected(kind, q, cached))
    np.testing.assert_array_equal(cache, cached)
    assert rejected == -1


@pytest.mark.lava
@pytest.mark.parametrize("code", [SIGNED, OFFSET], ids=lambda code: code.name)
def test_parts_of_the_positions_have_sums_of_their_own(code: SpikeCode) -> None:
    rng = np.random.default_rng(2)
    cached = rng.integers(-127, 128, (CAPACITY, KV_HEADS * WIDTH))
    q = rng.integers(code.code_min, code.code_max + 1, (CAPACITY, HEADS, CAPACITY))
    q[~np.tri(CAPACITY, dtype=bool)[:, None].repeat(HEADS, 1)] = -code.zero
    q = q.reshape(CAPACITY, -1)
    rows = np.hstack([np.arange(1, CAPACITY + 1)[:, None], cached])
    payload = code.payloads(q)
    got, _, _ = run_job(multiply, "mix", code.zero, code.window, CAPACITY, payload, rows, 2, timeout=300)
    np.testing.assert_array_equal(got, expected("mix", q, cached, 2))
    assert got.shape == (CAPACITY, 2 * HEADS * WIDTH)


@pytest.mark.lava
def test_a_new_sequence_sees_nothing_old_and_a_row_too_many_is_rejected() -> None:
    payload = np.zeros((4, HEADS * WIDTH, 8), np.int64)
    payload[:, :, 7] = 1
    ones = np.ones((4, KV_HEADS * WIDTH), np.int64)
    positions = np.array([1, 2, 1, 3])[:, None]
    got, cache, rejected = run_job(multiply, "score", 0, 8, 2, payload, np.hstack([positions, ones]), timeout=300)
    seen = got.reshape(4, HEADS, 2)[:, 0]
    assert seen[:3].tolist() == [[3, 0], [3, 3], [3, 0]]
    assert rejected == 2 and cache.shape == (2, 6)
