"""The half of the page that is about the model: what was converted, how it computes, whether it is exact and still good."""

from __future__ import annotations

from kirin_lava.tasks.report.html import Page, section, table
from kirin_lava.tasks.report.plot_counts import activity_height, activity_rows, codes_height, draw_activity, draw_codes
from kirin_lava.tasks.report.plot_window import WINDOW_HEIGHTS, draw_window

__all__ = [
    "activity_section",
    "cards",
    "exact_section",
    "plan_section",
    "quality_section",
    "source_section",
    "window_section",
]


# ---- what one looks for first ----------------------------------------------------------------------------------------------


def cards(page: Page) -> str:
    """The four main numbers."""
    items = [_exact_card(page)]
    if page.missing("evaluation") is None:
        words = (
            "original {evaluation.perplexity_float|two} in float32; same next token in {evaluation.top1_agreement|percent} of "
            "{evaluation.tokens|int} places"
        )
        items.append(_card(page, "Perplexity", "{evaluation.perplexity|two}", words))
    if page.missing("counts") is None:
        words = (
            "{counts.total.spikes_per_token|int} spikes and {counts.total.outliers_per_token|int} integer messages per token"
        )
        items.append(_card(page, "Codes that send nothing", "{counts.total.silent_share|percent}", words))
    if page.missing("energy") is None:
        words = "instead of the {steps.2.window} of {steps.2.scheme}: {energy.paper.step_reduction|percent2} fewer"
        items.append(_card(page, "Time steps per window", "{recipe.window}", words))
    return f'<dl class="cards">{"".join(items)}</dl>'


def _card(page: Page, name: str, big: str, small: str, colour: str = "") -> str:
    values = f'<div class="big {colour}">{page.fill(big)}</div><div class="small">{page.fill(small)}</div>'
    return f"<div><dt>{name}</dt><dd>{values}</dd></div>"


def _exact_card(page: Page) -> str:
    name = "Integers that differ"
    if not page.get("exactness.compared"):
        return _card(page, name, "not run", "not compared with Lava yet: kirin-lava verify does it")
    words = "of {exactness.compared|int} compared between the integer reference, Lava and stock lava-dl"
    return _card(page, name, "{exactness.mismatches|int}", words, "good" if page.get("exactness.verified") else "bad")


# ---- source ----------------------------------------------------------------------------------------------------------------


def source_section(page: Page) -> str:
    """What was converted, from where, how."""
    file = "{file.file} sha256 <code>{file.sha256|short}…</code>"
    files = "<br>".join(page.fill(file, file=f"source.files.{i}") for i in page.count("source.files"))
    host = ", ".join(page.fill("{host|int} " + kind, host=f"operations.host.{kind}") for kind in page.get("operations.host"))
    rows = {
        "Model": "{source.name}" + (", revision {source.revision}" if page.get("source.revision") else " (a folder)"),
        **({"Licence": "{source.license}"} if page.get("source.license") else {}),
        "Files": files,
        "Shape": "{facts.model_type}: {facts.layers} layers of width {facts.width}, {facts.heads} heads over {facts.kv_heads} "
        "key and value heads, vocabulary {facts.vocabulary|int}, at most {facts.max_positions|int} positions",
        "Recipe": "<b>{recipe.name}</b>" + (": {recipe.description}" if page.get("recipe.description") else ""),
        "Weights": "{recipe.weights.bits} bits by {recipe.weights.method}; head {recipe.head.bits} bits",
        "Activations": "{recipe.encoding} codes in windows of {recipe.window} steps; outliers per {recipe.outliers.policy}, "
        "at most {recipe.outliers.ratio|percent}"
        + (" ({recipe.outlier_sites|list})" if page.get("recipe.outlier_sites") else ""),
        "Cached keys, values": "{recipe.attention.key_bits} and {recipe.attention.value_bits} bits",
        "Calibrated on": "{source.calibration.rows|int} rows of {source.calibration.tokens_per_row|int} tokens, text "
        "{source.calibration.text}",
        "As spikes and integers": "{operations.core_total|int} operations: every matrix product of the decoder",
        "On the host, in float32": "{operations.host_total|int} operations: " + host,
        "Bundle": "{bundle.segments|int} .net files for unmodified lava-dl, {bundle.bytes|bytes} in all, digest "
        "<code>{bundle.digest|short}…</code>",
    }
    facts = "".join(f"<dt>{name}</dt><dd>{page.fill(words)}</dd>" for name, words in rows.items())
    return section("source", "What was converted", f'<dl class="facts">{facts}</dl>')


