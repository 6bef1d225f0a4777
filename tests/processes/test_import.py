"""The package can be imported without Lava, and says in one sentence what is missing when it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kirin_lava.processes as processes
from kirin_lava.base.errors import BackendError
from kirin_lava.processes import runtime


def test_nothing_imports_lava_before_it_is_needed() -> None:
    code = """
import sys
import kirin_lava.processes, kirin_lava.processes.model, kirin_lava.processes.pipeline, kirin_lava.processes.runtime
import kirin_lava.spikes.neurons.neuron
import multiprocessing
assert not [name for name in sys.modules if name.startswith("lava.")]
assert multiprocessing.get_start_method(allow_none=True) is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize("name", processes.__all__)
def test_without_lava_every_process_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_DISTRIBUTIONS", ("no-such-lava",))
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    with pytest.raises(BackendError, match="no-such-lava not installed"):
        getattr(processes, name)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="NoSuchProcess"):
        processes.NoSuchProcess  # noqa: B018


@pytest.mark.lava
def test_every_name_is_there() -> None:
    code = "import kirin_lava.processes as p; [getattr(p, name) for name in p.__all__]"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=300)
