"""The command line. Each command is one call of a public function with the same arguments; results go to stdout, talk to stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import kirin_lava
from kirin_lava.errors import KirinError

__all__ = ["main"]

out = Console(soft_wrap=True)
err = Console(stderr=True)

_PATH = click.Path(path_type=Path)
_EXISTING = click.Path(path_type=Path, exists=True)


class _Commands(click.Group):
    """Turns errors raised on purpose into one line on stderr and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KirinError as error:
            err.print(f"error: {error}", style="red", markup=False, highlight=False)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            err.print("interrupted")
            ctx.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(kirin_lava.__version__, prog_name="kirin-lava")
def main() -> None:
    """Convert pretrained language models to exact spiking networks for Lava and Loihi 2.

    Exit codes: 0 done and verified, 1 unexpected, 2 usage or bad input, 3 unsupported model, 4 verification failed,
    5 does not fit, 6 backend missing or timed out, 130 interrupted.
    """


def _json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def _timeout_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Limit of each Lava run, in seconds.")(command)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on stderr, on terminals only."""
    if quiet or not err.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("start", total=1)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _layers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, dash, last = value.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise click.BadParameter(f"{value!r} is no layer or range of layers such as 0-3")
    return int(first), int(last or first)


def _recipe_help() -> str:
    from kirin_lava.recipe import load_recipe, recipe_names

    lines = [f"{name}: {load_recipe(name).description}" for name in recipe_names()]
    return "A recipe's name or a YAML file. " + "; ".join(lines) + "."


