"""A seeded grammar of small children's stories: the text that the embedded models learn.

    python examples/story_grammar.py --output kirin_lava/models/data/text

A story has a hero, a friend, a helper, a toy, a place and a problem. They are drawn once (`draw_cast`), bound to
names, and every sentence of a plot (`story_plots.py`) speaks of the same ones: a model that has learned the stories
keeps names, pronouns, colours and things from beginning to end. Everything else is free choice, so that the text
is not a list of a few sentences.

Templates: ``@key`` is a phrase of `story_plots.PHRASES`, ``[a|b|c]`` one of the alternatives (they nest, an empty one
is allowed), ``{key}`` a bound word of the cast, ``<key>`` a free word of `story_words.FREE`; ``{Key}`` and ``<Key>``
begin with a capital.
The same seed gives the same stories on every Python version: only `Random.random` is used, whose sequence is fixed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

from story_plots import BEFORE, ENDINGS, OPENINGS, PHRASES, PLOTS
from story_words import ANIMALS, BOYS, BUILDS, ELDERS, FREE, GIRLS, PLACES, PLANTS, SKILLS, TOYS

Item = TypeVar("Item")

PHRASE = re.compile("@(" + "|".join(PHRASES) + ")")
CHOICE = re.compile(r"\[([^\[\]]*)\]")
WORD = re.compile(r"\{(\w+)\}|<(\w+)>")
AN = re.compile(r"\b([Aa]) (?=[aeiou])")
SEED = {"train": 1, "calibration": 2, "evaluation": 3}
MAX_WORDS = 150
TEXT_BYTES = {"calibration": 80_000, "evaluation": 60_000}
SEPARATOR = "<|endoftext|>"
OPENS = re.compile(r"Once upon a time|Long ago")
PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}


def pick(rng: Random, items: Sequence[Item]) -> Item:
    """One of the items, all equally likely."""
    return items[int(rng.random() * len(items))]


def expand(template: str, rng: Random, cast: Mapping[str, str]) -> str:
    """Fill a template: phrases, then choices from the innermost outwards, then words. An unknown word is a KeyError."""
    while PHRASE.search(template):
        template = PHRASE.sub(lambda match: PHRASES[match[1]].strip(), template)
    while CHOICE.search(template):
        template = CHOICE.sub(lambda match: pick(rng, match[1].split("|")), template)

    def word(match: re.Match[str]) -> str:
        key: str = match[1] or match[2]
        lower = key[0].lower() + key[1:]
        filled = cast[lower] if match[1] else pick(rng, FREE[lower])
        return filled if key == lower else filled[0].upper() + filled[1:]

    return WORD.sub(word, template)


def draw_person(rng: Random, prefix: str, taken: set[str]) -> dict[str, str]:
    """Name, kind and pronouns of one character; no name and no kind is used twice in a story."""
    while True:
        pronoun = pick(rng, ("he", "she"))
        name = pick(rng, BOYS if pronoun == "he" else GIRLS)
        child = "boy" if pronoun == "he" else "girl"
        kind = child if rng.random() < 0.25 else pick(rng, ANIMALS)
        if not taken & {name, kind}:
            break
    taken |= {name, kind}
    he, him, his = PRONOUNS[pronoun]
    return {f"{prefix}name": name, f"{prefix}kind": kind, f"{prefix}he": he, f"{prefix}him": him, f"{prefix}his": his}


def draw_cast(rng: Random) -> dict[str, str]:
    """Bind every word that a story must keep: hero (no prefix), friend (f), elder (e), and the things of the plot."""
    taken: set[str] = set()
    cast = draw_person(rng, "", taken) | draw_person(rng, "f", taken)
    elder, cast["myelder"], pronoun = pick(rng, ELDERS)
    cast["elder"] = elder.replace("{his}", cast["his"])
    cast["ehe"], cast["ehim"], cast["ehis"] = PRONOUNS[pronoun]
    cast["trait"] = pick(rng, ("brave", "curious", "kind", "clever", "shy", "gentle", "quiet", "silly", "merry"))
    cast["toy"], cast["colour"] = pick(rng, TOYS), pick(rng, FREE["colour"])
    cast["place"], cast["atplace"] = pick(rng, PLACES)
    cast["skill"], cast["where"], cast["failed"], cast["managed"] = pick(rng, SKILLS)
    cast["build"], cast["weak"], cast["strong"] = pick(rng, BUILDS)
    cast["seed"], cast["crop"], cast["dish"] = pick(rng, PLANTS)
    cast["food"], cast["gift"], cast["game"] = (pick(rng, FREE[key]) for key in ("food", "gift", "game"))
    cast["sad"] = pick(rng, ("sad", "worried", "unhappy", "upset"))
    cast["pot"] = pick(rng, ("cup", "vase", "pot", "bowl", "plate", "jar"))
    cast["small"] = pick(rng, [animal for animal in ANIMALS if animal not in taken])
    return cast


def tell(rng: Random) -> str:
    """One story: a single paragraph of plain English, at most MAX_WORDS words."""
    while True:
        cast = draw_cast(rng)
        plot = pick(rng, PLOTS)
        parts = [pick(rng, OPENINGS), pick(rng, BEFORE), plot.text, pick(rng, ENDINGS)]
        if rng.random() < 0.2:
            parts.insert(-1, plot.lesson)
        words = " ".join(expand(part, rng, cast) for part in parts).split()
        if len(words) <= MAX_WORDS:
            return AN.sub(r"\1n ", " ".join(words))


def stories(seed: int) -> Iterator[str]:
    """An endless stream of stories; different seeds are independent streams."""
    rng = Random(seed)
    while True:
        yield tell(rng)


def text_of(part: str) -> str:
    """A text of TEXT_BYTES[part] bytes of stories or a little more, each story a line.

    A line SEPARATOR stands before every story that opens with "Once upon a time" or "Long ago"; any other story is one more
    paragraph of the document before it.
    """
    text = ""
    size = 0
    for story in stories(SEED[part]):
        apart = f"\n{SEPARATOR}\n" if OPENS.match(story) else "\n\n"
        text += apart + story if text else story
        size += len(story) + 2
        if size > TEXT_BYTES[part]:
            break
    return text + "\n"


def stories_of(text: str) -> list[str]:
    """The stories of what `text_of` wrote."""
    return [line for line in text.splitlines() if line not in ("", SEPARATOR)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write calibration.txt and evaluation.txt.")
    parser.add_argument("--output", type=Path, required=True, help="folder that receives the two files")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for part in TEXT_BYTES:
        path = output / f"{part}.txt"
        path.write_text(text_of(part), encoding="utf-8")
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
