"""Bundles of random models and the report of one of them, made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from kirin_lava.tasks.report import Report, make_report
from tests.tasks.report.bundles import TEXT, small_bundle

pytest.importorskip("matplotlib", reason="matplotlib is not installed: no report")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for bundles."""
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(scope="session")
def firing(bundles: Path) -> Path:
    """A bundle with segments that fire, in the paper's encoding."""
    return small_bundle(bundles, "opt", "offset")


@pytest.fixture(scope="session")
def reading(bundles: Path) -> Path:
    """A bundle whose segments are all read out, in signed codes."""
    return small_bundle(bundles, "llama", "signed")


@pytest.fixture(scope="session")
def text(bundles: Path) -> Path:
    """A text that no bundle was calibrated on."""
    path = bundles / "evaluation.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def made(firing: Path, text: Path, bundles: Path) -> Report:
    """The report of `firing`, with figures."""
    return make_report(firing, text, figures=bundles / "figures")
