"""What holds for every test: the number of threads, hypothesis without deadlines, and where Lava is not installed, a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest
import torch
from click.testing import CliRunner

from kirin_lava.cli.main import main

# A deadline measures the machine, not the code. Threads of two test runs on one machine only wait for each other.
hypothesis.settings.register_profile("kirin", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("kirin")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests marked `lava` where Lava is not installed, as on Python 3.11 and newer."""
    if find_spec("lava") is not None:
        return
    missing = pytest.mark.skip(reason="Lava is not installed (it runs on Python 3.10 only)")
    for item in items:
        if item.get_closest_marker("lava") is not None:
            item.add_marker(missing)


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Runs the command line in this process; an exception that it lets through fails the test."""

    def run(*arguments: object) -> Ran:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Callable[..., str]:
    """Runs an export that must fail with a code, in one line, leaving nothing; returns the line."""

    def run(code: int, model: object, *arguments: object) -> str:
        out = tmp_path / "refused-out"
        ran = cli("export", "-m", model, "-o", out, "--verify", "none", *arguments)
        assert ran.code == code, ran.err
        assert ran.out == ""
        assert ran.err.startswith("error: ") and ran.err.count("\n") == 1
        assert not out.exists()
        return ran.err

    return run
