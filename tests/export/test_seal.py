"""The manifest vouches for itself: no single value in it changes in silence, and a verification holds for one content alone."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kirin_lava.base.errors import UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.bundle_write import BundleWriter
from kirin_lava.export.manifest import JOURNAL, MANIFEST, checksum, digest_of, sealed
from kirin_lava.tasks.inspect.bundle import inspect_bundle
from tests.conftest import Cli
from tests.export.small_bundles import small_bundle

FOUND = {"compared": 7, "mismatches": 0, "damaged": 0, "backends": ["native"], "milliseconds_per_step": {"native": 1.5}}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that says it is verified; not to be changed."""
    bundle = small_bundle(tmp_path_factory.mktemp("sealed"), "llama", "fast")
    Bundle(bundle).record("segment", FOUND)
    return bundle


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


def leaves(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all plain values."""
    if isinstance(values, (dict, list)) and values:
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from leaves(value, (*place, key))
    else:
        yield place


def changes(old: Any) -> list[Any]:
    """Other values of the same type, as damage or a hand that means well would write them."""
    if isinstance(old, bool):
        return [not old]
    if isinstance(old, int):
        return [old + 1, float(old)]
    if isinstance(old, float):
        return [value for value in (old * 1e4, old + 1e-9, -1.0) if value != old]
    return [f"{old}?" if isinstance(old, str) else "?"]


def put(manifest: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    again = copy.deepcopy(manifest)
    holder: Any = again
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return again


def test_no_value_changes_in_silence(bundle: Path) -> None:
    """`run`, `eval`, `verify` and `report` open a bundle as here; `inspect` shows it as damaged, if it can be read."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    assert Bundle(bundle).manifest == manifest == sealed(manifest)
    places = [(place, value) for place in leaves(manifest) for value in changes(value_at(manifest, place))]
    assert len(places) > 400 and {place[-1] for place, _ in places} >= {
        "eps",
        "ratio",
        "encoding",
        "factor",
        "verified",
        "model",
    }
    shown = 0
    for place, value in places:
        (bundle / MANIFEST).write_text(json.dumps(put(manifest, place, value)))
        with pytest.raises(UsageError, match=r"manifest\.json|bundle format"):
            Bundle(bundle)
        try:
            looked = Bundle(bundle, intact=False)
        except UsageError:
            continue  # what has no type or no sense is refused at once
        shown += 1
        assert looked.damaged_files()[0] == MANIFEST and not (
            looked.verified and digest_of(looked.manifest) != manifest["digest"]
        )
    assert shown > len(places) / 2


def value_at(manifest: dict[str, Any], place: tuple[Any, ...]) -> Any:
    for key in place:
        manifest = manifest[key]
    return manifest


def test_commands_refuse_a_changed_eps(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    """Fails at 5cef7d5, where every one of these commands took the other eps in silence."""
    (tmp_path / "text.txt").write_text("Another text about nothing much, which is evaluated.")
    text = (bundle / MANIFEST).read_text()
    assert text.count('"eps": 1e-06') >= 2
    (bundle / MANIFEST).write_text(text.replace('"eps": 1e-06', '"eps": 0.1', 1))
    for command in (
        ["run", bundle, "--max-new-tokens", 2],
        ["eval", bundle, "--text", tmp_path / "text.txt"],
        ["verify", bundle, "--backend", "reference"],
        ["verify", bundle, "--level", "block"],
        ["report", bundle],
    ):
        ran = cli(*command)
        assert (ran.code, ran.out) == (2, ""), command
        assert ran.err.startswith(f"error: {bundle / MANIFEST}: it is not as it was written") and ran.err.count("\n") == 1
    ran = cli("inspect", bundle, "--json")
    values = json.loads(ran.out)
    assert ran.code == 0 and values["damaged"] == [MANIFEST] and values["verified"] is False


@pytest.mark.parametrize("eps", [float("nan"), float("inf"), 0.0, -1e-6])
def test_an_eps_that_is_none_is_refused_whatever_the_hashes_say(cli: Cli, bundle: Path, eps: float) -> None:
    """Fails at 5cef7d5: `verify --backend reference` reads segments, and looked at nothing between them."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    next(op for op in manifest["blocks"][0]["ops"] if "eps" in op)["eps"] = eps
    (bundle / MANIFEST).write_text(json.dumps(sealed(manifest)))
    for command in (["verify", bundle, "--backend", "reference"], ["run", bundle], ["inspect", bundle]):
        ran = cli(*command)
        assert ran.code == 2 and str(bundle / MANIFEST) in ran.err and ran.err.count("\n") == 1, command


def test_inspect_shows_what_it_can_of_a_bundle_with_a_damaged_file(cli: Cli, bundle: Path) -> None:
    net = next((bundle / "net").glob("blocks.0.*"))
    net.write_bytes(net.read_bytes()[:-1] + b"?")
    assert inspect_bundle(bundle).damaged == [f"net/{net.name}"]
    net.unlink()
    ran = cli("inspect", bundle)
    assert ran.code == 0 and f"net/{net.name}" in ran.out and "damaged" in ran.out and "lm_head" in ran.out


def test_the_order_of_entries_has_no_consequence(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(dict(reversed(manifest.items()))))
    assert Bundle(bundle).verified


def test_where_the_source_lay_and_what_was_verified_are_not_content(bundle: Path) -> None:
    opened = Bundle(bundle)
    for place in (("source", "model"), ("source", "license"), ("versions", "numpy"), ("kirin_lava",), ("verified",)):
        assert digest_of(put(opened.manifest, place, "other")) == opened.digest(), place
    assert digest_of({**opened.manifest, "something new": 1}) != opened.digest(), "what is not known may have consequences"


def test_a_verification_of_another_content_is_not_believed(bundle: Path) -> None:
    """Whoever changes the content and knows how the manifest is hashed still has no verified bundle."""
    assert Bundle(bundle).verified
    manifest = json.loads((bundle / MANIFEST).read_text())
    operation = next(op for op in manifest["blocks"][0]["ops"] if "eps" in op)
    operation["eps"] = 0.1
    (bundle / MANIFEST).write_text(json.dumps(sealed(manifest)))
    changed = Bundle(bundle)
    assert changed.manifest["verified"] is True
    assert changed.verified is False and changed.verification == {} and inspect_bundle(bundle).verified is False
    changed.record("block", FOUND)
    assert set(Bundle(bundle).manifest["verification"]) == {"block"} and Bundle(bundle).verified


@pytest.mark.parametrize("found", [{"mismatches": 1}, {"damaged": 1}, {"compared": 0}])
def test_one_level_that_failed_is_enough(bundle: Path, found: dict[str, int]) -> None:
    Bundle(bundle).record("block", {**FOUND, **found})
    assert Bundle(bundle).verified is False
    Bundle(bundle).record("model", FOUND)
    assert Bundle(bundle).verified is False
    Bundle(bundle).record("block", FOUND)
    assert Bundle(bundle).verified is True


def test_a_bundle_that_was_replaced_meanwhile_gets_no_verification(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle(bundle)
    manifest = json.loads((bundle / MANIFEST).read_text())
    operation = next(op for op in manifest["blocks"][0]["ops"] if "eps" in op)
    operation["eps"] = 0.1
    (bundle / MANIFEST).write_text(json.dumps(sealed({**manifest, "verified": False, "verification": None})))
    before = (bundle / MANIFEST).read_bytes()
    with pytest.raises(UsageError, match="was replaced by another bundle meanwhile"):
        opened.record("segment", FOUND)
    assert (bundle / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("name", ["added_tokens.json", "tokenizer.model"])
def test_a_file_that_came_up_and_would_be_read(cli: Cli, bundle: Path, name: str) -> None:
    """Fails at 5cef7d5: files of the tokenizer and of generation count, though the manifest has no hash of them."""
    (bundle / name).write_text("{}")
    assert Bundle(bundle).damaged_files() == [name]
    ran = cli("run", bundle, "--max-new-tokens", 2)
    assert ran.code == 2 and name in ran.err


def test_a_value_in_the_journal_changes_what_is_resumed_no_more(tmp_path: Path) -> None:
    """Fails at 5cef7d5: the graph in the journal became that of the bundle, under a digest of its own."""
    request = {"blocks": ["head"]}
    with BundleWriter(tmp_path / "out", request) as writer:
        writer._journal["blocks"]["head"] = {
            "graph": {"ops": [{"eps": 1e-6}]},
            "files": {"host/head.safetensors": "0", "probe/head.safetensors": "0"},
        }
        writer._save_journal()
    journal = tmp_path / "out.partial" / JOURNAL
    text = journal.read_text()
    journal.write_text(text.replace("1e-06", "0.1"))
    assert journal.read_text() != text
    with pytest.raises(UsageError, match=r"journal\.json is damaged; leave out --resume"):
        BundleWriter(tmp_path / "out", request, resume=True)
    values = json.loads(text)
    assert values["checksum"] == checksum(values)
    journal.write_text(text)
    with BundleWriter(tmp_path / "out", request, resume=True) as writer:
        assert not writer.finished("head"), "its files are missing"
