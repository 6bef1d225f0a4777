"""Every error a user can meet, with the exit code of the command line that it becomes.

A message names the place, the number, and what to do. Anything that is not a `KirinError` is a bug (exit code 1).
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "FitError",
    "KirinError",
    "UnsupportedError",
    "UsageError",
    "VerificationError",
]


class KirinError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(KirinError):
    """The request cannot be carried out as it was put: a bad option, a missing, damaged or foreign file."""

    exit_code = 2


class UnsupportedError(KirinError):
    """The model, or an operation in it, is outside what the converter supports."""

    exit_code = 3


class VerificationError(KirinError):
    """Two backends computed different integers."""

    exit_code = 4


class FitError(KirinError):
    """An integer does not fit the register, the message or the synapse that must hold it."""

    exit_code = 5


class BackendError(KirinError):
    """A backend (Lava, lava-loihi, a GPU) is missing, timed out or died."""

    exit_code = 6
