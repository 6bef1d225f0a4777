"""Recipes: those that come with the program, the way to YAML and back, and files that nobody should have written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kirin_lava.base.errors import UsageError
from kirin_lava.methods import recipes
from kirin_lava.methods.kirin import KIRIN, KirinOptions, Outliers
from kirin_lava.methods.recipe import HeadSpec, Recipe, RecoverySpec, WeightSpec, load_recipe, recipe_names
from kirin_lava.methods.recipes import DEFAULT_RECIPE, MEASURED, recipe_digest, recipe_file, recipe_help
from kirin_lava.methods.site import Site
from kirin_lava.models import FAMILIES

RATIOS = st.floats(0, 0.5)
WEIGHTS = st.one_of(
    st.builds(WeightSpec, bits=st.just(4), method=st.sampled_from(["rtn", "gptq"])),
    st.builds(WeightSpec, bits=st.just(8), method=st.sampled_from(["rtn", "gptq"])),
)
TRAINED = st.builds(
    RecoverySpec,
    method=st.sampled_from(["none", "blocks", "distill"]),
    steps=st.integers(1, 10**6),
    minutes=st.none() | st.floats(0.1, 1e4),
)
RECIPES = st.builds(
    Recipe,
    name=st.text(max_size=20),
    description=st.text(max_size=40),
    options=st.builds(
        KirinOptions,
        encoding=st.sampled_from(["offset", "signed"]),
        outliers=st.builds(Outliers, ratio=RATIOS, sites=st.dictionaries(st.sampled_from(FAMILIES[0].sites), RATIOS)),
    ),
    weights=WEIGHTS,
    head=st.builds(HeadSpec, bits=st.sampled_from([4, 8])),
    recovery=TRAINED,
)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_along_loads_under_its_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert load_recipe(str(recipe_file(name))) == recipe
    assert DEFAULT_RECIPE in recipe_names()


# ---- the price in the help ---------------------------------------------------------------------------------------------


def line_of(name: str) -> str:
    return next(line for line in recipe_help() if line.split()[:1] == [name])


@pytest.mark.parametrize("name", recipe_names())
def test_the_help_says_what_a_recipe_is_and_costs(name: str) -> None:
    recipe, line = load_recipe(name), line_of(name)
    assert line.endswith(f"  {recipe.description}") and len(line) <= 78
    assert line.split()[1:3] == [recipe.setting, str(recipe.method.activations(recipe.options).window)]
    assert "not measured" not in line, "edited since: run `python benchmarks/stories260k.py --write`"
    runs = json.loads(MEASURED.read_text())["runs"]
    (run,) = (run for run in runs if (run["recipe"], run["recover"]) == (name, "none"))
    assert run["digest"] == recipe_digest(name)
    price = [f"x{run['perplexity_ratio']:.3f}", f"{100 * run['outlier_share']:.1f}%", str(run["synapse_bits"])]
    price += [str(run["chips"]), f"{run['steps']:.0f}", f"{run['seconds']:.0f}"]
    assert line.split()[3:9] == price


def test_wide_messages_go_where_membranes_hold_them() -> None:
    """Dense inputs and the head have messages as wide as asked for; queries and layers that fire keep 8 bits."""
    options = KirinOptions("signed", 16, Outliers(0.05, 12))
    codes = {
        site: KIRIN.coding(site, options).code.name for site in (Site("blocks.0", "mlp.down"), Site("head", "head.lm_head"))
    }
    assert list(codes.values()) == ["signed-16-m12", "integer-12"]
    assert KIRIN.coding(Site("blocks.0", "attn", "q"), options).code.name == "signed-16"
    assert KIRIN.coding(Site("blocks.0", "attn", "k"), options).code.name == "integer-8"
    assert KIRIN.coding(Site("blocks.0", "attn", "p"), options).code.name == "unsigned-16"
    assert KIRIN.firing_code(Site("blocks.0", "mlp.fc1"), options).name == "signed-16"


def test_the_help_says_on_what_a_recipe_was_measured() -> None:
    first, other = recipe_help()[-2:]
    assert first.startswith("Measured on stories260K-hf with 66 rows") and "fas-w8a8" not in first
    assert other.startswith("fas-w8a8: on demo-opt with ") and max(map(len, recipe_help())) <= 78


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the recipes that the help reads instead."""
    folder = Path(shutil.copytree(MEASURED.parent, tmp_path / "recipes"))
    monkeypatch.setattr(recipes, "_FOLDER", folder)
    monkeypatch.setattr(recipes, "MEASURED", folder / MEASURED.name)
    return folder


def test_an_edited_recipe_loses_its_price(copied: Path) -> None:
    path = copied / f"{DEFAULT_RECIPE}.yaml"
    before = recipe_help()
    assert any("+ distill" in line for line in before)
    path.write_text(path.read_text().replace("description: ", "# a comment\ndescription: "))
    assert recipe_help() == before
    path.write_text(path.read_text().replace("ratio: 0.1", "ratio: 0.2"))
    assert "not measured" in line_of(DEFAULT_RECIPE) and "not measured" not in line_of("fast")
    assert not any("+ distill" in line for line in recipe_help())


