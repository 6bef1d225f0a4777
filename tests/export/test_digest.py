"""The digest of a bundle changes with whatever a result depends on, and with nothing else."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kirin_lava.export.bundle import Bundle
from tests.export.small_bundles import small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(small_bundle(tmp_path_factory.mktemp("digest"), "llama", "fast"))


def leaves(values: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all plain values."""
    if isinstance(values, (dict, list)) and values:
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from leaves(value, (*place, key))
    else:
        yield place


def changed(manifest: dict[str, Any], place: tuple[Any, ...]) -> dict[str, Any]:
    again = copy.deepcopy(manifest)
    *way, last = place
    holder = again
    for key in way:
        holder = holder[key]
    old = holder[last]
    holder[last] = not old if isinstance(old, bool) else old + 1 if isinstance(old, (int, float)) else f"{old}?"
    return again


def digest_of(bundle: Bundle, manifest: dict[str, Any]) -> str:
    again = copy.copy(bundle)
    again.manifest = manifest
    return again.digest()


@pytest.mark.parametrize("part", ["recipe", "blocks", "facts", "files"])
def test_every_value_of_the_recipe_the_graph_the_facts_and_every_hash_counts(bundle: Bundle, part: str) -> None:
    places = [(part, *place) for place in leaves(bundle.manifest[part])]
    digests = [digest_of(bundle, changed(bundle.manifest, place)) for place in places]
    assert len(places) >= 8 and len({bundle.digest(), *digests}) == len(places) + 1


def test_the_text_that_it_was_calibrated_on_counts(bundle: Bundle) -> None:
    place = ("source", "calibration", "sha256")
    assert digest_of(bundle, changed(bundle.manifest, place)) != bundle.digest()


def test_where_the_source_lay_and_what_was_verified_do_not_count(bundle: Bundle, tmp_path: Path) -> None:
    for place in (("source", "model"), ("verified",), ("versions", "numpy")):
        assert digest_of(bundle, changed(bundle.manifest, place)) == bundle.digest(), place
    assert Bundle(Path(shutil.copytree(bundle.path, tmp_path / "elsewhere"))).digest() == bundle.digest()
