"""Everything a report says, as one dict of plain values: the content of report.json.

    bundle, source, facts, versions             what was converted, from the manifest
    method, recipe                              by what
    exactness                                   what `verify` recorded, level by level
    evaluation                                  perplexity on the text, `kirin_lava.tasks.quality.evaluate.Evaluation`
    counts, segments, codes, host               what a run over the same text did, `kirin_lava.graph.counts`; `segments` is
    layers.csv
    sentence                                    of an encoder: what a sentence costs, all of its tokens
    window                                      one window step by step, as the method traces it, if it does
    ranges, placement, timing, energy, steps    the chip, `kirin_lava.hardware`

A part that cannot be had (only some layers were exported, the original is gone) is `{"missing": reason}`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import kirin_lava
from kirin_lava.base.errors import KirinError
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.coverage import words
from kirin_lava.graph.block import Model
from kirin_lava.graph.counter import Counter, together
from kirin_lava.graph.counts import Stats
from kirin_lava.graph.executor import Executor
from kirin_lava.hardware.observe import RangeObserver
from kirin_lava.hardware.placement import planned_context
from kirin_lava.methods.method import Method, Picture
from kirin_lava.models.sources.source import told
from kirin_lava.models.text import read_text, token_rows
from kirin_lava.models.tokenizer import load_tokenizer
from kirin_lava.tasks.inspect.bundle import inspect_bundle
from kirin_lava.tasks.quality.encoders import evaluate_encoder, sentence_rows
from kirin_lava.tasks.quality.evaluate import evaluate
from kirin_lava.tasks.quality.unseen import check_unseen
from kirin_lava.tasks.report.codes import code_histograms
from kirin_lava.tasks.report.hardware import hardware_part
from kirin_lava.tasks.vectors import longest_text

__all__ = ["FORMAT", "PER_TOKEN", "by_position", "gather", "manifest_part", "method_part", "window_of"]

FORMAT = 2
"""Of report.json."""

Progress = Callable[[str, int, int], None]

_ROW = 256
_COUNTED_ROWS, _COUNTED_SENTENCES = 8, 64
_LEVELS = {
    "segment": "every linear segment, on codes of the calibration text",
    "block": "every port of every block on real text, spikes and outliers counted on Lava's connections included",
    "model": "the whole model on Lava: logits and generated tokens",
}
_TIMED = {
    ("segment", "native"): "Lava processes of one segment",
    ("segment", "stock"): "stock lava-dl, one segment, with its file read",
    ("block", "native"): "Lava processes of one block",
}
PER_TOKEN = (
    "elements",
    "spikes",
    "silent",
    "outliers",
    "dense_macs",
    "synaptic_adds",
    "macs",
    "neuron_updates",
    "comparisons",
    "readouts",
)


def gather(
    bundle: Bundle, text: Path, max_rows: int | None, profiles: Sequence[str], context: int | None, progress: Progress
) -> dict[str, Any]:
    """The content of report.json.

    Args:
        text: to evaluate and count on. max_rows: evaluate on its first rows only.
        profiles: names or YAML files of energy profiles; empty for those that come with the program.
        context: positions to plan the chip for, see `kirin_lava.hardware.placement.planned_context`.

    Raises:
        UsageError: the bundle is damaged, or the text is the one it was calibrated on, or a bad profile.
    """
    bundle.require_whole()
    planned_context(bundle.manifest["max_positions"], context)  # refuse before hours of work
    report = manifest_part(bundle)
    progress("the picture of a window", 0, 1)
    method = bundle.recipe.method
    picture = method.picture()
    if picture is not None:
        report["window"] = window_of(bundle, picture)
    if not bundle.complete:
        missing = {"missing": f"only {', '.join(bundle.block_names)} of the model were exported, so it cannot run"}
        keys = ("evaluation", "counts", "codes", "host", "ranges", "placement", "timing", "energy", "steps")
        return report | {"segments": []} | dict.fromkeys(keys, missing)
    check_unseen(bundle, read_text(text), text)
    try:
        if bundle.causal:
            found = evaluate(bundle.path, text, max_rows=max_rows, progress=progress).to_dict()
            del found["layer_errors"]
        else:
            found = evaluate_encoder(bundle.path, text, max_rows=max_rows, progress=progress).to_dict()
        del found["bundle"]
        report["evaluation"] = found
    except KirinError as error:
        report["evaluation"] = {"missing": str(error)}
    model = bundle.model()
    rows = _rows(bundle, model, text)
    stats, ranges = _run(rows, model, progress)
    blocks = [{"block": name, **stats.total(name)} for name in stats.blocks()]
    report["counts"] = {"text": text.name, "tokens": stats.tokens, "total": stats.total(), "blocks": blocks}
    report["codes"] = code_histograms(stats)
    report["host"] = _host(stats)
    report["segments"] = [_segment_row(row) for row in stats.core]
    progress("limits, placement, time and energy of the chip", 0, 1)
    report |= hardware_part(model, stats, ranges, text.name, report["segments"], profiles, method, context)
    report["timing"]["lava"] = _lava_times(bundle)
    if not bundle.causal:
        report["sentence"] = _sentence(rows, stats, report["energy"])
    return report


def manifest_part(bundle: Bundle) -> dict[str, Any]:
    """What is known without running the model: source, recipe, operations and what `verify` recorded."""
    manifest = bundle.manifest
    described = inspect_bundle(bundle.path)
    window = max((segment.window or 1 for segment in described.segments), default=1)
    return {
        "format": FORMAT,
        "kirin_lava": kirin_lava.__version__,
        "bundle": {
            "name": bundle.path.absolute().name.removesuffix(".partial"),  # an export asks before it is published
            "digest": described.digest,
            "bytes": sum((bundle.path / name).stat().st_size for name in manifest["files"] if (bundle.path / name).is_file()),
            "complete": described.complete,
            "net_files": sum(segment.file is not None for segment in described.segments),
            "made_by": manifest.get("kirin_lava"),
        },
        "source": _source(manifest["source"]),
        "facts": manifest["facts"],
        "method": method_part(bundle.recipe.method),
        "recipe": by_position(manifest["recipe"]) | {"window": window},
        "versions": manifest.get("versions") or {},
        "exactness": _exactness(bundle),
        "operations": _operations(described.segments, described.host_ops, described.integer_ops),
    }


def method_part(method: Method) -> dict[str, Any]:
    """What a report says of the method; its `paper` is None where it has none."""
    return {"name": method.name, "title": method.title, "paper": asdict(method.paper) if method.paper else None}


def by_position(values: dict[str, Any]) -> dict[str, Any]:
    """Plain values, entries whose names hold dots as a list of name and value: dots separate the parts of a key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and any("." in name for name in value):
            found[key] = [{"name": name, "value": entry} for name, entry in value.items()]
        else:
            found[key] = by_position(value) if isinstance(value, dict) else value
    return found


