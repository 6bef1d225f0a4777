"""Keys, formats, and texts with both."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kirin_lava.tasks.report.values import FORMS, UNKNOWN, present, resolve, show

REPORT: dict[str, Any] = {"counts": {"spikes": 1234.5, "rows": [{"name": "a"}, {"name": "b"}]}, "none": None}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("counts.spikes", 1234.5),
        ("counts.rows.1.name", "b"),
        ("counts.rows.2.name", None),
        ("counts.rows.x", None),
        ("counts.spikes.more", None),
        ("none.more", None),
        ("absent", None),
    ],
)
def test_keys_are_paths(key: str, value: object) -> None:
    assert resolve(REPORT, key) == value


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (1234567, "int", "1,234,567"),
        (0.93751, "percent2", "93.75 %"),
        (7.12e-6, "si:J", "7.12 µJ"),
        (0.9996e-6, "si:J", "1.00 µJ"),
        (999.6e-9, "si:s", "1.00 µs"),
        (12.34e-9, "si:s", "12.3 ns"),
        (0.0, "si:J", "0 J"),
        (1_990_000, "bytes", "1.99 MB"),
        (812, "bytes", "812 B"),
        ([-3, 40000], "span", "-3 to 40,000"),
        (["a", "b"], "list", "a, b"),
        ([], "list", "none"),
        (
            [{"name": "attn.p", "value": 0.02}, {"name": "attn.q", "value": 0.125}],
            "shares",
            "attn.p 2\u00a0%, attn.q 12.5\u00a0%",
        ),
        ([], "shares", "none"),
        (5, "code", "code 5"),
        (None, "int", UNKNOWN),
        (math.nan, "two", UNKNOWN),
    ],
)
def test_values_are_shown(value: object, form: str, text: str) -> None:
    assert show(value, form) == text


def test_every_prefix_keeps_three_digits() -> None:
    for power in range(-12, 13):
        for digits in (1.0, 1.234, 9.994, 9.9996):
            shown = show(digits * 10.0**power, "si:W")
            number = shown.split(" ")[0]
            assert 3 <= len(number.replace(".", "")) <= 4 and float(number) < 1000.0, shown


def test_an_unknown_form_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        show(1, "nothing")


def test_names_of_forms_can_stand_in_an_attribute() -> None:
    assert all(" " not in name or name == "whole percent" for name in FORMS)


def test_a_part_is_there_or_missing() -> None:
    report: dict[str, Any] = {"a": {"missing": "no weights"}, "b": [], "c": None}
    assert [present(report, key) for key in ("a", "b", "c", "d")] == [False, True, False, False]
