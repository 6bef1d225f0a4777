"""The port of an operation: what it writes, from what it reads, checked.

A graph may come from a file and say anything: an operation asks for its inputs through `Inputs`, which raises where a value is
missing or of another kind or width. What passes here runs through every backend without an error of shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kirin_lava.base.errors import UsageError
from kirin_lava.spikes.codes import SpikeCode
from kirin_lava.spikes.tables import Table, check_table

__all__ = ["CODES", "FIXED", "REAL", "SUMS", "Inputs", "Port"]

REAL, FIXED, CODES, SUMS = "real", "fixed", "codes", "sums"


@dataclass(frozen=True)
class Port:
    """What is known of a value.

    Attributes:
        kind: "real", "fixed", "codes" or "sums".
        width: elements per token; for a row per head and position, the heads.
        groups: steps per token, of codes. code: of codes.
        by_position: one element per head and position, (B, H, L, J), instead of (B, L, width).
        cached: whether the codes are kept for later tokens.
        zero_points: of a token, which the sums of its codes still contain, of codes and of sums.
        fraction: a fixed-point value counts in units of 2^-fraction; so do the steps of codes that were made from one.
        window: positions that a row by head and position reaches back, the token's own included; None for all.
    """

    kind: str
    width: int
    groups: int = 1
    code: SpikeCode | None = None
    by_position: bool = False
    cached: bool = False
    zero_points: int = 0
    fraction: int | None = None
    window: int | None = None


@dataclass(frozen=True)
class Inputs:
    """The values that an operation can read, with the rules by which it may.

    Attributes:
        values: name -> port of everything written so far.
        head_dim: width of the rotary tables, None where nobody asks.
        place: of the operation, for errors.
    """

    values: dict[str, Port]
    head_dim: int | None
    place: str

    def error(self, problem: str) -> UsageError:
        """The error to raise."""
        return UsageError(f"{self.place}: {problem}; the bundle is damaged, export again")

    def read(self, name: str, kind: str, by_position: bool | None = False) -> Port:
        """A value of this kind; by_position None takes both shapes."""
        port = self.values.get(name)
        if port is None:
            raise self.error(f"value {name!r} is read before it is written")
        if port.kind != kind or by_position not in (None, port.by_position):
            shape = " per head and position" if port.by_position else ""
            raise self.error(f"value {name!r} holds {port.kind}{shape}, which this operation does not read")
        return port

    def fixed(self, name: str, fraction: int, by_position: bool | None = False) -> Port:
        """A fixed-point value in these units."""
        port = self.read(name, FIXED, by_position)
        self.fraction(name, port, fraction)
        return port

    def fraction(self, name: str, port: Port, fraction: int) -> None:
        """A value, or the steps of codes, in these units."""
        if port.fraction != fraction:
            raise self.error(f"value {name!r} has units of 2^-({port.fraction}) instead of 2^-({fraction})")

    def shift(self, what: str, bits: int, least: int = 0, most: int = 62) -> None:
        """A shift of integers that loses none of them at its upper end."""
        if not least <= bits <= most:
            raise self.error(f"{what} is shifted by {bits} bits, not by {least} to {most}")

    def cached(self, name: str) -> Port:
        """Cached codes."""
        port = self.read(name, CODES)
        if not port.cached:
            raise self.error(f"value {name!r} is not cached")
        return port

    def code(self, code: SpikeCode, port: Port) -> None:
        """The operation takes codes of this kind."""
        if code != port.code:
            found = None if port.code is None else port.code.name
            raise self.error(f"it takes {code.name} codes, its input has {found}")
        self.channels(code, port.width)

    def channels(self, code: SpikeCode, width: int) -> None:
        """A code whose channels are known belongs to a value of this width."""
        if code.channels is not None and code.channels.width != width:
            raise self.error(f"{code.name} codes of {code.channels.width} channels in a value of width {width}")

    def same(self, what: str, found: int, wanted: int) -> None:
        """Two numbers must be equal."""
        if found != wanted:
            raise self.error(f"{what}: {found} instead of {wanted}")

    def divides(self, parts: int, width: int, what: str) -> None:
        """A width has so many equal parts."""
        if parts < 1 or width % parts:
            raise self.error(f"a value of width {width} has no {parts} {what}")

    def positive(self, what: str, value: float) -> None:
        """A positive finite number."""
        if not (math.isfinite(value) and value > 0):
            raise self.error(f"{what} is {value}, not a positive number")

    def vector(self, what: str, array: npt.NDArray[Any] | None, length: int) -> None:
        """(length,) finite numbers, where there are any."""
        if array is None:
            return
        if array.shape != (length,):
            raise self.error(f"{what} has {array.size} values instead of {length}")
        finite = np.isfinite(array)
        if not finite.all():
            raise self.error(f"{what}[{int(finite.argmin())}] is {array[finite.argmin()]}")

    def table(self, found: Table, *names: str) -> None:
        """A table of one of these formulas, with its entries."""
        if found.name not in names:
            raise self.error(f"it takes the table {' or '.join(names)}, not {found.name!r}")
        check_table(found, self.place)

    def turns(self, table: int | None) -> None:
        """A model holds a rotary embedding or two."""
        if table not in (None, 0, 1):
            raise self.error(f"there is no rotary embedding {table}")

    def window(self, name: str, window: int | None) -> None:
        """A row by head and position reaches back so far."""
        if self.values[name].window != window:
            raise self.error(f"value {name!r} reaches back {self.values[name].window} positions instead of {window}")

    def heads(self, heads: int, kv_heads: int) -> None:
        """Query heads that share key and value heads evenly."""
        if not 0 < kv_heads <= heads <= 1 << 16 or heads % kv_heads:
            raise self.error(f"{heads} heads over {kv_heads} key/value heads")
