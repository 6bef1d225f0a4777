"""Options that several commands share, and the values that options take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kirin_lava.base.errors import BackendError

PATH = click.Path(path_type=Path)
EXISTING = click.Path(path_type=Path, exists=True)
COUNT = click.IntRange(1)
TOKENS = click.IntRange(2)
SEED = click.IntRange(0, 2**32 - 1)

Command = Callable[..., Any]


def sample_options(rows: int) -> Callable[[Command], Command]:
    """The model, and the text that it is calibrated on: `rows` rows of it by default."""
    added = (
        click.option("-m", "--model", required=True, help="Folder, hub id, or embedded model (demo, demo-opt)."),
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
    limit = click.FloatRange(min=0, min_open=True)
    return click.option("--timeout", type=limit, metavar="SECONDS", help="Limit of each Lava run.")(command)


def context_option(command: Command) -> Command:
    """--context."""
    text = "Positions to plan the chip for: caches, ranges, cost.  [default: the model's own, 4096 at most]"
    return click.option("--context", type=COUNT, metavar="N", help=text)(command)


def layers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """First and last layer of "3" or "0-3"."""
    if value is None:
        return None
    first, dash, last = value.partition("-")
    if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
        raise click.BadParameter(f"{value!r} is no layer or range of layers such as 0-3")
    return int(first), int(last or first)


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
    if kind not in ("cpu", "cuda") or (colon and not (kind == "cuda" and number.isascii() and number.isdigit())):
        raise click.BadParameter(f"{value!r} is none of cpu, cuda, cuda:0, cuda:1, ...")
    if kind == "cuda":
        import torch

        if int(number or 0) >= torch.cuda.device_count():
            raise BackendError(f"{value}: PyTorch sees {torch.cuda.device_count()} CUDA devices here; leave out --device")
    return value
