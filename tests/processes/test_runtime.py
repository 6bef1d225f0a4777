"""Jobs: results, errors, limits, progress, and nothing left behind on any way out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from kirin_lava.base.errors import BackendError, FitError, UsageError
from kirin_lava.processes import runtime
from kirin_lava.processes.runtime import Session, lava_versions, progress, require_backend, require_lava, run_job
from kirin_lava.spikes.codes import SIGNED
from tests.processes import runtime_jobs as jobs
from tests.processes.jobs import Endless, run_for_ever, run_segments
from tests.spikes.test_neuron import formula, layer

pytestmark = pytest.mark.lava  # a job asks for Lava before it starts, even where it does not use it

ROOT = Path(__file__).parents[2]
MEMORY = Path("/dev/shm")


def alive(group: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def orphans() -> set[str]:
    """Shared memory of Python's kind that no living process has mapped; others may be at work on this machine."""
    files = {path.name for path in MEMORY.glob("psm_*")}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            files -= {line.rpartition("/dev/shm/")[2].strip() for line in maps.read_text().splitlines() if "/dev/shm/" in line}
    return files


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def tidy() -> Iterator[None]:
    """The test must leave descriptors and shared memory as it found them."""
    before, memory = os.listdir("/proc/self/fd"), orphans()
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert wait_until(lambda: not orphans() - memory), "shared memory is left"


@pytest.mark.usefixtures("tidy")
def test_result_and_its_own_session() -> None:
    assert run_job(jobs.add, 2, 3, timeout=60) == 5
    pid, group, session = run_job(jobs.where)
    assert pid == group == session != os.getpid()
    assert not alive(group)


@pytest.mark.usefixtures("tidy")
def test_errors_of_ours_come_as_they_are_and_others_as_backend_errors() -> None:
    with pytest.raises(FitError, match=r"^layer: neuron 3 is too large$"):
        run_job(jobs.misfit)
    with pytest.raises(BackendError, match="raised KeyError: 'nowhere'") as caught:
        run_job(jobs.fault)
    assert "in fault" in str(caught.value.__cause__)
    with pytest.raises(BackendError, match="pickle"):
        run_job(jobs.unpicklable)


@pytest.mark.usefixtures("tidy")
def test_a_death_tells_how_and_the_last_words() -> None:
    with pytest.raises(BackendError, match=r"vanish was killed by SIGKILL .*these are my last words"):
        run_job(jobs.vanish)
    with pytest.raises(BackendError, match=r"vanish was killed by SIGHUP"):
        run_job(jobs.vanish, signal.SIGHUP)
    with pytest.raises(BackendError, match=r"leave ended with exit code 7 .*wrote nothing"):
        run_job(jobs.leave)


@pytest.mark.usefixtures("tidy")
def test_progress_and_limit() -> None:
    seen: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    assert run_job(jobs.steps, 3, 0.0, on_progress=note) is None
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(BackendError, match=r"steps passed its limit of 0.05 s \(no time step done\): raise --timeout"):
        run_job(jobs.steps, 1, 0.0, timeout=0.05)


@pytest.mark.usefixtures("tidy")
def test_a_job_that_hears_nothing_is_killed_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_GRACE", 0.1)
    pids: list[int] = []

    def rescue() -> None:  # else this test would never end
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGCONT)
            rescued.append(True)

    rescued: list[bool] = []
    timer = threading.Timer(60, rescue)
    timer.start()
    try:
        with pytest.raises(BackendError, match=r"stop passed its limit of 10 s"):
            run_job(jobs.stop, timeout=10, on_progress=lambda done, total: pids.append(done))
    finally:
        timer.cancel()
    assert len(pids) == 1 and not rescued
    assert not alive(pids[0])


@pytest.mark.usefixtures("tidy")
def test_programs_that_a_job_leaves_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_TIDY", 0.2)
    pid = run_job(jobs.leave_a_program)

    def lives() -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        return False

    try:
        deadline = time.monotonic() + 10  # a process that was killed is gone a moment later
        while lives() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not lives()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_progress_outside_a_job_does_nothing() -> None:
    progress(1, 2)


def test_a_job_must_be_importable() -> None:
    def local() -> None: ...

    local.__module__ = "__main__"
    with pytest.raises(UsageError, match="must be importable"):
        run_job(local)


@pytest.mark.usefixtures("tidy")
def test_session_keeps_its_object() -> None:
    with Session(jobs.Counter, 5, timeout=60) as session:
        assert session.call("add", 2) == 7
        with pytest.raises(FitError, match="not this one"):
            session.call("fail")
        seen: list[tuple[int, int]] = []
        assert session.call("add", 3, on_progress=lambda done, total: seen.append((done, total))) == 10
        assert seen == [(1, 1)]
    session.close()
    with pytest.raises(BackendError, match="session is closed"):
        session.call("add", 1)
    with pytest.raises(FitError, match="below 0"):
        Session(jobs.Counter, -1)


