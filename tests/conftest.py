"""What holds for every test: the number of threads, hypothesis without deadlines, and where Lava is not installed, a reason."""

from __future__ import annotations

from importlib.util import find_spec

import hypothesis
import pytest
import torch

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
