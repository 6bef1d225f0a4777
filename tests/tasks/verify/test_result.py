"""The comparison that every verification rests on: any difference, anywhere, of any size."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kirin_lava.base.errors import VerificationError
from kirin_lava.tasks.verify.result import Row, Verification, compare

WINDOWS, NEURONS = 3, 5
DIFFERENCES = [1, -1, 2, 127, 255, 256, -256, 512, 2**15, 2**16, 2**24, -(2**30)]


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("window", range(WINDOWS))
@pytest.mark.parametrize("neuron", range(NEURONS))
def test_a_single_integer_that_differs_is_found_where_it_is(difference: int, window: int, neuron: int) -> None:
    expected = np.arange(WINDOWS * NEURONS, dtype=np.int32).reshape(WINDOWS, NEURONS)
    got = expected.astype(np.int64)
    got[window, neuron] += difference
    assert np.argwhere(compare(expected, got)).tolist() == [[window, neuron]]
    verification, row = Verification("segment", ("stock",)), Row("blocks.0.attn.o", "read", 4, NEURONS, 8, 0, 0, 0)
    verification.rows.append(row)
    verification.note(row, "stock", expected, got)
    assert (row.compared, row.mismatches) == (WINDOWS * NEURONS, 1)
    first = expected[window, neuron]
    with pytest.raises(VerificationError) as error:
        verification.require()
    assert str(error.value) == (
        f"1 of 15 integers differ; first: blocks.0.attn.o, stock, window {window}, neuron {neuron}: "
        f"expected {first}, got {first + difference}"
    )


@given(
    st.lists(st.integers(-(2**23), 2**23), min_size=6, max_size=6),
    st.lists(st.integers(-(2**23), 2**23), min_size=6, max_size=6),
)
def test_integers_are_compared_whole(first: list[int], second: list[int]) -> None:
    """In whatever types they come."""
    expected = np.array([[a != b for a, b in zip(first, second, strict=True)]])
    for kind in (np.int32, np.int64):
        np.testing.assert_array_equal(compare(np.array([first], kind), np.array([second], np.int64)), expected)
    assert not compare(np.array([first], np.int32), np.array([first], np.int64)).any()


def test_the_first_mismatch_stays_and_all_are_counted() -> None:
    verification, row = Verification("segment", ("native", "stock")), Row("a", "read", 1, 2, 8, 0, 0, 0)
    verification.rows.append(row)
    zeros = np.zeros((2, 2), np.int64)
    for backend, place in (("native", (1, 1)), ("stock", (0, 0))):
        got = zeros.copy()
        got[place] = 1
        verification.note(row, backend, zeros, got)
    assert (verification.compared, verification.mismatches) == (8, 2)
    assert verification.first is not None
    assert (verification.first.backend, verification.first.window, verification.first.neuron) == ("native", 1, 1)
    assert verification.summary().startswith("NOT VERIFIED: 8 integers compared (native, stock), 2 mismatches")


def verification_of(*rows: Row) -> Verification:
    return Verification("segment", ("reference", "native", "stock"), list(rows))


READ = Row("blocks.0.attn.o", "read", 32, 16, 8, 101, 3, 7, compared=48, mismatches=0)
FIRED = Row("blocks.0.mlp.fc1", "fire", 16, 64, 16, 202, 5, 11, compared=192, mismatches=2)


def printed(verification: Verification) -> list[list[str]]:
    """The cells of the table: its header, then its rows."""
    console = Console(file=io.StringIO(), width=200)
    table = verification.table()
    table.box = None
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [re.split(r" {2,}", line.strip()) for line in lines[1:]]


def test_the_table_has_times_only_where_they_were_measured() -> None:
    header = ["segment", "kind", "in", "out", "T", "spikes", "silent", "outliers", "compared", "wrong"]
    first = ["blocks.0.attn.o", "read", "32", "16", "8", "101", "7", "3", "48", "0"]
    second = ["blocks.0.mlp.fc1", "fire", "16", "64", "16", "202", "11", "5", "192", "2"]
    assert printed(verification_of(READ, FIRED)) == [header, first, second]
    timed = [*header, "native ms per step", "stock ms per step"]
    for native, stock in ((1.25, None), (None, 0.5), (1.25, 0.5)):
        row = replace(READ, ms_native=native, ms_stock=stock)
        times = [f"{ms:.2f}" for ms in (native, stock) if ms is not None]
        assert printed(verification_of(row, FIRED)) == [timed, [*first, *times], second]
    columns = verification_of(READ).table().columns
    assert [column.justify for column in columns] == ["left", "left"] + ["right"] * 8


def test_the_summary_says_what_was_left_out_and_nothing_where_nothing_was() -> None:
    covered = {"what": "segments", "of": 9, "each": "windows", "units": {"blocks.0.attn.o": [16, 48, 0]}}
    part = replace(verification_of(READ), covered=covered)
    start = "verified in part: 48 integers compared (reference, native, stock), 0 mismatches; 1 of 9 segments, 16 windows each"
    assert part.summary() == start
    assert replace(part, drawn="drawn by seed 0").summary() == f"{start} (drawn by seed 0)"
    assert verification_of(READ).summary() == start.partition(";")[0].replace("verified in part", "verified")


def test_times_are_means_over_the_rows_that_have_one() -> None:
    rows = replace(READ, ms_native=1.0), replace(READ, ms_native=4.0, ms_stock=3.0), READ
    assert verification_of(*rows).milliseconds_per_step() == {"native": 2.5, "stock": 3.0}
    assert verification_of(READ, FIRED).milliseconds_per_step() == {}


def test_the_first_damaged_file_is_named_and_all_are_counted() -> None:
    damaged = replace(verification_of(READ), damaged=["net/b.net", "net/a.net", "host/c.safetensors"])
    with pytest.raises(VerificationError, match=r"^net/b\.net is not the file that was exported \(3 such files\)$"):
        damaged.require()
    with pytest.raises(VerificationError, match="nothing was compared: the bundle has no segments"):
        verification_of().require()


def test_plain_values_hold_every_row_and_the_sums() -> None:
    plain = verification_of(READ, FIRED).to_dict()
    assert (plain["compared"], plain["mismatches"], plain["level"]) == (240, 2, "segment")
    assert [row["name"] for row in plain["rows"]] == ["blocks.0.attn.o", "blocks.0.mlp.fc1"]
    assert plain["rows"][1]["outliers"] == 5 and plain["first"] is None and plain["damaged"] == []
