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
from kirin_lava.base.readers import MOST_YAML, parse_yaml, read_json, read_text
from kirin_lava.export.bundle import Bundle
from kirin_lava.hardware.networks import NETWORKS
from kirin_lava.models.checkpoint import EMBEDDED_MODELS
from kirin_lava.tasks.report.gather import FORMAT, manifest_part
from kirin_lava.tasks.report.templates import render
from kirin_lava.tasks.report.values import resolve

__all__ = ["model_card", "refresh_card", "source_license"]

_MOST_CARD = 1 << 24  # bytes
_TAGS = ("spiking-neural-network", "neuromorphic", "lava", "loihi-2", "quantized", "kirin-lava")


def model_card(bundle: Bundle, report: dict[str, Any] | None) -> str:
    """The card.

    Args:
        report: content of report.json, or None before there is one. That of another bundle is not used.
    """
    data = manifest_part(bundle)
    if report is not None and (report.get("format"), resolve(report, "bundle.digest")) == (FORMAT, data["bundle"]["digest"]):
        data = {**report, **data}  # what was verified since the report is in the manifest
    first = bundle.segments(bundle.block_names[0])[0]
    text = render(
        "card.md.j2",
        data,
        bundle.recipe.method,
        front=_front_matter(data),
        name=data["bundle"]["name"].removesuffix(".partial"),  # the name that an export gives it at its end
        file=first.path.relative_to(bundle.path).as_posix(),
        arguments=first.layer.layout.network,
        ours=list(NETWORKS).index("ours"),
    )
    return _marked(text)


def refresh_card(bundle: Bundle) -> None:
    """Write README.md anew with what was verified and reported since, unless somebody has edited or removed it."""
    path = bundle.path / "README.md"
    try:
        text = read_text(path)
    except UsageError:
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
        parts = read_text(readme, _MOST_CARD).split("---", 2)
        values = parse_yaml(parts[1], str(readme)) if len(parts) == 3 and not parts[0] and len(parts[1]) < MOST_YAML else None
    except UsageError:
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
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
