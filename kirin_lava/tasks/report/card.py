"""README.md of a bundle: a model card in the form of the Hugging Face hub, from the manifest and, if there is one, a report.

Nothing in it is made up: what neither of them knows is said to be unknown. Its last line holds a hash of the others: a card
that nobody has edited is written anew when there is more to say.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from kirin_lava.base.errors import UsageError
from kirin_lava.base.files import disk_errors, save_text
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.netx.read import Segment
from kirin_lava.models.checkpoint import EMBEDDED_MODELS, read_json
from kirin_lava.tasks.report.gather import FORMAT, manifest_part
from kirin_lava.tasks.report.values import fill, resolve, show

__all__ = ["model_card", "refresh_card", "source_license"]

_TAGS = ("spiking-neural-network", "neuromorphic", "lava", "loihi-2", "quantized", "kirin-lava")


def model_card(bundle: Bundle, report: dict[str, Any] | None) -> str:
    """The card.

    Args:
        report: content of report.json, or None before there is one. That of another bundle is not used.
    """
    data = manifest_part(bundle)
    if report is not None and (report.get("format"), resolve(report, "bundle.digest")) == (FORMAT, data["bundle"]["digest"]):
        data = {**report, **data}  # what was verified since the report is in the manifest
    parts = [
        _front_matter(data),
        _introduction(data),
        _recipe(data),
        _exactness(data),
        _quality(data),
        _cost(data),
        _use(bundle, data),
        _LIMITS,
    ]
    return _marked("\n\n".join(parts) + "\n")


def refresh_card(bundle: Bundle) -> None:
    """Write README.md anew with what was verified and reported since, unless somebody has edited or removed it."""
    path = bundle.path / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    if text == _marked(text.rpartition("\n<!--")[0]):
        with disk_errors(path):
            save_text(path, model_card(bundle, _stored_report(bundle)))


def _marked(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()  # as `save_text` writes it
    return f"{text}\n<!-- Written anew by kirin-lava until it is edited: {digest[:16]} -->\n"


def _stored_report(bundle: Bundle) -> dict[str, Any] | None:
    try:
        return read_json(bundle.path / "report.json")
    except UsageError:  # there is none
        return None


def source_license(model: str, revision: str | None = None) -> str | None:
    """The licence that the front matter of the source's README names; None where it is not known. Nothing is downloaded."""
    folder = EMBEDDED_MODELS.get(model, Path(model))
    readme = folder / "README.md"
    if not folder.is_dir():
        import huggingface_hub

        try:
            cached = huggingface_hub.try_to_load_from_cache(model, "README.md", revision=revision)
        except ValueError:  # no hub id either
            return None
        if not isinstance(cached, str):
            return None
        readme = Path(cached)
    try:
        text = readme.read_text(encoding="utf-8")
        head = text.split("---", 2)[1] if text.startswith("---") else ""
        values = yaml.safe_load(head)
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError, RecursionError):
        return None
    found = values.get("license") if isinstance(values, dict) else None
    return found if isinstance(found, str) else None


