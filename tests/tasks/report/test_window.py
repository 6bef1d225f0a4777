"""The picture's numbers, computed again in another way from the bundle alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kirin_lava.export.bundle import Bundle, Probe
from kirin_lava.graph.ops import Linear
from kirin_lava.methods.kirin import KIRIN
from kirin_lava.methods.kirin.trace import SHOWN
from kirin_lava.spikes.codes import code_named
from kirin_lava.spikes.neurons import Silence
from kirin_lava.tasks.report.gather import window_of


def _parts(path: Path) -> tuple[dict[str, Any], Linear, Probe]:
    bundle = Bundle(path)
    picture = KIRIN.picture()
    assert picture is not None
    window = window_of(bundle, picture)
    linear = next(s.linear for s in bundle.segments(window["block"]) if s.linear.name == window["segment"])
    return window, linear, bundle.probes(window["block"])[window["segment"]]


def test_a_firing_segment_is_preferred(firing: Path) -> None:
    window, linear, _ = _parts(firing)
    assert window["fires"] and linear.fires is not None and window["segment"] == "mlp.fc1"


def test_outputs_are_the_recorded_codes(firing: Path) -> None:
    window, _, probe = _parts(firing)
    recorded = probe.result[window["index"]]
    assert [row["code"] for row in window["outputs"]] == recorded[:SHOWN].tolist()
    for row in window["traces"]:
        assert row["code"] == recorded[row["neuron"]]


@pytest.mark.parametrize("kind", ["firing", "reading"])
def test_the_raster_stands_for_the_recorded_codes(kind: str, request: pytest.FixtureRequest) -> None:
    window, linear, probe = _parts(request.getfixturevalue(kind))
    codes = probe.codes[window["index"]]
    shown = window["raster"]["channels"]
    payload = np.zeros((shown, window["steps"]), np.int64)
    for event in window["raster"]["spikes"] + window["raster"]["outliers"]:
        payload[event["channel"], event["step"]] = event["payload"]
    assert np.array_equal(linear.code.decode(payload), codes[:shown])
    assert all(abs(event["payload"]) == 1 for event in window["raster"]["spikes"])
    assert all(event["step"] == window["steps"] - 1 for event in window["raster"]["outliers"])
    assert sum(window["raster"]["counts"].values()) == len(codes)


@pytest.mark.parametrize("kind", ["firing", "reading"])
def test_traces_meet_the_threshold_when_they_fire(kind: str, request: pytest.FixtureRequest) -> None:
    """A neuron's membrane lies below every earlier threshold and meets the one of its step."""
    window, _, _ = _parts(request.getfixturevalue(kind))
    start = window["steps"] + window["first_fall"]
    assert len(window["traces"]) == 4
    for trace in window["traces"]:
        end = trace["level"][-1] * (trace["payload"] or 1)
        falls = len(window["thresholds"]) if trace["step"] is None else trace["step"] - start
        assert all(end < threshold + 0.5 / trace["ramp"] for threshold in window["thresholds"][:falls])
        if trace["step"] is not None:
            assert end >= window["thresholds"][falls] - 0.5 / trace["ramp"]


def test_the_last_level_is_the_membrane(firing: Path) -> None:
    window, linear, probe = _parts(firing)
    fire = linear.neuron
    assert isinstance(fire, Silence)
    sums = linear.weight.astype(np.int64) @ probe.codes[window["index"]].astype(np.int64)
    for trace in window["traces"]:
        n = trace["neuron"]
        membrane = (sums[n] * 2**fire.shift + fire.offset[n]) / fire.ramp[n] + fire.code.zero
        assert trace["level"][-1] == pytest.approx(membrane, abs=1e-4)


@pytest.mark.parametrize("kind", ["firing", "reading"])
def test_silence_is_what_makes_it_right(kind: str, request: pytest.FixtureRequest) -> None:
    window, _, probe = _parts(request.getfixturevalue(kind))
    silence = window["silence"]
    assert silence["wrong_with"] == 0
    assert silence["compared"] == probe.result.size
    assert silence["wrong_without"] > 0.1 * silence["compared"]


def test_a_read_segment_gets_ramps_that_spread_its_outputs(reading: Path) -> None:
    window, _, _ = _parts(reading)
    low, high = code_named(window["output_encoding"]).code_span(messages=False)
    codes = {row["code"] for row in window["outputs"]}
    assert not window["fires"] and len(codes) > 4
    assert low <= min(codes) and max(codes) <= high