def window_of(bundle: Bundle, picture: Picture) -> dict[str, Any]:
    """The picture of a firing segment of the block nearest to the middle that has one, else of one that is read out."""
    names = [name for name in bundle.block_names if name != "head"] or bundle.block_names
    ordered = sorted(names, key=lambda name: abs(names.index(name) - len(names) // 2))
    candidates = []
    for name in ordered[:2]:  # layers of a decoder are built alike: the second is for odd ones
        recorded = bundle.probes(name)
        segments = [s for s in bundle.segments(name) if s.linear.code.has_spikes and s.linear.name in recorded]
        candidates += [(name, segment, recorded[segment.linear.name].codes) for segment in segments]
    if not candidates:
        return {"missing": "no segment of the middle blocks has both inputs that spike and recorded codes to trace"}
    block, segment, codes = min(candidates, key=lambda found: found[1].linear.fires is None)
    return {
        "block": block,
        "segment": segment.linear.name,
        **picture.trace(segment.linear, segment.scale, codes),
    }


def _source(source: dict[str, Any]) -> dict[str, Any]:
    """The source, its files as a list: their names hold dots, which separate the parts of a key."""
    plain = {key: value for key, value in source.items() if key != "sha256"}
    plain["weights"] = told(source["weights"]) if "weights" in source else None
    return plain | {"files": [{"file": name, "sha256": digest} for name, digest in (source.get("sha256") or {}).items()]}


def _exactness(bundle: Bundle) -> dict[str, Any]:
    recorded = bundle.verification
    levels = []
    for level, meaning in _LEVELS.items():
        entry = recorded.get(level)
        done = {key: entry[key] for key in ("compared", "mismatches", "backends")} | {"covered": words(entry)} if entry else {}
        levels.append({"level": level, "meaning": meaning, "run": bool(entry), **done})
    return {
        "verified": bundle.verified,
        "compared": sum(entry.get("compared", 0) for entry in levels),
        "mismatches": sum(entry.get("mismatches", 0) for entry in levels),
        "levels": levels,
        "silicon": bundle.manifest.get("physical_fit_verified") is True,
    }


def _lava_times(bundle: Bundle) -> list[dict[str, Any]]:
    """Mean wall time of a time step in the runs of `verify`, level by level; empty where it did not run."""
    recorded = bundle.verification
    rows = []
    for (level, form), what in _TIMED.items():
        milliseconds = recorded.get(level, {}).get("milliseconds_per_step", {}).get(form)
        if milliseconds is not None:
            rows.append({"what": what, "seconds": milliseconds / 1000})
    return rows


def _operations(segments: list[Any], host_ops: dict[str, int], integer_ops: dict[str, int]) -> dict[str, Any]:
    places: dict[str, int] = {}
    for segment in segments:
        places[segment.place] = places.get(segment.place, 0) + 1
    found = {"core": places, "core_total": len(segments), "host": host_ops, "host_total": sum(host_ops.values())}
    return found | {"integer": integer_ops, "integer_total": sum(integer_ops.values())}


def _rows(bundle: Bundle, model: Model, text: Path) -> list[torch.Tensor]:
    """The first rows of the text; for an encoder sentences, spread over it."""
    tokenizer, content = load_tokenizer(bundle.path), read_text(text)
    if bundle.causal:
        return token_rows(tokenizer, content, min(_ROW, model.max_positions))[:_COUNTED_ROWS]
    return sentence_rows(tokenizer, content, longest_text(model.facts, model.max_positions), _COUNTED_SENTENCES, text.name)


def _sentence(rows: Sequence[torch.Tensor], stats: Stats, energy: dict[str, Any]) -> dict[str, Any]:
    """What a sentence of the text costs on average: all of its tokens."""
    tokens, total = sum(map(len, rows)) / len(rows), stats.total()
    joules = []
    for profile in energy.get("profiles", ()):
        ours = next(column["total"] for column in profile["columns"] if column["network"] == "ours")
        joules.append({"prices": profile["profile"]["title"], "joules": None if ours is None else ours * tokens})
    return {
        "sentences": len(rows),
        "tokens": tokens,
        "spikes": total["spikes"] / len(rows),
        "outliers": total["outliers"] / len(rows),
        "joules": joules,
    }


def _run(rows: Sequence[torch.Tensor], model: Model, progress: Progress) -> tuple[Stats, RangeObserver]:
    """Counts and spans of some rows."""
    counter, spans = Counter(), RangeObserver()
    executor = Executor(model, observer=together(counter, spans))
    for index, row in enumerate(rows):
        progress("count spikes", index, len(rows))
        executor.forward(torch.as_tensor(row).unsqueeze(0))
    return counter.result(), spans


def _host(stats: Stats) -> list[dict[str, Any]]:
    """Float operations of the host per token, by kind, the largest first."""
    sums: dict[str, float] = {}
    for row in stats.host:
        sums[row.kind] = sums.get(row.kind, 0.0) + row.float_operations / max(row.tokens, 1)
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    return [{"kind": kind, "float_operations_per_token": number} for kind, number in ordered]


def _segment_row(row: Any) -> dict[str, Any]:
    elements = max(row.elements, 1)
    return {
        "block": row.block,
        "segment": row.op,
        "kind": row.kind,
        "encoding": row.encoding,
        "window": row.window,
        "weight_bits": row.weight_bits,
        "tokens": row.tokens,
        "spike_share": row.spikes / elements,
        "silent_share": row.silent / elements,
        "outlier_share": row.outliers / elements,
        **{f"{name}_per_token": getattr(row, name) / max(row.tokens, 1) for name in PER_TOKEN},
    }
