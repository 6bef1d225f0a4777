"""Groups of choices that tasks take. Every one has a default; a task names those that it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kirin_lava.base.errors import UsageError
from kirin_lava.methods.recipe import Recipe, with_recovery

__all__ = ["Checks", "Output", "Sample", "Training"]


@dataclass(frozen=True)
class Sample:
    """The text that a model is calibrated on.

    Attributes:
        text: UTF-8 file; None for the small text that comes with the program.
        rows: how many of its rows are drawn. tokens: of a row, at most; the model's context limits them.
        seed: of the draw, and of training.
    """

    text: Path | str | None = None
    rows: int = 64
    tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.tokens < 2:
            raise UsageError(f"{self.rows} rows of {self.tokens} tokens are no sample: take 1 row of 2 tokens at least")

    @property
    def file(self) -> Path | None:
        """The text as a path."""
        return None if self.text is None else Path(self.text)


@dataclass(frozen=True)
class Training:
    """Training after rounding, on the calibration text.

    Attributes:
        method: "none", "blocks" (block by block) or "distill" (the whole model against the original); None for the recipe's.
        steps: of it; None for the recipe's. minutes: how long it takes instead. device: "cpu" or "cuda".
    """

    method: str | None = None
    steps: int | None = None
    minutes: float | None = None
    device: str = "cpu"

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe, trained so."""
        return with_recovery(recipe, self.method, self.steps, self.minutes)


@dataclass(frozen=True)
class Checks:
    """What a bundle must pass before it is published.

    Attributes:
        backend: "none", "reference" (the spiking neuron step by step in NumPy) or "lava" (native processes and stock lava-dl).
        timeout: limit in seconds of a Lava run; None for none.
        target: "loihi2" refuses what does not fit the chip.
        context: positions for which it must fit, or is planned; None for the model's own, of a plan 4096 at most.
    """

    backend: str = "reference"
    timeout: float | None = None
    target: str = "simulator"
    context: int | None = None

    def __post_init__(self) -> None:
        if self.backend not in ("none", "reference", "lava"):
            raise UsageError(f"unknown backend {self.backend!r} of a check: choose none, reference or lava")
        if self.target not in ("simulator", "loihi2"):
            raise UsageError(f"unknown target {self.target!r}: choose simulator or loihi2")


@dataclass(frozen=True)
class Output:
    """What is written, and over what.

    Attributes:
        layers: first and last decoder layer to convert, inclusive; None for the whole model with its head.
        formats: "net", and "nir" for NIR graphs beside the netx files.
        resume: go on with an interrupted export. force: replace an existing bundle.
    """

    layers: tuple[int, int] | None = None
    formats: tuple[str, ...] = ("net",)
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        if "net" not in self.formats or not set(self.formats) <= {"net", "nir"}:
            raise UsageError(f"formats {', '.join(self.formats) or 'none'}: write net, or net and nir")