def test_a_new_recipe_has_no_price_yet(copied: Path) -> None:
    (copied / "mine.yaml").write_text((copied / "fast.yaml").read_text())
    assert line_of("mine").split()[1:3] == ["not", "measured"]


@given(RECIPES)
def test_yaml_and_back(recipe: Recipe) -> None:
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_copied_and_edited_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(load_recipe("fast").to_yaml().replace("ratio: 0.1", "ratio: 0.25").replace("name: fast", "name: mine"))
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.options.outliers.ratio, recipe.options.outliers.of("blocks.0.attn.q")) == ("mine", 0.25, 0.25)
    path.write_text("kirin: {outliers: {ratio: 0}}\n")  # a whole number is a number, what is left out has its default
    assert load_recipe(str(path)).options.outliers == Outliers(0.0)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
MERGES = "a0: &a0 {x: 1, y: 2}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 40)}]}}\n" for i in range(1, 6))
HOSTILE: list[tuple[str, str, str]] = [
    ("unknown entry", "colour: red", "unknown entry 'colour'"),
    ("unknown entry within", "weights: {bitz: 4}", "weights: unknown entry 'bitz'; known are: bits"),
    ("a number as a key", "4: 4", "unknown entry 4"),
    ("text for a number", "weights: {bits: four}", "bits is 'four', not a whole number"),
    ("number in quotes", "weights: {bits: '4'}", "bits is '4', not a whole number"),
    ("fraction", "weights: {bits: 4.0}", "bits is 4.0, not a whole number"),
    ("bool for a number", "kirin: {outliers: {ratio: yes}}", "ratio is True, not a number"),
    ("number for a text", "kirin: {encoding: 16}", "encoding is 16, not a text"),
    ("date for a number", "kirin: {outliers: {ratio: 2024-01-01}}", "ratio is '2024-01-01', not a number"),
    ("list for entries", "weights: [4, rtn]", "weights: expected entries"),
    ("text for entries", "weights: 4bit", "weights: expected entries"),
    ("null for entries", "weights:", "weights: expected entries"),
    ("list on top", "- encoding: offset", "expected entries"),
    ("text on top", "offset", "expected entries"),
    ("list for sites", "kirin: {outliers: {sites: [mlp.down]}}", "sites is ['mlp.down'], not a list of"),
    ("text for a site", "kirin: {outliers: {sites: {mlp.down: high}}}", "outliers.sites.mlp.down is 'high'"),
    ("bool for a site", "kirin: {outliers: {sites: {mlp.down: true}}}", "outliers.sites.mlp.down is True"),
    ("site without a name", "kirin: {outliers: {sites: {1: 0.2}}}", "an entry without a name"),
    ("ratio too high", "kirin: {outliers: {ratio: 0.7}}", "outliers.ratio is 0.7, not a number from 0 to 0.5"),
    ("negative ratio", "kirin: {outliers: {sites: {attn.q: -0.1}}}", "outliers.sites.attn.q is -0.1"),
    ("no number", "kirin: {outliers: {ratio: .nan}}", "line 1: .nan is not a finite number"),
    ("infinite", "kirin: {outliers: {ratio: .inf}}", "line 1: .inf is not a finite number"),
    ("unknown encoding", "kirin: {encoding: rate}", "encoding is 'rate'; choose one of 'offset', 'signed'"),
    ("a window of the other encoding", "kirin: {window: 8}", "window of offset codes is 8; choose one of 16"),
    ("bits of a message", "kirin: {outliers: {bits: 10}}", "outliers.bits is 10; choose one of 8, 12, 16"),
    ("unknown method", "method: morse", "unknown method 'morse': choose one of kirin"),
    ("a method that is no text", "method: [kirin]", "method is ['kirin'], not a text"),
    ("an entry that moved", "encoding: signed", "write `kirin: {encoding: ...}`"),
    ("of another method", "spikellm: {}", "unknown entry 'spikellm'"),
    ("bits", "weights: {bits: 3}", "3 bits are not supported: use 4 or 8"),
    ("method", "weights: {method: awq}", "'awq' is unknown: use 'rtn' or 'gptq'"),
    ("an entry that went", "weights: {group_size: 8}", "weights: unknown entry 'group_size'; known are: bits, method"),
    ("attention", "attention: {key_bits: 8}", "unknown entry 'attention'"),
    ("head", "head: {bits: 3}", "choose one of 4, 8"),
    ("recovery", "recovery: {method: magic}", "'none', 'blocks', 'distill'"),
    ("steps", "recovery: {steps: 0}", "recovery.steps is 0"),
    ("minutes", "recovery: {minutes: 0}", "recovery.minutes is 0"),
    ("minutes that are no number", "recovery: {minutes: .nan}", ".nan is not a finite number"),
    ("minutes as a text", "recovery: {minutes: ten}", "minutes is 'ten', not a number"),
    ("twice", "kirin: {outliers: {ratio: 0.1, ratio: 0.4}}", "there twice"),
    ("empty", "", "is empty; copy one of"),
    ("comment alone", "# nothing\n", "is empty"),
    ("two documents", "name: a\n---\nname: b\n", "cannot be read as YAML"),
    ("python object", "name: !!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ("python name", "name: !!python/name:os.system", "cannot be read as YAML"),
    ("broken", "weights: {bits: 4", "cannot be read as YAML"),
    ("tab", "weights:\n\tbits: 4", "cannot be read as YAML"),
    ("unhashable key", "? [a, b]\n: c", "cannot be read as YAML"),
    ("nested deep", "[" * 5000 + "]" * 5000, "cannot be read as YAML"),
    ("aliases that explode", BOMB, "line 2: aliases (*name) are not taken: write the value out"),
    ("aliases that explode inside", BOMB.replace("a0:", "name:", 1), "aliases (*name) are not taken"),
    ("aliases that bite their tail", "name: &a [*a]", "line 1: aliases (*name) are not taken"),
    ("merge key", "<<: {name: x}", "line 1: merge keys (<<) are not taken"),
    ("merges that explode", MERGES, "are not taken"),
    ("a number of 6,000 digits", "weights: {bits: 9" + "0" * 6000 + "}", "line 1: a number of 6001 digits"),
    ("the same in base 16", "weights: {bits: 0x" + "f" * 6000 + "}", "line 1: a number of 6002 digits"),
    ("steps without end", "recovery: {steps: 9007199254740993}", "recovery.steps is 9007199254740993, not a positive number"),
    ("a date that is none", "name: 2024-99-99\nkirin: {encoding: 2024-99-99}", "encoding is '2024-99-99'; choose one of"),
    ("bytes", "name: !!binary aGVsbG8=", "line 1: could not determine a constructor"),
    ("a set", "name: !!set {a, b}", "line 1: could not determine a constructor"),
    ("nested within bounds of Python", "name: " + "[" * 150 + "]" * 150, "it is nested more than 100 deep"),
    ("an integer that is none", "weights: {bits: !!int x}", "cannot be read as YAML"),
    ("an empty integer", "weights: {bits: !!int ''}", "cannot be read as YAML"),
    ("a map that is none", "- !!map [1]", "cannot be read as YAML"),
    ("a letter beyond Unicode", 'name: "\\U00110000"', "cannot be read as YAML"),
    ("larger than any recipe", "# " + "x" * 200_000, "has 200 kB, at most 65.5 kB are read"),
    ("control character", "name: a\x00b", "cannot be read as YAML"),
]


@pytest.mark.parametrize(("text", "message"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_hostile_yaml(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(str(path))
    said = str(caught.value)
    assert said.startswith(str(path)) and message in said
    assert len(said) < 600 and "\n" not in said


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \xe9"])
def test_not_utf8(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"odd\.yaml cannot be read as YAML"):
        load_recipe(str(path))


@pytest.mark.parametrize("name", ["kirin", "", "no/such/file.yaml", "../recipes/fast", "x" * 5000, "."])
def test_no_such_recipe(name: str) -> None:
    with pytest.raises(UsageError, match=r"use one of fas-w8a8, fast, .*kirin-w4a4-8.* or a YAML file") as caught:
        load_recipe(name)
    assert len(str(caught.value)) < 300


def test_a_site_that_the_model_does_not_have() -> None:
    for site in (
        "mlp.dwn",
        "lm_head",
        "head.lm_head",
        "blocks.4.mlp.down",
        "blocks.0.mlp",
        "blocks.0.head.lm_head.",
        "",
        "x" * 500,
    ):
        recipe = Recipe(options=KirinOptions("offset", outliers=Outliers(sites={site: 0.2})))
        with pytest.raises(UsageError, match=r"names '.*', which this model does not have: attn\.qkv, .*mlp\.down") as caught:
            recipe.check_sites(FAMILIES[0].sites, 4)
        assert len(str(caught.value)) < 300
    for family in FAMILIES:
        own = [site for site in family.sites if not site.startswith("head.")]
        sites = [*own, *(f"blocks.3.{site}" for site in own)]
        Recipe(options=KirinOptions("offset", outliers=Outliers(sites=dict.fromkeys(sites, 0.2)))).check_sites(family.sites, 4)


@pytest.mark.parametrize(
    "bad", [{"kirin": {"encoding": None}}, {"kirin": {"outliers": {"sites": {"a": None}}}}, {"method": 4}, 3, None, [1], {1: 1}]
)
def test_plain_values_of_a_manifest(bad: Any) -> None:
    with pytest.raises(UsageError, match=r"^manifest"):
        Recipe.from_dict(bad, "manifest")
