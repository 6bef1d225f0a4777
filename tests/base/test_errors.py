"""Exit codes are a promise: scripts tell by them what went wrong."""

from __future__ import annotations

import pytest

from kirin_lava.base import errors
from kirin_lava.base.errors import KirinError

CODES = {
    "KirinError": 1,
    "UsageError": 2,
    "UnsupportedError": 3,
    "VerificationError": 4,
    "FitError": 5,
    "BackendError": 6,
}


def test_every_error_has_the_exit_code_that_the_help_names() -> None:
    found = {
        name: kind.exit_code for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, KirinError)
    }
    assert found == CODES and sorted(errors.__all__) == sorted(CODES)


@pytest.mark.parametrize("name", CODES)
def test_all_are_caught_as_one(name: str) -> None:
    with pytest.raises(KirinError, match="why"):
        raise getattr(errors, name)("why")
