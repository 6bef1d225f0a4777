"""Lava never starts with too few descriptors, and a job that does not get on is ended."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kirin_lava.base.errors import BackendError, UsageError
from kirin_lava.methods.recipe import load_recipe
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.text import CALIBRATION_TEXT, read_text, token_rows
from kirin_lava.processes import watchdog
from kirin_lava.processes.runtime import Session, run_job
from kirin_lava.processes.start import _BLOCK, _SPARE, block_descriptors, descriptors_needed
from kirin_lava.processes.watchdog import WORKING, Watchdog, patience
from kirin_lava.quantize.convert import convert_model
from kirin_lava.spikes.codes import SIGNED
from tests.processes import runtime_jobs
from tests.processes.jobs import Endless, descriptors_of, size_of_block, stuck
from tests.spikes.test_neuron import layer

ROOT = Path(__file__).parents[2]
LIMITED = """
import resource, sys
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
import numpy as np
from kirin_lava.base.errors import KirinError
from kirin_lava.processes.runtime import run_job
from kirin_lava.spikes.codes import SIGNED
from tests.processes.jobs import run_segments
from tests.spikes.test_neuron import formula, layer
op, q = layer(np.random.default_rng(0), 3, 4, SIGNED, None), np.array([[1, -7, 30, 0]])
try:
    (run,) = run_job(run_segments, [(op, q, None)])
    print("equal" if np.array_equal(run.result, formula(op, q)) else "different")
except KirinError as error:
    print(error.exit_code, error)
"""
SEGMENT = descriptors_needed(6, 7)  # encoder, two synapses, neuron, two probes


def limited(soft: int, hard: int) -> str:
    """What a segment on Lava says under these limits of open files."""
    command = [sys.executable, "-c", LIMITED, str(soft), str(hard)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout.strip()


@pytest.mark.lava
def test_too_few_descriptors_are_refused_with_the_number() -> None:
    said = limited(70, 100)
    match = re.fullmatch(
        r"6 a network of 6 Lava processes and 7 channels needs (\d+) open files and may have 70 \(hard limit 100\): .*", said
    )
    assert match, said
    assert SEGMENT + 3 <= int(match[1]) <= SEGMENT + 8 and f"ulimit -n {match[1]}" in said


@pytest.mark.lava
def test_a_low_soft_limit_is_raised() -> None:
    assert limited(70, 200) == "equal"


@pytest.mark.lava
def test_the_count_is_what_lava_takes() -> None:
    op = layer(np.random.default_rng(0), 3, 4, SIGNED, None)
    processes, channels, before, most = run_job(descriptors_of, op, np.array([[1, -7, 30, 0]]))
    assert (processes, channels) == (6, 7)
    assert most <= before + descriptors_needed(processes, channels) <= most + _SPARE + 1


@pytest.mark.lava
def test_doctor_counts_a_block_as_it_is() -> None:
    checkpoint = open_checkpoint("demo")
    row = token_rows(checkpoint.tokenizer(), read_text(CALIBRATION_TEXT), 16)[0]
    model = convert_model(checkpoint, [row], load_recipe("fast"))
    assert model.rotary is not None
    assert run_job(size_of_block, model.blocks[0], (model.rotary[0][:4], model.rotary[1][:4])) == _BLOCK
    assert block_descriptors() > descriptors_needed(*_BLOCK)


@pytest.mark.lava
@pytest.mark.slow
def test_lava_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRIN_LAVA_PATIENCE", "6")
    op = layer(np.random.default_rng(0), 3, 4, SIGNED, None)
    with pytest.raises(
        BackendError, match=r"stuck has made no time step and used no processor time for 6 s \(1 of 1 time steps done"
    ):
        run_job(stuck, op, np.array([[1, -7, 30, 0]]))


@pytest.mark.lava
def test_a_job_that_never_steps_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRIN_LAVA_PATIENCE", "2")
    said = (
        r"sleep_for_ever has made no time step and used no processor time for 2 s \(no time step done\) and was ended: .*doctor"
    )
    for timeout in (None, 10_000):
        with pytest.raises(BackendError, match=said):
            run_job(runtime_jobs.sleep_for_ever, timeout=timeout)
    session = Session(Endless)  # a live network, which nobody lets run
    assert session.call("start") > 0
    with pytest.raises(BackendError, match=r"Endless has made no time step"):
        session.call("wait_for_ever")
    with pytest.raises(BackendError, match="closed"):
        session.call("start")


@pytest.mark.lava
def test_a_job_that_works_is_waited_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRIN_LAVA_PATIENCE", "1.5")
    assert run_job(runtime_jobs.work, 5.0) == "done"
    assert run_job(runtime_jobs.speak, 10, 0.5) == "done"
    monkeypatch.setenv("KIRIN_LAVA_PATIENCE", "0.5")
    with pytest.raises(BackendError, match=r"work has worked for 5 s without a time step \(no time step done\)"):
        run_job(runtime_jobs.work, 600.0)


def test_time_asleep_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, used = [0.0], [7]
    monkeypatch.setattr("kirin_lava.processes.watchdog.time.monotonic", lambda: now[0])
    monkeypatch.setattr(watchdog, "processor_time", lambda group: used[0])
    watch = Watchdog(1, 120.0)

    def look(times: int, seconds: float) -> str | None:
        for _ in range(times):
            now[0] += seconds
            if (wrong := watch.stalled()) is not None:
                return wrong
        return None

    assert look(10, 3600.0) is None  # suspended again and again
    watch.heard()
    assert look(200, 0.5) is None  # 100 s
    used[0] += 1
    assert look(200, 0.5) is None  # it worked in between
    assert look(60, 0.5) == "has made no time step and used no processor time for 120 s"
    watch.heard()
    monkeypatch.setattr(watchdog, "processor_time", lambda group: None)  # where nobody tells, it may be working
    assert look(2 * 120 * WORKING - 1, 0.5) is None
    assert look(2, 0.5) == "has worked for 1200 s without a time step"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_patience_is_a_number_of_seconds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIRIN_LAVA_PATIENCE", text)
    with pytest.raises(UsageError, match="KIRIN_LAVA_PATIENCE"):
        patience()
    monkeypatch.delenv("KIRIN_LAVA_PATIENCE")
    assert patience() == 120