# ---- method ----------------------------------------------------------------------------------------------------------------

_METHOD = (
    "<p>A value travels as the <b>time</b> of a single spike: the larger, the earlier. A value that is too large for the "
    "window travels as an integer message in its last step. All arrive in the same membrane, and until the last one is in, "
    "the neuron stays <b>silent</b>: its threshold is infinite. Then the threshold falls by a fixed ramp per step, and the "
    "moment at which a neuron meets it is its output, already an integer code. Spikes take additions only, and what is "
    "computed is a whole number from end to end.</p>"
)
_WINDOW_LABEL = (
    "Three panels over time. Left above: input spikes, one per channel, and outlier messages in the last step of the window. "
    "Right above: one output spike per neuron in the following window. Below: the membranes of some neurons grow while the "
    "threshold is infinite; then a staircase threshold falls, and each neuron spikes where it meets its membrane."
)


def window_section(page: Page) -> str:
    """The picture that explains the method."""
    window = page.get("window")
    if window["fires"]:
        real = "In this network these neurons fire: their codes go on to the next segment without the host."
    else:
        real = (
            "In this model the host reads the membranes of this segment at the end of the silence; the falling threshold "
            "shows how the same membranes become codes where neurons fire."
        )
    signs = " Hollow marks are negative spikes." if any(row["payload"] < 0 for row in window["raster"]["spikes"]) else ""
    if window["signed"]:
        signs += " Negative membranes meet a mirrored threshold."
    caption = page.fill(
        "One window of one real token: {window.block}, segment {window.segment}. The first {window.raster.channels} of "
        "{window.inputs|int} inputs ({window.raster.counts.spikes} spikes, {window.raster.counts.outliers} outliers, "
        "{window.raster.counts.silent} silent in all), and a few of {window.neurons|int} neurons, whose membranes sum all "
        "inputs."
        f"{signs} {real} The dashed staircase is a threshold that falls without waiting: at the crosses it would have been met "
        "too early. Over {window.silence.windows} windows of this segment {window.silence.wrong_without|int} of "
        "{window.silence.compared|int} outputs ({window.silence.wrong_without_share|percent}) would be wrong without silence; "
        "with it, {window.silence.wrong_with|int}."
    )
    figure = page.figure("window", draw_window, window, WINDOW_HEIGHTS, _WINDOW_LABEL, caption)
    return section("method", "How a neuron computes", _METHOD, figure)


# ---- exactness -------------------------------------------------------------------------------------------------------------

_EXACT = (
    "<p>Every number that leaves the compiler is an integer, and the integer reference defines it. It is computed again from "
    "spike times, by a neuron that steps through the window, by Lava processes, and by unmodified lava-dl from the files "
    "alone. All must agree bit for bit.</p>"
)
_COUNTED = (
    "<h3>Counted on Lava</h3><p>Spikes and outliers on Lava's connections, counted by probes in the run for this report, "
    "beside the codes of the executor: a difference of one would be a mismatch.</p>"
)
_SILICON = (
    "<p><b>Nothing ran on silicon.</b> What was compared is Lava's CPU simulator with its bit-accurate models. No Loihi 2 chip "
    "was used, so what is said of chips below is computed, not measured.</p>"
)


def exact_section(page: Page) -> str:
    """What was compared, integer by integer."""
    rows = []
    for i, level in enumerate(page.get("exactness.levels")):
        key = f"exactness.levels.{i}"
        name, meaning = page.cells(key, "level", "meaning")
        row = [f"<b>{name}</b>", f'<span class="say">{meaning}</span>']
        if level["run"]:
            backends, compared, wrong = page.cells(key, "backends|list", "compared|int", "mismatches|int")
            row += [backends, compared, f'<span class="{"bad" if level["mismatches"] else "good"}">{wrong}</span>']
        else:
            row += ["not run", "", ""]
        rows.append(row)
    columns = ["level", "what is compared", "backends", "integers", "differ"]
    found = table("Integers compared, by level", columns, rows, words=3)
    counted = None
    if page.get("exactness.lava"):
        lines = [
            page.cells(f"exactness.lava.{i}", "name", "spikes|int", "outliers|int", "mismatches|int")
            for i, row in enumerate(page.get("exactness.lava"))
            if row["window"]
        ]
        counted = _COUNTED + table("Spikes and outliers per segment", ["segment", "spikes", "outliers", "differ"], lines)
    return section("exact", "Is it exact?", _EXACT, found, counted, _SILICON)