def _front_matter(data: dict[str, Any]) -> str:
    source = data["source"]
    name = str(source["model"])
    on_hub = source.get("revision") is not None
    values: dict[str, Any] = {"base_model": name if on_hub else source["name"], "base_model_relation": "quantized"}
    license_name = source.get("license") or source_license(name, source.get("revision"))
    if license_name:
        values["license"] = license_name
    values |= {
        "library_name": "kirin-lava",
        "pipeline_tag": "text-generation",
        "tags": [*_TAGS, str(data["facts"]["model_type"])],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def _say(data: dict[str, Any], text: str) -> str:
    return fill(text, lambda key, form: show(resolve(data, key), form))


def _introduction(data: dict[str, Any]) -> str:
    origin = "revision {source.revision}" if data["source"].get("revision") else "a local folder"
    part = "" if data["bundle"]["complete"] else " Only some of its layers were converted."
    return _say(
        data,
        "# {source.name} as a spiking network\n\n"
        f"**{{source.name}}** ({origin}), a {{facts.model_type}} model with {{facts.layers}} layers of width {{facts.width}}, "
        "converted by Kirin-Lava {bundle.made_by} to a network of single spikes and integers for Intel's Lava toolchain. Every "
        "matrix product of the decoder is a sum of spikes and integer messages, made to equal an integer reference bit for "
        f"bit; what was compared stands under Exactness.{part}",
    )


def _recipe(data: dict[str, Any]) -> str:
    about = ": {recipe.description}" if data["recipe"]["description"] else ""
    exceptions = " ({recipe.outlier_sites|list})" if data["recipe"]["outlier_sites"] else ""
    return _say(
        data,
        "## Recipe\n\n"
        "| | |\n|---|---|\n"
        f"| recipe | `{{recipe.name}}`{about} |\n"
        "| weights | {recipe.weights.bits} bits, {recipe.weights.method} |\n"
        "| activations | {recipe.encoding} codes, one spike in a window of {recipe.window} steps |\n"
        "| outliers | 8-bit messages, at most {recipe.outliers.ratio|percent} per {recipe.outliers.policy}"
        f"{exceptions} |\n"
        "| cached keys and values | {recipe.attention.key_bits} and {recipe.attention.value_bits} bits |\n"
        "| calibrated on | {source.calibration.rows|int} rows of {source.calibration.tokens_per_row|int} tokens, text "
        "{source.calibration.text} |\n"
        "| content | {bundle.segments|int} `.net` files, digest `{bundle.digest|short}` |",
    )


def _exactness(data: dict[str, Any]) -> str:
    lines = ["## Exactness", "", "| level | what is compared | integers | differ |", "|---|---|---:|---:|"]
    for i, level in enumerate(data["exactness"]["levels"]):
        row = f"exactness.levels.{i}"
        numbers = f"{{{row}.compared|int}} | {{{row}.mismatches|int}}" if level["run"] else "not run | unknown"
        lines.append(_say(data, f"| {{{row}.level}} | {{{row}.meaning}} | {numbers} |"))
    state = "Verified on Lava's CPU simulator." if data["exactness"]["verified"] else "Not verified on Lava."
    return "\n".join([*lines, "", f"{state} Nothing ran on silicon."])


def _quality(data: dict[str, Any]) -> str:
    found = data.get("evaluation")
    if found is None:
        return "## Perplexity\n\nUnknown: not measured yet; `kirin-lava report` or `kirin-lava eval` measures it."
    if "missing" in found:
        return f"## Perplexity\n\nUnknown: {found['missing']}."
    return _say(
        data,
        "## Perplexity\n\n"
        "| network | perplexity | same next token |\n|---|---:|---:|\n"
        "| original, float32 | {evaluation.perplexity_float|four} | |\n"
        "| this one | {evaluation.perplexity|four} | {evaluation.top1_agreement|percent2} |\n\n"
        "{evaluation.tokens|int} tokens of {evaluation.text}, in {evaluation.protocol}.",
    )


def _cost(data: dict[str, Any]) -> str:
    if "energy" not in data or "missing" in data["energy"]:
        return "## Cost\n\nUnknown: not counted yet; `kirin-lava report` counts it."
    lines = [
        _say(
            data,
            "## Cost\n\nPer token, on average over {counts.tokens|int} tokens: {counts.total.spikes_per_token|int} spikes, "
            "{counts.total.outliers_per_token|int} integer messages, {counts.total.synaptic_adds_per_token|int} additions, "
            "{counts.total.macs_per_token|int} multiplications; {counts.total.silent_share|percent} of all codes send nothing. "
            "{placement.cores|int} neuro cores on {placement.chips|int} "
            f"{'chip' if data['placement']['chips'] == 1 else 'chips'} "
            "with room for {placement.context|int} positions (a packing by public limits, not compiled); {ranges.proved|int} "
            "segments proved not to overflow, {ranges.calibrated|int} calibrated, {ranges.does_not_fit|int} that do not fit."
            "\n\n| prices | FP16 | integer twin | rate code | this one | its static power |\n|---|---:|---:|---:|---:|---:|",
        )
    ]
    for i, profile in enumerate(data["energy"]["profiles"]):
        row = f"energy.profiles.{i}"
        cells = [
            f"{{{row}.columns.{j}.total|si:J}}" if column["total"] is not None else "cannot run"
            for j, column in enumerate(profile["columns"])
        ]
        ours = next(j for j, column in enumerate(profile["columns"]) if column["network"] == "kirin")
        known = profile["columns"][ours]["static_joules"] is not None
        cells.append(f"{{{row}.columns.{ours}.static_joules|si:J}}" if known else "not public")
        lines.append(_say(data, f"| {{{row}.profile.title}} | {' | '.join(cells)} |"))
    lines.append(
        _say(
            data,
            "\nJoules per token, computed from counts and published prices, not measured; there are none for Loihi 2. Under "
            "{energy.twin_wins} of {energy.priced} price lists the integer twin, without spikes, takes less than this network."
            "\n\nCounted as the paper counts (additions against multiplications, nothing else), this network saves "
            "{energy.paper.against_dense|percent2} of the energy of the one without spikes, where Kirin (arXiv 2602.08817) "
            "claims up to {energy.paper.claimed_energy_reduction|percent2}, and {energy.paper.step_reduction|percent2} of the "
            "time steps of 8-bit spike codes, where it claims {energy.paper.claimed_step_reduction|percent2}.",
        )
    )
    return "\n".join(lines)


def _use(bundle: Bundle, data: dict[str, Any]) -> str:
    name = data["bundle"]["name"].removesuffix(".partial")  # the name that an export gives it at its end
    commands = [f'kirin-lava run {name} --prompt "Once upon a time"', f"kirin-lava verify {name}", f"kirin-lava report {name}"]
    first = _first_segment(bundle)
    arguments = "".join(f", {key}={value}" for key, value in first.layer.layout.network.items())
    file = first.path.relative_to(bundle.path).as_posix()
    return (
        "## Use\n\n```bash\n" + "\n".join(commands if data["bundle"]["complete"] else commands[1:]) + "\n```\n\n"
        "Each linear segment is a file that unmodified lava-dl loads; what to feed and how to read the answer is in the JSON "
        "of its dataset `kirin/metadata`:\n\n"
        "```python\nfrom lava.lib.dl import netx\n\n"
        f'network = netx.hdf5.Network("{file}"{arguments})\n```'
    )


def _first_segment(bundle: Bundle) -> Segment:
    return bundle.segments(bundle.block_names[0])[0]


_LIMITS = (
    "## What was not done\n\n"
    "* No neuromorphic chip was used: exactness holds on Lava's CPU simulator, times and energies are computed.\n"
    "* Norms, position embeddings, softmax, gates and residual sums stay on the host in float32.\n"
    "* The model was not evaluated for bias, safety or truthfulness; what holds for its base model holds for it."
)
