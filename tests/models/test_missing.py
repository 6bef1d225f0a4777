"""What a refused type is told: an operation that is missing, and a type that works."""

from __future__ import annotations

import re

import pytest

from kirin_lava.base.errors import UnsupportedError
from kirin_lava.models import FAMILIES, family_of, missing

WORKS = {kind for family in FAMILIES for kind in family.model_types}


@pytest.mark.parametrize("kind", missing._MISSING)
def test_a_refusal_names_what_is_missing_and_the_nearest_that_works(kind: str) -> None:
    assert kind not in WORKS
    with pytest.raises(UnsupportedError) as caught:
        family_of({"model_type": kind})
    said = re.search(r"\(missing: (.+); the nearest that works is (\w+(?:-\w+)?)\); supported are: llama, ", str(caught.value))
    assert said is not None and said[2] in WORKS, caught.value


def test_a_type_that_nobody_has_looked_at_is_refused_all_the_same() -> None:
    with pytest.raises(UnsupportedError, match="model_type 'xyz' is not supported; supported are: llama, "):
        family_of({"model_type": "xyz"})