# ---- quality ---------------------------------------------------------------------------------------------------------------


def quality_section(page: Page) -> str:
    """Perplexity, and time steps beside it."""
    missing = page.missing("evaluation")
    return section("quality", "Is it still the same model?", missing or _perplexity(page), _steps(page, missing is None))


def plan_section(page: Page) -> str:
    """What an export would convert and take, and time steps."""
    words = page.fill(
        "<p>{model.model_type}, {model.layers} layers: {model.segments|int} operations of spikes and integers with "
        "{model.weights|int} weights. Its bundle would take about {export.bundle_bytes|bytes}, the export "
        "{export.peak_memory_bytes|bytes} of memory.</p>"
    )
    return section("source", "What would be converted", words, _steps(page, measured=False))


def _perplexity(page: Page) -> str:
    found = page.cells("evaluation", "perplexity|four", "ratio|four", "kl|four", "top1_agreement|percent2")
    rows = [
        ["original, float32", page.value("evaluation.perplexity_float", "four"), "", "", ""],
        ["<b>integer network</b>", *found],
    ]
    columns = ["network", "perplexity", "ratio", "KL, nats per token", "same next token"]
    words = page.fill(
        "<p>{evaluation.tokens|int} tokens of {evaluation.text}, in {evaluation.protocol}. Because the spiking network gives "
        "the same integers, this is its perplexity too.</p>"
    )
    return table("Perplexity on text that calibration has not seen", columns, rows) + words


def _steps(page: Page, measured: bool) -> str | None:
    if page.missing("steps") is not None:
        return None
    rows = []
    for i, row in enumerate(page.get("steps")):
        name, window, latency = page.cells(f"steps.{i}", "scheme", "window", "latency_steps|int")
        here = row["window"] == page.get("recipe.window")
        fewer = page.value(f"steps.{i}.window_reduction", "percent2") if row["window_reduction"] else ""
        quality = [page.value("evaluation.perplexity", "four") if here else ""] if measured else []
        rows.append([f"<b>{name}</b>, this network" if here else name, window, fewer, latency, *quality])
    columns = ["code of a value", "per window", "fewer", "per token"]
    return table("Time steps", columns + ["perplexity"] * measured, rows)


# ---- activity --------------------------------------------------------------------------------------------------------------


def activity_section(page: Page) -> str:
    """Spikes, silence and outliers per segment; histograms of codes; the table behind them."""
    title = "What the codes do"
    missing = page.missing("counts")
    if missing is not None:
        return section("activity", title, missing)
    intro = page.fill(
        "<p>Counted over {counts.tokens|int} tokens of {counts.text}. Of all codes that reach a neuron, "
        "{counts.total.spike_share|percent} spike, {counts.total.outlier_share|percent} are integer messages and "
        "{counts.total.silent_share|percent} send nothing.</p>"
    )
    rows = activity_rows(page.report)
    height, tall = activity_height(rows), codes_height(page.get("codes"))
    bars = page.figure(
        "activity",
        draw_activity,
        rows,
        (height, height),
        "Stacked bars, one per segment: shares of codes that spike, that are silent and that are outlier messages.",
        "What the codes at the input of every segment do; on the right, how many spikes and messages a token brings. A segment "
        "without any spikes takes integers by its recipe. The numbers are in the table below.",
    )
    histograms = page.figure(
        "codes",
        draw_codes,
        page.get("codes"),
        (tall, tall),
        "Histograms of codes on a logarithmic scale, one per encoding; the spike range is shaded, outliers lie beside it.",
        "How often each code comes up. Shaded: codes that travel as the time of one spike; grey: the code that is never sent; "
        "beside them, in ranges that double, the outliers.",
    )
    return section("activity", title, intro, bars, histograms, _details(page))


def _details(page: Page) -> str:
    names = ("elements", "spikes", "silent", "outliers", "synaptic_adds", "macs", "neuron_updates", "readouts")
    fields = [f"{name}_per_token|one" for name in names]
    rows = []
    for i in page.count("segments"):
        key = f"segments.{i}"
        rows.append([page.fill("{row.block} {row.segment}", row=key), *page.cells(key, "kind", *fields)])
    rows.append(["<b>all</b>", "", *page.cells("counts.total", *fields)])
    columns = ["segment", "kind", *(name.replace("_", " ") for name in names)]
    shown = table("Work per token", columns, rows, words=2)
    return f"<details><summary>Every segment in numbers</summary>{shown}</details>"
