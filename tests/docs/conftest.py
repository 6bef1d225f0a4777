"""Two small bundles to read: `out`, whose segments are read out, and `opt`, one of whose segments fires."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.exports import export


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for model, out in (("demo", "out"), ("demo-opt", "opt")):
        export(model, folder / out, layers=(0, 0), num_samples=4, verify_with="none")
    return folder
