"""The way through the units of a bundle, segments or blocks: which are verified, in what order, how far it is still to go."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import inside
from kirin_lava.export.bundle import Bundle
from kirin_lava.tasks.verify.journal import Journal
from kirin_lava.tasks.verify.result import Found, Verification

__all__ = ["Choice", "Clock", "Walk", "choose_units", "share_of"]

Progress = Callable[[str, int, int], None]

_UNIT_BYTES = 300_000  # what a unit costs beside its weights, in bytes of a file of weights


@dataclass(frozen=True)
class Choice:
    """How much of a bundle is verified.

    Attributes:
        sample: units to draw, "12" or "10%"; None for all. seed: of the draw.
        windows: of every segment, spread over those that were kept; None for all of them.
    """

    sample: str | None = None
    windows: int | None = None
    seed: int = 0


class Walk:
    """Units to verify. Those that an earlier run of the same kind has found before it ended are not done again.

    Args:
        result: what is found goes there.
        each: windows or tokens that a unit is run on; None for all that there are.
        kept: whether a journal is kept.

    Attributes:
        chosen: names of the units, in order. todo: those that are still to do.
    """

    def __init__(
        self, bundle: Bundle, result: Verification, choice: Choice, each: int | None, kept: bool, progress: Progress | None
    ) -> None:
        segments, of = result.level == "segment", "windows" if result.level == "segment" else "tokens"
        sizes: dict[str, float] = {}
        for block in bundle.block_names:
            for name, file in bundle.nets(block).items():
                path = inside(bundle.path, file)
                unit = f"{block}.{name}" if segments else block
                sizes[unit] = sizes.get(unit, _UNIT_BYTES) + (path.stat().st_size if path.is_file() else 0)
        what = "segments" if segments else "blocks"
        self.chosen = choose_units(list(sizes), choice.sample, choice.seed)
        self._result, self._report = result, progress or (lambda text, done, total: None)
        self._journal = Journal(bundle, result.level, result.backends, each, kept)
        self.todo = [name for name in self.chosen if name not in self._journal.found]
        self._clock = Clock({name: sizes[name] for name in self.todo})
        result.covered = {"what": what, "of": len(sizes), "each": of, "units": {}}
        result.resumed = len(self.chosen) - len(self.todo)
        drawn = [] if choice.sample is None else [f"drawn by seed {choice.seed}"]
        result.drawn = ", ".join(drawn + (["windows chosen"] if segments and each is not None else []))

    def begin(self, name: str) -> None:
        """A unit is next."""
        done = len(self.chosen) - len(self.todo)
        self._report(f"{name} on {self._result.backends[-1]}{self._clock.left()}", done, len(self.chosen))

    def add(self, name: str, found: Found) -> None:
        """A unit is done."""
        self._journal.add(name, found)
        self._clock.done(name)
        self.todo.remove(name)

    def end(self) -> None:
        """All are done: the result has them, in order."""
        for name in self.chosen:
            self._result.take(name, self._journal.found[name])
        self._result.unwritten = self._journal.trouble

    def forget(self) -> None:
        """The manifest has them, too."""
        self._journal.remove()


def share_of(sample: str, count: int) -> int:
    """How many of `count` units a sample has: "12", or "10%" rounded up; not more than there are.

    Raises:
        UsageError: neither a number from 1 on nor a share above 0 % and up to 100 %.
    """
    text, percent = sample.removesuffix("%"), sample.endswith("%")
    try:
        number = float(text) if percent else int(text)
    except ValueError:
        number = 0
    if not (0 < number <= 100 if percent else number >= 1):
        raise UsageError(f"a sample of {sample!r} is neither a number such as 12 nor a share such as 10%")
    return min(count, math.ceil(number * count / 100 - 1e-9) if percent else int(number))


def choose_units(names: Sequence[str], sample: str | None, seed: int) -> list[str]:
    """Names in their order: all of them, or as many as the sample says, drawn by the seed."""
    if sample is None:
        return list(names)
    drawn = set(random.Random(seed).sample(range(len(names)), share_of(sample, len(names))))
    return [name for index, name in enumerate(names) if index in drawn]


class Clock:
    """Time left, from the time that the work so far took.

    Args:
        work: of every unit that is still to do, in any unit of measure.
    """

    def __init__(self, work: Mapping[str, float]) -> None:
        self._work, self._start, self._done = dict(work), time.monotonic(), 0.0

    def done(self, name: str) -> None:
        """A unit is done."""
        self._done += self._work.pop(name)

    def left(self) -> str:
        """ ", about 12 min left", empty where nothing is known yet."""
        if not self._done or not self._work:
            return ""
        return f", about {_in_words((time.monotonic() - self._start) * sum(self._work.values()) / self._done)} left"


def _in_words(seconds: float) -> str:
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{max(1, round(seconds / size))} {unit}"
    return f"{seconds / 3600:.1f} h"
