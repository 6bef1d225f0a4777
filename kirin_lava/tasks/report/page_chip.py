"""The half of the page that is about the chip: does it fit, how long does a token take, what does it cost."""

from __future__ import annotations

from kirin_lava.tasks.report.html import Page, section, table
from kirin_lava.tasks.report.plot_chip import (
    cores_height,
    draw_cores,
    draw_energy,
    draw_ranges,
    energy_height,
    is_small,
    range_rows,
    ranges_height,
)

__all__ = ["energy_section", "fit_section", "limits_section", "time_section"]

_COLOURS = {"proved": "good", "calibrated": "", "does not fit": "bad"}


def _details(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


# ---- ranges and placement --------------------------------------------------------------------------------------------------


def fit_section(page: Page) -> str:
    """Ranges and placement."""
    title = "Does it fit Loihi 2?"
    placement = [] if page.missing("placement") else _placement(page)
    missing = page.missing("ranges")
    if missing is not None:
        return section("fit", title, missing, *placement)
    words = page.fill(
        "<p>{ranges.proved|int} segments are <b>proved</b>: no input that their encoder can send overflows a state, message or "
        "synapse. {ranges.calibrated|int} are <b>calibrated</b>: what came up on text fits, the worst case does not, and every "
        "backend raises an error if a state ever leaves its range. {ranges.does_not_fit|int} do <b>not fit</b>.</p>"
    )
    rows = range_rows(page.report)
    height = ranges_height(rows)
    whole = len(rows) == len(page.get("ranges.segments"))
    every = "every segment" if whole else "of each kind of segment the one with the largest worst case"
    bits = page.figure(
        "ranges",
        draw_ranges,
        rows,
        (height, height),
        "Horizontal bars, one per segment: bits that membranes need on text and in the worst case, and the limit of the state.",
        f"How large membranes get, on text and in the worst case, for {every}. The line is the limit of a signed state.",
    )
    return section("fit", title, words, bits, _range_table(page), *placement)


def _range_table(page: Page) -> str:
    lines = []
    for i, row in enumerate(page.get("ranges.segments")):
        key = f"ranges.segments.{i}"
        name = page.fill("{row.block} {row.segment}", row=key)
        guarantee = f'<span class="{_COLOURS[row["guarantee"]]}">{page.value(f"{key}.guarantee")}</span>'
        if row["tightest"] is None:
            lines.append([name, guarantee, "none", "", "", "", ""])
            continue
        bound = f"{key}.bounds.{row['tightest']}"
        seen = page.value(f"{bound}.calibrated", "span") if page.get(f"{bound}.calibrated") else ""
        quantity, worst, anything, spare = page.cells(bound, "quantity", "worst|span", "any_codes|span", "margin_bits|one")
        lines.append([name, guarantee, quantity, seen, worst, anything, spare])
    columns = ["segment", "guarantee", "tightest state", "on text", "worst case", "any codes", "spare bits"]
    return _details("Every segment: the state that comes nearest to its limit", table("Ranges", columns, lines, words=3))


def _placement(page: Page) -> list[str]:
    placement = page.get("placement")
    facts = page.fill(
        "<h3>Placement</h3><p>With caches for {placement.context|int} positions the model takes {placement.cores|int} neuro "
        "cores, {placement.share_of_chips|percent} of those of {placement.chips|int} "
        f"{'chip' if placement['chips'] == 1 else 'chips'}: "
        "{placement.neurons|int} neurons, {placement.synapse_bytes|bytes} of weights and {placement.cache_bytes|bytes} of "
        "cached keys and values; a core is used to {placement.mean_utilisation|percent} on average. This is a packing in a "
        "memory model with public limits: feasible, but not checked by Intel's compiler and not seen on silicon.</p>"
    )
    figure = page.figure(
        "cores",
        draw_cores,
        placement,
        (cores_height(placement, False), cores_height(placement, True)),
        "Map of the neuro cores: which segments each core holds, and how far its fullest resource is used.",
        "Where the segments lie. A core is full when its neurons, its synaptic memory or all its memory is; "
        + ("what is spread over several cores is paler." if is_small(placement) else "of many chips the first are shown."),
    )
    return [facts, figure]


# ---- time ------------------------------------------------------------------------------------------------------------------


def time_section(page: Page) -> str:
    """Steps, the lower bound of their length, and Lava's measured one."""
    title = "How long does a token take?"
    missing = page.missing("timing")
    if missing is not None:
        return section("time", title, missing)
    here = next((i for i, row in enumerate(page.get("steps")) if row["window"] == page.get("recipe.window")), 0)
    words = page.fill(
        "<p>A token passes {here.stages} stages, {here.latency_steps|int} time steps from its entry to its logits; tokens "
        "that do not wait for each other follow every {here.window} steps. On chip a step cannot be shorter than its barrier "
        "and its busiest core allow: {timing.step_seconds|si:s} on average in a full pipeline. So a token takes at least "
        "{timing.seconds_per_token|si:s}: at most {timing.tokens_per_second|int} tokens per second of one story, "
        "{timing.pipelined_tokens_per_second|int} of many at once. It is a bound, not a forecast: links between chips, the "
        "network on chip and the host are left out.</p>",
        here=f"steps.{here}",
    )
    lengths = [["lower bound on chip, in a full pipeline", page.value("timing.step_seconds", "si:s")]]
    lengths += [page.cells(f"timing.lava.{i}", "what", "seconds|si:s") for i in page.count("timing.lava")]
    compared = "Length of a time step: the bound, and Lava's CPU simulator as measured when it was verified"
    measured = table(compared, ["what", "one step"], lengths) if page.get("timing.lava") else None
    constants = [page.cells(f"timing.constants.{i}", "name", "seconds|si:s", "source") for i in page.count("timing.constants")]
    source = table("Constants of the bound", ["constant", "time", "source"], constants, words=3)
    rows = []
    fields = ("limited_by", "window", "synapses|int", "neuron_updates|int", "seconds|si:s")
    for i in page.count("timing.stages"):
        key = f"timing.stages.{i}"
        rows.append([page.fill("{row.block} {row.name}", row=key), *page.cells(key, *fields)])
    columns = ["segment", "limited by", "steps", "synapses, busiest core", "neuron updates, busiest core", "at least"]
    stages = _details("Every stage", table("One window of every segment", columns, rows, words=2))
    return section("time", title, words, measured, source, stages)


# ---- energy ----------------------------------------------------------------------------------------------------------------

_COUNTS = {
    "counts.total.spikes_per_token": "spikes",
    "counts.total.outliers_per_token": "outlier messages",
    "counts.total.synaptic_adds_per_token": "additions of a weight, by spikes",
    "counts.total.macs_per_token": "multiplications and additions, by messages",
    "counts.total.dense_macs_per_token": "multiplications and additions of the same layers without spikes",
    "counts.total.neuron_updates_per_token": "updates of a neuron",
    "counts.total.comparisons_per_token": "comparisons with a threshold",
    "counts.total.readouts_per_token": "membranes read out",
    "traffic.total.from_host_bits": "bits from the host",
    "traffic.total.on_chip_bits": "bits delivered on chip",
    "traffic.total.between_chips_bits": "bits between chips",
    "traffic.total.to_host_bits": "bits to the host",
    "counts.total.host_float_operations_per_token": "float operations of the host",
}


def energy_section(page: Page) -> str:
    """Counts first, then joules by profile, then the paper's way of counting."""
    title = "What does it cost?"
    missing = page.missing("energy")
    if missing is not None:
        return section("energy", title, missing)
    energy = page.get("energy")
    intro = page.fill(
        "<p>Counts first, {energy.source}. Joules come second and depend on whose prices one believes; for Loihi 2 no prices "
        "are public, so none of these numbers is “Loihi 2 energy”.</p>"
    )
    counts = [[words, page.value(key, "int")] for key, words in _COUNTS.items()]
    figure = page.figure(
        "energy",
        draw_energy,
        energy,
        (energy_height(energy, False), energy_height(energy, True)),
        "Bars of joules per token under every profile, for the float network, its integer twin, a rate-coded network and ours.",
        "Energy per token. All networks compute the same layers; the integer twin has the same weights and codes as ours and "
        "no spikes. Bars that are far longer than the others are cut at ». Static power is of our chips over the time bound "
        "of a token and is not in the sums.",
    )
    shown = table("Counts per token", ["what", "per token"], counts)
    return section("energy", title, intro, shown, figure, _verdicts(page), _joules(page), _paper(page), _sources(page))


def _verdicts(page: Page) -> str:
    summary = page.fill(
        "<p>Under {energy.twin_wins} of {energy.priced} price lists the integer twin, which has the same weights and codes "
        "and no spikes, takes less energy than ours.</p>"
    )
    lines = (
        page.fill('<p class="verdict">{row.verdict}</p>', row=f"energy.profiles.{i}") for i in page.count("energy.profiles")
    )
    return "<h3>Who wins</h3>" + summary + "".join(lines)


def _joules(page: Page) -> str:
    rows = []
    for i, profile in enumerate(page.get("energy.profiles")):
        key = f"energy.profiles.{i}"
        row = [page.value(f"{key}.profile.title")]
        for j, column in enumerate(profile["columns"]):
            row.append(page.value(f"{key}.columns.{j}.total", "si:J") if column["total"] is not None else "cannot run")
        ours = next(j for j, column in enumerate(profile["columns"]) if column["network"] == "kirin")
        rows.append([*row, page.value(f"{key}.columns.{ours}.static_joules", "si:J")])
    columns = ["prices", "FP16", "integer twin", "rate-coded", "<b>ours</b>", "static power"]
    return table("Joules per token", columns, rows)


def _paper(page: Page) -> str:
    words = page.fill(
        "<h3>The paper's claim</h3><p>Kirin (arXiv 2602.08817) beside this network, counted as papers on spiking networks "
        "count: every spike an addition of {energy.paper.add_picojoules} pJ, every multiplication and addition "
        "{energy.paper.mac_picojoules} pJ, and nothing else costs anything: no memory, no movement, no update of a neuron. "
        "Compare with the bars above before you quote it.</p>"
    )
    value = page.cells("energy.paper", "claimed_energy_reduction|percent2", "against_dense|percent2", "against_rate|percent2")
    steps = page.cells("energy.paper", "claimed_step_reduction|percent2", "step_reduction|percent2")
    rows = [
        ["energy, against the network without spikes", value[0], value[1]],
        ["energy, against the rate-coded network", "", value[2]],
        ["time steps of a window", *steps],
    ]
    return words + table("Saved, by the paper's way of counting", ["what", "the paper claims", "this network"], rows)


def _sources(page: Page) -> str:
    parts = []
    for i, profile in enumerate(page.get("energy.profiles")):
        key = f"energy.profiles.{i}.profile"
        places = {name: f"{key}.prices.{name}" for name in profile["profile"]["prices"]}
        places |= {"hops, a number": f"{key}.hops", "static power of a chip, W": f"{key}.static_watts_per_chip"}
        rows = [[name, *page.cells(place, "kind", "source", "value|price")] for name, place in places.items()]
        about = page.fill("<h3>{row.title}</h3><p>{row.about}</p>", row=key)
        parts.append(about + table("Prices", ["price", "kind", "source", "pJ"], rows, words=3))
    return _details("Every price and its source", "".join(parts))


# ---- limits ----------------------------------------------------------------------------------------------------------------


def limits_section(page: Page) -> str:
    """What was not done."""
    words = page.fill(
        "<ul><li>No chip was used. The stock form of a segment needs nothing but Lava's own neurons; the neuron whose "
        "threshold falls is a process of its own and would need microcode on a chip.</li><li>Norms, position embeddings, "
        "softmax, gates and residual sums stay on the host in float32: {operations.host_total|int} operations beside "
        "{operations.core_total|int} of spikes and integers.</li><li>Energy is arithmetic with published prices, not a "
        "measurement; times are lower bounds.</li></ul>"
    )
    return section("limits", "What was not done", words)
