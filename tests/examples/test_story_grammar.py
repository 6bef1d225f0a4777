"""The story grammar: what it promises of a story, and that the embedded texts are what it writes."""

from __future__ import annotations

import re
import sys
from itertools import islice
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from story_grammar import MAX_WORDS, SEED, TEXT_BYTES, draw_cast, expand, stories, stories_of, text_of  # noqa: E402
from story_plots import BEFORE, ENDINGS, OPENINGS, PLOTS  # noqa: E402
from story_words import BOYS, GIRLS  # noqa: E402

TEXT = ROOT / "kirin_lava" / "models" / "data" / "text"


def embedded(part: str) -> list[str]:
    return stories_of((TEXT / f"{part}.txt").read_text(encoding="utf-8"))


def test_a_seed_is_a_text_and_two_seeds_are_two() -> None:
    assert list(islice(stories(7), 50)) == list(islice(stories(7), 50))
    assert not set(islice(stories(7), 500)) & set(islice(stories(8), 500))


def test_every_template_can_be_filled() -> None:
    templates = [*OPENINGS, *BEFORE, *ENDINGS, *(plot.text for plot in PLOTS), *(plot.lesson for plot in PLOTS)]
    rng = Random(0)
    for template in templates * 20:
        assert not re.search(r"[\[\]|{}<>@]", expand(template, rng, draw_cast(rng)))


def test_an_unknown_word_is_an_error() -> None:
    with pytest.raises(KeyError, match="villain"):
        expand("{villain} came.", Random(0), draw_cast(Random(0)))


def test_a_story_is_one_clean_paragraph_about_two_characters() -> None:
    for story in islice(stories(5), 1000):
        assert len(story.split()) <= MAX_WORDS
        assert not re.search(r"\n|  |\s[.,!?]|[.!?] [a-z]|\b[Aa] [aeiou]", story)
        names = set(re.findall(r"\b[A-Z][a-z]+\b", story)) & {*BOYS, *GIRLS}
        assert len(names) == 2


@pytest.mark.parametrize("part", sorted(TEXT_BYTES))
def test_embedded_text_is_what_the_grammar_writes(part: str) -> None:
    text = (TEXT / f"{part}.txt").read_text(encoding="utf-8")
    assert text == text_of(part)
    assert TEXT_BYTES[part] <= len(text.encode()) < 1.1 * TEXT_BYTES[part]


def test_calibration_evaluation_and_training_share_no_story() -> None:
    calibration, evaluation = embedded("calibration"), embedded("evaluation")
    training = set(islice(stories(SEED["train"]), 15_000))
    assert len({*calibration, *evaluation}) == len(calibration) + len(evaluation)
    assert not training & {*calibration, *evaluation}
