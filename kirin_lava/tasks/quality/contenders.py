"""What a comparison found: a row a network, the tables for people, and quality drawn against energy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from kirin_lava.base.console import csv_lines
from kirin_lava.base.errors import KirinError, UsageError
from kirin_lava.base.files import disk_errors, save_text
from kirin_lava.hardware.timing import RATE_WINDOW
from kirin_lava.tasks.draw import require_matplotlib, svg_file
from kirin_lava.tasks.quality.plot_methods import HEIGHT, Point, draw_methods

__all__ = ["RIVAL", "TWIN", "Comparison", "Contender", "Failed"]

RIVAL = "rival"
"""What stands for a method where a network is not an integer one."""
TWIN = "integer twin"
"""What stands for a method where the integers are those of the row before, dense and without spikes."""


@dataclass(frozen=True)
class Contender:
    """One line of the table. Shares are of all codes sent into the decoder's products, the head left out; None: not counted.

    Attributes:
        method: that converted it, run as integers; "rival" for a quantiser that is simulated in float.
        window: T. spikes_per_element: spikes of a code on average.
        outlier_share: of all codes; outlier_share_linear: of those that go into dense layers.
        synapse_bits: of a stored weight of the decoder, the most. chips: of Loihi 2, caches for `rows` of the table's length.
        bundle_bytes, seconds: size on disk and wall time of the export.
        float_operations: left to a host, of a token. integers_verified: compared on Lava, all equal; 0 where nothing ran there.
        joules: of a token under each price list, without static power; twin_joules: of the same integers without spikes.
    """

    name: str
    method: str
    perplexity_ratio: float
    kl: float
    top1_agreement: float
    window: int | None = None
    spikes_per_element: float | None = None
    silent_share: float | None = None
    outlier_share: float | None = None
    outlier_share_linear: float | None = None
    steps_per_token: float | None = None
    synapse_bits: int | None = None
    chips: int | None = None
    bundle_bytes: int | None = None
    seconds: float | None = None
    messages_per_token: float | None = None
    float_operations: float | None = None
    integers_verified: int | None = None
    joules: dict[str, float | None] | None = None
    twin_joules: dict[str, float | None] | None = None

    @property
    def window_reduction(self) -> float | None:
        """How many fewer steps a window has than that of an 8-bit spike code, as a share of the latter."""
        return None if self.window is None else 1 - self.window / RATE_WINDOW

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"window_reduction": self.window_reduction}


@dataclass(frozen=True)
class Failed:
    """A recipe that could not be exported."""

    name: str
    error: KirinError


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`; perplexity of the float32 original on the same rows.

    Attributes:
        warnings: of the calibration, one line each. failed: recipes that could not be exported, and why.
    """

    model: str
    text: str
    protocol: str
    rows: int
    tokens: int
    perplexity_float: float
    contenders: tuple[Contender, ...]
    warnings: tuple[str, ...] = ()
    failed: tuple[Failed, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        failed = [{"name": f.name, "error": str(f.error), "exit_code": f.error.exit_code} for f in self.failed]
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return own | {"contenders": [c.to_dict() for c in self.contenders], "failed": failed}

    def require(self) -> None:
        """Raise the error of the first recipe that failed, with the names of all."""
        if self.failed:
            first = self.failed[0].error
            names = ", ".join(failed.name for failed in self.failed)
            raise type(first)(f"left out: {names}: {first}")

    def to_csv(self) -> str:
        """One line per contender."""
        return csv_lines([{k: v for k, v in row.to_dict().items() if "joules" not in k} for row in self.contenders])

    def table(self) -> Group:
        """For people, in 80 columns: what a network still knows, then what it sends."""
        protocol = (
            f"{self.rows} {self.protocol}; KL in nats per token against the original; MB on disk; s: seconds of the export"
        )
        title = f"{self.model} on {self.text}: perplexity {self.perplexity_float:.4f} in float32"
        quality = _table(title, protocol, "recipe", "method", "ratio", "KL", "top-1", "MB", "s")
        codes = (
            f"T: time steps of a window (an 8-bit spike code takes {RATE_WINDOW}); steps: of a token; spikes: per code; then "
            "shares of all codes, msgs: messages, dense: those of dense layers; syn: bits of a stored weight; chips: of Loihi "
            "2, with caches for a row"
        )
        sent = _table("what it sends", codes, "recipe", "T", "steps", "spikes", "silent", "msgs", "dense", "syn", "chips")
        for c in self.contenders:
            quality.add_row(
                c.name,
                c.method,
                f"{c.perplexity_ratio:.4f}",
                f"{c.kl:.4f}",
                _percent(c.top1_agreement),
                "" if c.bundle_bytes is None else f"{c.bundle_bytes / 1e6:.2f}",
                "" if c.seconds is None else f"{c.seconds:.0f}",
            )
            if c.window is None:
                continue
            sent.add_row(
                c.name,
                str(c.window),
                "" if c.steps_per_token is None else f"{c.steps_per_token:.0f}",
                "" if c.spikes_per_element is None else f"{c.spikes_per_element:.3f}",
                _percent(c.silent_share, 1),
                _percent(c.outlier_share, 1),
                _percent(c.outlier_share_linear, 1),
                "" if c.synapse_bits is None else str(c.synapse_bits),
                "" if c.chips is None else str(c.chips),
            )
        return Group(quality, sent) if sent.row_count else Group(quality)

    def draw(self, path: Path) -> None:
        """Write `svg` to a file.

        Raises:
            UsageError: as `svg`, or the file cannot be written.
        """
        text = self.svg()
        with disk_errors(path):
            save_text(path, text)

    def svg(self, profile: str | None = None) -> str:
        """Quality against energy, one point a recipe that has both, as the text of an SVG file.

        Args:
            profile: whose prices; the first by default.

        Raises:
            UsageError: no recipe applies, or a price list that is none of the table's.
        """
        require_matplotlib()
        priced = [c for c in self.contenders if c.joules and c.method != TWIN]
        profiles = list(dict.fromkeys(name for c in priced for name in c.joules or {}))
        if not profiles or profile not in (None, *profiles):
            raise UsageError(
                f"nothing to draw by the prices {profile or 'of any list'!r}; there are: {', '.join(profiles) or 'none'}"
            )
        chosen = profile or profiles[0]
        points = []
        for c in priced:
            joules, twin = ((prices or {}).get(chosen) for prices in (c.joules, c.twin_joules))
            if joules is not None:
                loss = 100 * (c.perplexity_ratio - 1)
                points.append(Point(c.name, c.method, loss, 1e6 * joules, None if twin is None else 1e6 * twin))
        return svg_file("methods", draw_methods, (chosen, points), HEIGHT)


def _table(title: str, caption: str, *columns: str) -> Table:
    table = Table(title=title, caption=caption, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in ("recipe", "method") else "right", no_wrap=True)
    return table


def _percent(share: float | None, digits: int = 2) -> str:
    return "" if share is None else f"{100 * share:.{digits}f} %"
