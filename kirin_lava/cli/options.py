"""Options that several commands share, and the values that options take."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kirin_lava.base.errors import BackendError, UsageError
from kirin_lava.base.readers import check_path

_MOST_DIGITS = 9


class Whole(click.IntRange):
    """A whole number in a range that has two ends."""

    def __init__(self, min: int, max: int) -> None:
        super().__init__(min, max)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click does it, but Python's complaint of thousands of digits is none of the user's."""
        if isinstance(value, str) and len(value.strip()) > 40:
            self.fail(f"{reprlib.repr(value)} is not in the range {self.min}<=x<={self.max}.", param, ctx)
        return super().convert(value, param, ctx)


class Number(click.FloatRange):
    """A finite number in a range that has two ends: a plain range takes "nan", which is neither below nor above it."""

    def __init__(self, min: float, max: float, min_open: bool = False) -> None:
        super().__init__(min, max, min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or click's error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class _Path(click.Path):
    """A path that a file system can have."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A `Path`, or click's error."""
        try:
            check_path(Path(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


class _Words(click.ParamType):
    """Text as a person writes it: bytes that are no UTF-8 come in as half characters, which no tokenizer knows."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text, or click's error."""
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            self.fail(f"it is no valid UTF-8 (byte {error.start + 1} of it)", param, ctx)
        return value


WORDS = _Words()
PATH = _Path(path_type=Path)
EXISTING = _Path(path_type=Path, exists=True)
_MOST = 2**31 - 1
COUNT = Whole(1, _MOST)
COUNT_OR_NONE = Whole(0, _MOST)
TOKENS = Whole(2, _MOST)
SEED = Whole(0, 2**32 - 1)
TEMPERATURE = Number(0, 1e6)
MINUTES = Number(0, 1e4, min_open=True)
SECONDS = Number(0, 1e6, min_open=True)  # 11 days; a system waits for at most 2^31 ms

Command = Callable[..., Any]


minutes_option = click.option(
    "--minutes", type=MINUTES, metavar="N", help="Train as long as this instead; the result then depends on the machine."
)


def sample_options(rows: int) -> Callable[[Command], Command]:
    """The model, and the text that it is calibrated on: `rows` rows of it by default."""
    added = (
        click.option(
            "-m",
            "--model",
            required=True,
            help="Folder, GGUF file, hub id, or demo, demo-opt, demo-gpt2, demo-bert, smollm2, minilm.",
        ),
        click.option("--calibration", type=EXISTING, metavar="FILE", help="Text to calibrate on; a small one is built in."),
        click.option("--num-samples", default=rows, show_default=True, type=COUNT, metavar="N", help="Rows of that text."),
        click.option("--seq-len", default=256, show_default=True, type=TOKENS, metavar="N", help="Tokens per row."),
        click.option("--seed", default=0, show_default=True, type=SEED, metavar="N", help="Of drawing rows, of training."),
    )

    def add(command: Command) -> Command:
        for option in reversed(added):
            command = option(command)
        return command

    return add


def json_option(command: Command) -> Command:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def form_options(command: Command) -> Command:
    """--json or --csv; of both the last."""
    for form in ("csv", "json"):
        command = click.option(f"--{form}", "form", flag_value=form, help=f"Print the result as {form.upper()}.")(command)
    return command


def quiet_option(command: Command) -> Command:
    """-q, --quiet."""
    return click.option("-q", "--quiet", is_flag=True, help="No progress bar.")(command)


def timeout_option(command: Command) -> Command:
    """--timeout."""
    return click.option("--timeout", type=SECONDS, metavar="SECONDS", help="Limit of each Lava run.")(command)


def context_option(command: Command) -> Command:
    """--context."""
    text = "Positions to plan the chip for: caches, ranges, cost.  [default: the model's own; of plans 4096 at most]"
    return click.option("--context", type=COUNT, metavar="N", help=text)(command)


def layers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """First and last layer of "3" or "0-3"."""
    if value is None:
        return None
    first, dash, last = value.partition("-")
    if not _is_number(first) or (dash and not _is_number(last)):
        raise click.BadParameter(f"{reprlib.repr(value)} is no layer or range of layers such as 0-3")
    return int(first), int(last or first)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def names(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(name for name in value.split(",") if name)


def formats_of(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    """File formats to write, net among them."""
    formats = tuple(value.split(","))
    if "net" not in formats or not set(formats) <= {"net", "nir"}:
        raise click.BadParameter(f"{value!r} is neither net nor net,nir")
    return formats


def device(_: click.Context, __: click.Parameter, value: str) -> str:
    """A device that PyTorch has here."""
    kind, colon, number = value.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and _is_number(number))):
        raise click.BadParameter(f"{reprlib.repr(value)} is none of cpu, cuda, cuda:0, cuda:1, ...")
    if kind == "cuda":
        import torch

        if int(number or 0) >= torch.cuda.device_count():
            raise BackendError(f"{value}: PyTorch sees {torch.cuda.device_count()} CUDA devices here; leave out --device")
    return value
