"""The command line. Each command is one call of the public functions of `kirin_lava`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import kirin_lava
from kirin_lava.base.console import print_json, print_line, print_table, print_text, progress_bar, say
from kirin_lava.base.errors import UsageError
from kirin_lava.base.units import in_bytes
from kirin_lava.cli import options
from kirin_lava.cli.commands import Commands, CommandWithRecipes
from kirin_lava.cli.interrupt import interrupt
from kirin_lava.methods.recipes import DEFAULT_RECIPE

if TYPE_CHECKING:
    from kirin_lava.tasks.options import Sample, Training

__all__ = ["main"]


interrupt.imports_of(__file__, options.__file__, str(kirin_lava.__file__))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(kirin_lava.__version__, prog_name="kirin-lava")
def main() -> None:
    """Convert pretrained language models to exact spiking networks for Lava and Loihi 2.

    \b
    Exit codes:
      0  done and verified          4  verification failed
      1  unexpected: a bug          5  does not fit
      2  usage or bad input         6  backend missing or timed out
      3  unsupported model        130  interrupted
    """


def _warn(result: Any) -> None:
    for line in getattr(result, "warnings", ()):
        say(f"warning: {line}")


def _print(result: Any, as_json: bool) -> None:
    _warn(result)
    if as_json:
        print_json(result.to_dict())
    else:
        print_table(result.table())


def _sample(arguments: dict[str, Any]) -> Sample:
    """The calibration text that `options.sample_options` name; they are taken out of the arguments."""
    text, rows, tokens, seed = (arguments.pop(name) for name in ("calibration", "num_samples", "seq_len", "seed"))
    return kirin_lava.options.Sample(text, rows, tokens, seed)


def _training(arguments: dict[str, Any], device: str = "cpu") -> Training:
    """The training that --recover, --steps and --minutes name; they are taken out of the arguments."""
    method, steps, minutes = (arguments.pop(name) for name in ("recover", "steps", "minutes"))
    if steps is not None and minutes is not None:
        raise click.UsageError("--steps and --minutes are two lengths of one training: give one of them")
    return kirin_lava.options.Training(method, steps, minutes, device)


def _print_as(result: Any, form: str | None) -> None:
    if form == "csv":
        _warn(result)
        print_text(result.to_csv())
    else:
        _print(result, form == "json")


def _require_written(*problems: str | None) -> None:
    """An error at the very end, when everything is printed, where a file that was asked for is not there."""
    found = [problem for problem in problems if problem]
    if found:
        raise UsageError("; ".join(found))


@main.command(cls=CommandWithRecipes)
@options.sample_options(rows=64)
@click.option("-o", "--output", required=True, type=options.PATH, metavar="OUT", help="Folder of the bundle to write.")
@click.option(
    "--recipe", default=DEFAULT_RECIPE, show_default=True, metavar="NAME|FILE", help="One of those below, or your YAML."
)
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub model.")
@click.option("--layers", callback=options.layers, metavar="A-B", help="Convert only these decoder layers, without the head.")
@click.option(
    "--verify",
    "verify_with",
    type=click.Choice(["none", "reference", "lava"]),
    default="reference",
    show_default=True,
    help="reference: the spiking neuron step by step in NumPy; lava: native processes and stock lava-dl.",
)
@options.timeout_option
@click.option(
    "--recover",
    type=click.Choice(["none", "blocks", "distill"]),
    help="Train after rounding, on the calibration text: block by block, or the whole model against the original.",
)
@click.option("--steps", type=options.COUNT, metavar="N", help="Steps of training; the recipe's own by default.")
@options.minutes_option
@click.option(
    "--format",
    "formats",
    callback=options.formats_of,
    default="net",
    show_default=True,
    metavar="LIST",
    help="net, or net,nir to write NIR graphs of the linear segments as well.",
)
@click.option(
    "--target",
    type=click.Choice(["simulator", "loihi2"]),
    default="simulator",
    show_default=True,
    help="loihi2 refuses whatever does not fit the chip's registers.",
)
@options.context_option
@click.option("--device", default="cpu", show_default=True, callback=options.device, help="Of the training: cpu or cuda.")
@click.option("--dry-run", is_flag=True, help="From config.json alone: chips, steps, size and memory; writes nothing.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted export.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@options.json_option
@options.quiet_option
def export(
    output: Path,
    verify_with: str,
    timeout: float | None,
    target: str,
    context: int | None,
    device: str,
    as_json: bool,
    quiet: bool,
    dry_run: bool,
    **arguments: Any,
) -> None:
    """Convert a checkpoint and write a bundle of netx files."""
    sample, training = _sample(arguments), _training(arguments, device)
    model, recipe, revision = (arguments.pop(name) for name in ("model", "recipe", "revision"))
    choices = kirin_lava.options
    checks = choices.Checks(verify_with, timeout, target, context)
    if dry_run:
        _print(kirin_lava.plan(model, recipe, sample, revision, checks), as_json)
        return
    written = choices.Output(**arguments)
    with progress_bar(quiet) as progress:
        result = kirin_lava.export(model, output, recipe, sample, training, checks, written, revision, progress)
    _warn(result)
    if as_json:
        print_json(result.to_dict())
        return
    if result.verification is not None:
        print_table(result.verification.table())
        print_line(result.verification.summary())
    print_line(
        f"{result.model} -> {result.path} by {result.recipe}: {result.segments} segments, {in_bytes(result.bytes)}, "
        f"{result.seconds:.1f} s, peak memory {in_bytes(result.peak_memory_bytes)}, digest {result.digest[:16]}"
    )


@main.command()
@click.argument("bundle", type=options.EXISTING)
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
@click.option("--tokens", default=64, show_default=True, type=options.COUNT, metavar="N", help="Tokens of text (block, model).")
@click.option("--sample", metavar="N|P%", help="As many segments, or blocks, or such a share of them; the seed draws them.")
@click.option("--windows", type=options.COUNT, metavar="N", help="Calibration vectors of a segment, by default all it has.")
@click.option("--seed", default=0, show_default=True, type=options.SEED, metavar="N", help="Of the sample.")
@options.timeout_option
@options.json_option
@options.quiet_option
def verify(bundle: Path, as_json: bool, quiet: bool, **arguments: Any) -> None:
    """Compare every integer of a bundle with what Lava computes.

    Backends: the reference from the files, native Lava processes, and the files in stock lava-dl.

    On Lava it goes on where it was when it was killed or passed its limit; the manifest tells what all runs have covered.
    """
    with progress_bar(quiet) as progress:
        result = kirin_lava.load(bundle).verify(progress=progress, **arguments)
    if result.resumed:
        say(f"{result.resumed} of them were found by an earlier run that did not come to its end")
    _print(result, as_json)
    if not as_json:
        print_line(result.summary())
    if result.unwritten:
        say(f"not written down: {result.unwritten}")
    result.require()


@main.command()
@click.argument("path", type=options.EXISTING)
@options.json_option
def inspect(path: Path, as_json: bool) -> None:
    """Show what a bundle, or any .net file, holds."""
    _print(kirin_lava.load(path).inspect(), as_json)


@main.command()
@options.timeout_option
@options.json_option
def doctor(as_json: bool, timeout: float | None) -> None:
    """Check this machine and run a known spiking layer on Lava.

    Versions, limits, shared memory; then the layer's spikes are counted on Lava and every sum is compared.
    """
    from kirin_lava.cli.doctor import examine

    result = examine(timeout)
    _print(result, as_json)
    result.require()


@main.command()
@click.argument("bundle", type=options.EXISTING)
@click.option("--prompt", type=options.WORDS, metavar="TEXT", help="Text to go on from.", show_default="Once upon a time")
@click.option("--chat", is_flag=True, help="The prompt is a message to the model, in the form of its chat template.")
@click.option(
    "--messages",
    type=options.EXISTING,
    metavar="FILE",
    help='A conversation to answer instead: JSON, [{"role": "user", "content": "..."}, ...].',
)
@click.option("--max-new-tokens", default=100, show_default=True, type=options.COUNT, metavar="N", help="Stop after so many.")
@click.option("--temperature", default=0.0, show_default=True, type=options.TEMPERATURE, metavar="T", help="0 is greedy.")
@click.option("--top-k", default=0, show_default=True, type=options.COUNT_OR_NONE, metavar="N", help="0: all tokens.")
@click.option(
    "--top-p",
    default=1.0,
    show_default=True,
    type=options.Number(0, 1),
    metavar="P",
    help="The most likely tokens that make up this share.",
)
@click.option(
    "--repetition-penalty",
    default=1.0,
    show_default=True,
    type=options.Number(0, 100, min_open=True),
    metavar="R",
    help="Above 1 tokens that came before are less likely.",
)
@click.option("--seed", default=0, show_default=True, type=options.SEED, metavar="N", help="Seed of what is drawn.")
@click.option("--show-special", is_flag=True, help="Print special tokens, and what the template makes of messages.")
@click.option(
    "--backend",
    type=click.Choice(["reference", "lava", "stock", "loihi2"]),
    default="reference",
    show_default=True,
    help="reference: the integer executor; lava: the spiking network on Lava's CPU simulator; stock: the .net files in "
    "unmodified lava-dl on that simulator; loihi2: the same files on a board.",
)
@click.option("--device", default="cpu", show_default=True, callback=options.device, help="Of the reference: cpu or cuda.")
@click.option("--count", is_flag=True, help="Count spikes, and print how many a token takes.")
@click.option("--stats", type=options.PATH, metavar="FILE", help="Count spikes, and write them per layer as JSON.")
@options.timeout_option
def run(bundle: Path, **arguments: Any) -> None:
    """Generate text with a converted model."""
    result = kirin_lava.load(bundle).generate(on_text=print_text, **arguments)
    print_text("\n")
    say(result.summary())
    _require_written(result.unwritten)


@main.command()
@click.argument("bundle", type=options.EXISTING)
@click.option("--text", required=True, type=options.EXISTING, metavar="FILE", help="UTF-8 file, a text a line.")
@click.option("-o", "--output", type=options.PATH, metavar="FILE", help="FILE.npy or FILE.jsonl; JSON lines are printed else.")
@click.option(
    "--backend",
    type=click.Choice(["reference", "lava"]),
    default="reference",
    show_default=True,
    help="reference: the integer executor; lava: the spiking network on Lava's CPU simulator.",
)
@click.option("--device", default="cpu", show_default=True, callback=options.device, help="Of the reference: cpu or cuda.")
@click.option("--count", is_flag=True, help="Count spikes, and print how many a text takes.")
@options.timeout_option
@options.quiet_option
def embed(bundle: Path, output: Path | None, quiet: bool, **arguments: Any) -> None:
    """Vectors of texts by a converted encoder.

    States of the last layer, averaged and normalised as sentence-transformers does it, or as the model's own files say. Of an
    encoder with classes: the class of every text, and the logits.
    """
    with progress_bar(quiet) as progress:
        result = kirin_lava.load(bundle).embed(output=output, progress=progress, **arguments)
    if output is None:
        print_text(result.to_lines())
    say(result.summary())


@main.command(name="eval")
@click.argument("bundle", type=options.EXISTING)
@click.option("--text", required=True, type=options.EXISTING, metavar="FILE", help="UTF-8 text to evaluate on.")
@click.option("--seq-len", default=256, show_default=True, type=options.TOKENS, metavar="N", help="Tokens per row or window.")
@click.option("--stride", type=options.COUNT, metavar="N", help="Windows over the whole text as one stream, so far apart.")
@click.option("--max-rows", type=options.COUNT, metavar="N", help="Evaluate the first rows only.")
@click.option("--original", metavar="MODEL", help="The float checkpoint; by default the one that the bundle was made from.")
@click.option("--lava", is_flag=True, help="Run the spiking network on Lava as well (short texts).")
@click.option("--layer-errors", "layer_errors_too", is_flag=True, help="Signal-to-noise of every layer's output, worst first.")
@click.option("--device", default="cpu", show_default=True, callback=options.device, help="cpu or cuda.")
@options.timeout_option
@options.form_options
@options.quiet_option
def evaluate(bundle: Path, form: str | None, quiet: bool, **arguments: Any) -> None:
    """Perplexity of the original and of the integer network.

    As CSV a line for the whole or, with --layer-errors, a line per layer.

    Of an encoder: cosine of the vectors of sentences, and whether their nearest neighbours are the same ones.
    """
    loaded = kirin_lava.load(bundle)
    with progress_bar(quiet) as progress:
        if loaded.bundle.causal:
            result: Any = kirin_lava.evaluate(bundle, progress=progress, **arguments)
        else:
            stride, errors = (arguments.pop(name) for name in ("stride", "layer_errors_too"))
            if stride is not None or errors:
                raise UsageError(f"{bundle} is an encoder: sentences are compared, without --stride and --layer-errors")
            result = loaded.evaluate_vectors(progress=progress, **arguments)
    _print_as(result, form)


@main.command()
@click.argument("bundle", type=options.EXISTING)
@click.option(
    "--text", type=options.EXISTING, metavar="FILE", help="UTF-8 text to evaluate and count on; a built-in text by default."
)
@click.option("--html", type=options.PATH, metavar="FILE", help="The page; report.html in the bundle by default.")
@click.option("--figures", type=options.PATH, metavar="DIR", help="Write the figures as PNG, too.")
@click.option(
    "--max-rows", default=32, show_default=True, type=options.COUNT, metavar="N", help="Perplexity of the first rows only."
)
@click.option(
    "--profile", "profiles", multiple=True, metavar="NAME|FILE", help="Energy prices, a YAML file for instance; repeatable."
)
@options.context_option
@click.option(
    "--methods",
    type=options.EXISTING,
    metavar="FILE",
    help="What `compare --methods --json` printed, for a section of its own.",
)
@click.option("--lava", is_flag=True, help="Count spikes and outliers on Lava as well.")
@options.timeout_option
@options.json_option
@options.quiet_option
def report(bundle: Path, as_json: bool, quiet: bool, **arguments: Any) -> None:
    """Make a page about a bundle: exactness, quality, spikes, cost.

    Beside the manifest lie the same numbers as report.json and, per segment, as layers.csv.

    Of a folder with a config.json alone: what the model would need and cost; nothing is written but the page of --html.
    """
    with progress_bar(quiet) as progress:
        result = kirin_lava.load(bundle).report(progress=progress, **arguments)
    _print(result, as_json)
    _require_written(*result.unwritten)


@main.command(cls=CommandWithRecipes)
@click.argument("recipes", nargs=-1, metavar="RECIPE...")
@options.sample_options(rows=128)
@click.option("--text", type=options.EXISTING, metavar="FILE", help="UTF-8 text to evaluate on; a small one is built in.")
@click.option("--max-rows", type=options.COUNT, metavar="N", help="Evaluate as many rows, evenly spread over the text.")
@click.option("--window", type=options.TOKENS, metavar="N", help="Tokens of such a row; by default as --seq-len.")
@click.option(
    "--recover", type=click.Choice(["none", "blocks", "distill"]), help="Add the first recipe once more, trained this way."
)
@click.option("--steps", type=options.COUNT, metavar="N", help="Steps of that training; the recipe's own by default.")
@options.minutes_option
@click.option("--rivals", is_flag=True, help="Also rival quantisers at equal bits, in the same evaluator.")
@click.option("--methods", is_flag=True, help="All methods, their integer twins and rivals, with what a token costs.")
@click.option("--verify", is_flag=True, help="Compare every segment of every export on Lava, too.")
@click.option("--figure", type=options.PATH, metavar="FILE", help="Write quality against energy, as SVG.")
@options.form_options
@options.quiet_option
def compare(form: str | None, quiet: bool, figure: Path | None, **arguments: Any) -> None:
    """Put recipes, and rivals, side by side in one table.

    Of an encoder: cosine of the vectors of sentences, and whether their nearest neighbours are the same ones.
    """
    from kirin_lava.cli.compared import compared

    sample, training = _sample(arguments), _training(arguments)
    with progress_bar(quiet) as progress:
        result: Any = compared(figure, sample=sample, training=training, progress=progress, **arguments)
    _print_as(result, form)
    if figure is not None:
        result.draw(figure)
    result.require()


@main.command()
@options.sample_options(rows=8)
@click.option("--recipe", default=DEFAULT_RECIPE, show_default=True, metavar="NAME|FILE", help="Whose encoding to measure.")
@click.option("--share", default=0.1, show_default=True, type=options.Number(0, 0.5), metavar="P", help="Of all codes.")
@options.form_options
@options.quiet_option
def budget(model: str, recipe: str, share: float, form: str | None, quiet: bool, **arguments: Any) -> None:
    """Spend one share of outliers where it buys most."""
    with progress_bar(quiet) as progress:
        result = kirin_lava.plan(model, recipe).budget(share, _sample(arguments), progress)
    _print_as(result, form)
    if form is None:
        print_text(f"{result.recipe_lines()}\n")


@main.command()
@click.argument("bundle", type=options.EXISTING)
@click.option("--tasks", required=True, callback=options.names, metavar="NAMES", help="Names of tasks, separated by commas.")
@click.option("--include", type=options.EXISTING, metavar="DIR", help="Folder with task files (YAML) of your own.")
@click.option("--limit", type=options.COUNT, metavar="N", help="Examples per task.")
@click.option("--device", default="cpu", show_default=True, callback=options.device, help="cpu or cuda.")
@options.form_options
def harness(bundle: Path, form: str | None, **arguments: Any) -> None:
    """Accuracy on tasks of lm-evaluation-harness."""
    _print_as(kirin_lava.load(bundle).harness(**arguments), form)