@main.command()
@click.option("-m", "--model", required=True, help="Folder, hub id, or embedded model (demo, demo-opt).")
@click.option("-o", "--output", required=True, type=_PATH, help="Folder of the bundle to write.")
@click.option("--recipe", default="kirin-w4a4-8", show_default=True, help=_recipe_help())
@click.option("--calibration", type=_EXISTING, help="Text to calibrate on; a small built-in text by default.")
@click.option("--num-samples", default=32, show_default=True, type=click.IntRange(1), help="Rows of calibration text.")
@click.option("--seq-len", default=256, show_default=True, type=click.IntRange(2), help="Tokens per row.")
@click.option("--seed", default=0, show_default=True, help="Seed for the choice of rows and for training.")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--layers", callback=_layers, metavar="A-B", help="Convert these decoder layers only, without the head.")
@click.option(
    "--verify",
    "verify_with",
    type=click.Choice(["none", "reference", "lava"]),
    default="reference",
    show_default=True,
    help="reference: the spiking neuron step by step in NumPy; lava: native processes and stock lava-dl.",
)
@_timeout_option
@click.option("--resume", is_flag=True, help="Go on with an interrupted export.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@_json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def export(output: Path, as_json: bool, quiet: bool, **arguments: Any) -> None:
    """Convert a checkpoint and write a bundle of netx files."""
    from kirin_lava.pipeline import export as run

    with _progress(quiet) as progress:
        result = run(out=output, progress=progress, **arguments)
    if as_json:
        _print_json(result.to_dict())
        return
    if result.verification is not None:
        out.print(result.verification.table())
    click.echo(
        f"{result.model} -> {result.path} by {result.recipe}: {result.segments} segments, {result.bytes / 1e6:.2f} MB, "
        f"{result.seconds:.1f} s, peak memory {result.peak_memory_bytes / 1e6:.0f} MB, digest {result.digest[:16]}"
    )


@main.command()
@click.argument("bundle", type=_EXISTING)
@click.option(
    "--level",
    type=click.Choice(["segment", "block", "model"]),
    default="segment",
    show_default=True,
    help="segment: every linear segment on calibration vectors; block: every port of every block on real text; "
    "model: generation on Lava against the reference.",
)
@click.option(
    "--backend",
    type=click.Choice(["reference", "lava"]),
    default="lava",
    show_default=True,
    help="reference needs no Lava and does not mark the bundle as verified.",
)
@click.option("--tokens", default=64, show_default=True, type=click.IntRange(1), help="Tokens of text (block, model).")
@_timeout_option
@_json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def verify(bundle: Path, as_json: bool, quiet: bool, **arguments: Any) -> None:
    """Compare every integer of a bundle between the reference, Lava processes and stock lava-dl."""
    from kirin_lava.verify import verify as run

    with _progress(quiet) as progress:
        result = run(bundle, progress=progress, **arguments)
    if as_json:
        _print_json(result.to_dict())
    else:
        out.print(result.table())
        click.echo(result.summary())
    result.require()


@main.command()
@click.argument("path", type=_EXISTING)
@_json_option
def inspect(path: Path, as_json: bool) -> None:
    """Show what a bundle, or any .net file, holds."""
    from kirin_lava.inspect import inspect_net
    from kirin_lava.inspect_bundle import inspect_bundle

    result = inspect_bundle(path) if path.is_dir() else inspect_net(path)
    if as_json:
        _print_json(result.to_dict())
    else:
        out.print(result.table())


@main.command()
@_json_option
@_timeout_option
def doctor(as_json: bool, timeout: float | None) -> None:
    """Check this machine: versions, limits, and a spiking layer on Lava with its exact spike count."""
    from kirin_lava.doctor import examine

    result = examine(timeout)
    if as_json:
        _print_json(result.to_dict())
    else:
        out.print(result.table())
    result.require()


@main.command()
@click.argument("bundle", type=_EXISTING)
@click.option("--prompt", default="Once upon a time", show_default=True)
@click.option("--max-new-tokens", default=100, show_default=True, type=click.IntRange(1))
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(0), help="0 is greedy.")
@click.option("--top-k", default=0, show_default=True, type=click.IntRange(0), help="0: all tokens.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--backend",
    type=click.Choice(["reference", "lava", "loihi2"]),
    default="reference",
    show_default=True,
    help="reference: the integer executor; lava: the spiking network on Lava's CPU simulator.",
)
@click.option("--device", default="cpu", show_default=True, help="Of the reference: cpu or cuda.")
@click.option("--stats", type=_PATH, help="Write spike counts per layer to this JSON file.")
@_timeout_option
def run(bundle: Path, **arguments: Any) -> None:
    """Generate text with a converted model."""
    from kirin_lava.generate import generate

    result = generate(bundle, on_text=lambda piece: click.echo(piece, nl=False), **arguments)
    click.echo()
    err.print(result.summary(), markup=False, highlight=False)


@main.command(name="eval")
@click.argument("bundle", type=_EXISTING)
@click.option("--text", required=True, type=_EXISTING, help="UTF-8 text to evaluate on.")
@click.option("--seq-len", default=256, show_default=True, type=click.IntRange(2), help="Tokens per row or window.")
@click.option("--stride", type=click.IntRange(1), help="Plain windows with this stride instead of rows of documents.")
@click.option("--max-rows", type=click.IntRange(1), help="Evaluate the first rows only.")
@click.option("--original", help="The float checkpoint; by default the one that the bundle was made from.")
@click.option("--lava", is_flag=True, help="Run the spiking network on Lava as well (short texts).")
@click.option("--layer-errors", is_flag=True, help="Signal-to-noise of every layer's output against float, worst first.")
@click.option("--device", default="cpu", show_default=True)
@_timeout_option
@_json_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def evaluate(bundle: Path, as_json: bool, quiet: bool, **arguments: Any) -> None:
    """Perplexity of the original in float32 and of the integer network on the same text."""
    from kirin_lava.evaluate import evaluate as compute

    with _progress(quiet) as progress:
        result = compute(bundle, progress=progress, **arguments)
    if as_json:
        _print_json(result.to_dict())
    else:
        out.print(result.table())


if __name__ == "__main__":
    sys.exit(main())