@pytest.mark.usefixtures("tidy")
def test_a_limit_tells_the_progress_and_closes_the_session() -> None:
    session = Session(jobs.Counter, 0, timeout=300)
    session.timeout = 3
    with pytest.raises(BackendError, match=r"Counter passed its limit of 3 s \([1-9]\d* of 100000 time steps done\)"):
        session.call("add_slowly", 100_000)
    with pytest.raises(BackendError, match="closed"):
        session.call("add", 1)


@pytest.mark.usefixtures("tidy")
def test_lava_is_ended_by_a_limit() -> None:
    session = Session(Endless, timeout=300)
    pid = session.call("start")
    assert len(alive(pid)) > 4
    session.timeout = 1
    with pytest.raises(BackendError, match=r"Endless passed its limit of 1 s"):
        session.call("run")
    assert not alive(pid)


@pytest.mark.usefixtures("tidy")
def test_lava_is_ended_when_its_job_is_killed() -> None:
    pids: list[int] = []
    members: list[int] = []

    def watch(done: int, total: int) -> None:
        if total == 0:
            pids.append(done)
        elif done == 20:
            members.extend(alive(pids[0]))
            os.kill(pids[0], signal.SIGKILL)

    with pytest.raises(BackendError, match="killed by SIGKILL"):
        run_job(run_for_ever, timeout=120, on_progress=watch)
    assert len(members) > 4 and not alive(pids[0])


@pytest.mark.usefixtures("tidy")
def test_the_job_ends_when_one_of_its_processes_is_killed() -> None:
    pids: list[int] = []

    def watch(done: int, total: int) -> None:
        if total == 0:
            pids.append(done)
        elif done == 20:
            os.kill(max(alive(pids[0])), signal.SIGKILL)

    with pytest.raises(BackendError, match=r"ended with exit code 1 .*a Lava process was killed by SIGKILL"):
        run_job(run_for_ever, timeout=120, on_progress=watch)
    assert not alive(pids[0])


@pytest.mark.usefixtures("tidy")
def test_an_exception_in_the_caller_ends_the_job() -> None:
    pids: list[int] = []

    def give_up(done: int, total: int) -> None:
        if total == 0:
            pids.append(done)
        elif done == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_job(run_for_ever, timeout=120, on_progress=give_up)
    assert not alive(pids[0])


def hears_ctrl_c() -> None:
    """In a child before it starts: a shell that runs the tests in the background has switched Ctrl-C off for them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


PARENT = """
import sys
from kirin_lava.processes.runtime import run_job
from tests.processes.jobs import run_for_ever

def tell(done, total):
    if total == 0 or done == 20:
        print(done if total == 0 else "running", flush=True)

run_job(run_for_ever, on_progress=tell)
"""


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_lava_does_not_outlive_its_parent(sent: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=hears_ctrl_c,
    ) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        assert parent.stdout.readline() == "running\n"
        assert len(alive(group)) > 4
        os.killpg(parent.pid, sent)  # as Ctrl-C does: the whole group of the terminal
        parent.wait(60)
    assert wait_until(lambda: not alive(group)), "Lava outlives its parent"


@pytest.mark.usefixtures("tidy")
def test_jobs_run_beside_each_other_in_threads() -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda i=i: results.append(run_job(jobs.add, i, 10))) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [10, 11, 12]


@pytest.mark.slow
@pytest.mark.usefixtures("tidy")
def test_several_lava_runs_leave_nothing() -> None:
    op = layer(np.random.default_rng(0), 3, 4, SIGNED, None)
    q = np.array([[1, -7, 30, 0]])
    for _ in range(5):
        (run,) = run_job(run_segments, [(op, q, None)], timeout=120)
        np.testing.assert_array_equal(run.result, formula(op, q))


def test_versions() -> None:
    assert lava_versions() == {"lava-nc": "0.10.0", "lava-dl": "0.6.0"}


def test_missing_lava_is_one_sentence_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_start(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", no_start)
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    for start in (require_lava, lambda: run_job(jobs.add, 1, 2), lambda: Session(jobs.Counter, 1)):
        with pytest.raises(BackendError, match=r"^Lava runs on Python 3\.10 only and this is Python 3\.12: [^.]+3\.10$"):
            start()
    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    monkeypatch.setattr(runtime, "_DISTRIBUTIONS", ("lava-nc", "no-such-lava"))
    with pytest.raises(BackendError, match=r"^no-such-lava not installed"):
        require_lava()


def test_backends() -> None:
    require_backend("cpu")
    with pytest.raises(UsageError, match="'gpu'"):
        require_backend("gpu")
    with pytest.raises(BackendError, match=r"Loihi 2 (needs lava-loihi|board)"):
        require_backend("loihi2")


def test_what_a_job_leaves_is_waited_for_until_nothing_of_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    answers = iter([True, True, False, False])

    def lives(group: int) -> bool:
        asked.append(group)
        return next(answers)

    monkeypatch.setattr(runtime, "_group_lives", lives)
    pid, group, _ = run_job(jobs.where)
    assert asked == [pid] * 3 and pid == group
