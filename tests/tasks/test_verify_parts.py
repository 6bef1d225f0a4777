"""A verification of a part: samples, blocks of a few layers, runs that end early, and what the manifest says of them all."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from kirin_lava.base.errors import BackendError, UsageError
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.coverage import complete, covers, merged, words
from kirin_lava.tasks.verify import Choice, verify
from kirin_lava.tasks.verify import segments as by_segment
from kirin_lava.tasks.verify.journal import Journal
from kirin_lava.tasks.verify.result import Found, Row, Verification
from kirin_lava.tasks.verify.walk import Clock, Walk, choose_units, share_of
from tests.conftest import Cli
from tests.hf_models import save_model

FORMS = ("reference", "closed form", "stepped")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Callable[[str], Path]:
    """Bundles: two layers and the head, or the second layer alone; not to be changed."""
    folder = tmp_path_factory.mktemp("parts")
    model = save_model(folder / "hf", num_hidden_layers=2)
    small = ("--recipe", "fast", "--num-samples", 2, "--seq-len", 12, "--verify", "none")

    def make(kind: str) -> Path:
        out = folder / kind
        if not out.exists():
            ran = cli("export", "-m", model, "-o", out, *small, *(("--layers", "1") if kind == "layer" else ()))
            assert ran.code == 0, ran.err
        return out

    return make


@pytest.fixture
def bundle(pristine: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine("whole"), tmp_path / "bundle"))


@pytest.mark.parametrize(("sample", "count"), [("3", 3), ("10%", 2), ("0.1%", 1), ("100%", 20), ("99", 20)])
def test_a_sample_is_a_number_or_a_share(sample: str, count: int) -> None:
    names = [str(n) for n in range(20)]
    chosen = choose_units(names, sample, 5)
    assert share_of(sample, 20) == len(chosen) == count
    assert chosen == [name for name in names if name in chosen] == choose_units(names, sample, 5)
    assert count in (1, 20) or chosen != choose_units(names, sample, 6)
    assert choose_units(names, None, 0) == names


@pytest.mark.parametrize("sample", ["0", "-1", "1.5", "0%", "101%", "nan%", "many", "", "%"])
def test_what_is_no_sample(sample: str, cli: Cli, pristine: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="neither a number such as 12 nor a share such as 10%"):
        share_of(sample, 20)
    if sample == "many":
        ran = cli("verify", pristine("whole"), "--backend", "reference", "--sample", sample)
        assert ran.code == 2 and ran.err.count("\n") == 1


def test_a_sample_says_what_it_covered(cli: Cli, bundle: Path) -> None:
    ran = cli("verify", bundle, "--backend", "reference", "--sample", 2, "--windows", 3, "--seed", 1, "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    units = result["covered"]["units"]
    assert result["covered"]["of"] == 9 and len(units) == 2 and {unit[0] for unit in units.values()} == {3}
    assert list(units) == choose_units([f"{b}.{s}" for b in Bundle(bundle).block_names for s in Bundle(bundle).nets(b)], "2", 1)
    assert result["compared"] == sum(3 * 3 * row["outputs"] for row in result["rows"])
    text = cli("verify", bundle, "--backend", "reference", "--sample", "10%").out
    assert "verified in part: " in text and "1 of 9 segments, 16 windows each (drawn by seed 0)" in " ".join(text.split())


def entry(units: dict[str, list[int]], backends: tuple[str, ...] = ("native",), of: int = 3) -> dict[str, object]:
    numbers = {"compared": sum(u[1] for u in units.values()), "mismatches": sum(u[2] for u in units.values()), "damaged": 0}
    covered = {"what": "segments", "of": of, "each": "windows", "units": units}
    return {"digest": "d", "backends": list(backends), "milliseconds_per_step": {}, **numbers, "covered": covered}


def test_later_runs_add_to_what_is_covered() -> None:
    first, second = entry({"a": [16, 10, 0], "b": [16, 10, 0]}), entry({"b": [4, 5, 0], "c": [16, 7, 0]})
    both = merged(first, second)
    assert both["covered"]["units"] == {"a": [16, 10, 0], "b": [16, 10, 0], "c": [16, 7, 0]}
    assert both["compared"] == 27 and complete(both) and not complete(first)
    assert words(both) == "3 of 3 segments, 16 windows each"
    assert words(merged(first, entry({"c": [4, 5, 0]}))) == "3 of 3 segments, 4 to 16 windows each"
    worse = merged(first, entry({"a": [4, 5, 2]}))
    assert worse["covered"]["units"]["a"] == [4, 5, 2] and worse["mismatches"] == 2
    assert merged(worse, entry({"a": [16, 10, 0]}))["mismatches"] == 0
    assert merged(first, entry({"c": [16, 7, 0]}, ("stock",)))["compared"] == 7, "other backends begin anew"
    old = {key: value for key, value in first.items() if key != "covered"}
    assert complete(old) and words(old) == "all" and merged(old, second) == second and merged(None, second) == second


@pytest.mark.parametrize(
    "covered",
    [
        [],
        {},
        {"what": "segments", "of": 1, "each": "windows", "units": {"a": [1, 2]}},
        {"what": "segments", "of": 1, "each": "windows", "units": {"a": [1, 2, -1]}},
        {"what": "segments", "of": 1, "each": "windows", "units": {"a": [1, 2, True]}},
        {"what": "segments", "of": 0, "each": "windows", "units": {"a": [1, 2, 0]}},
        {"what": 1, "of": 1, "each": "windows", "units": {}},
    ],
)
def test_a_manifest_may_say_anything_of_what_is_covered(covered: object) -> None:
    assert not covers(covered)
    assert covers(None) and covers(entry({"a": [1, 2, 0]})["covered"])


def test_the_manifest_is_verified_when_all_is_covered(bundle: Path) -> None:
    def record(level: str, units: dict[str, list[int]], of: int) -> None:
        found = entry(units, of=of)
        del found["digest"]
        Bundle(bundle).record(level, found)

    record("segment", {"a": [16, 10, 0]}, 2)
    assert not Bundle(bundle).verified and Bundle(bundle).verification["segment"]["compared"] == 10
    record("block", {"blocks.0": [8, 10, 0]}, 3)
    assert not Bundle(bundle).verified
    record("segment", {"b": [16, 5, 0]}, 2)
    assert Bundle(bundle).verified and Bundle(bundle).verification["segment"]["compared"] == 15
    record("block", {"head": [8, 10, 1]}, 3)
    assert not Bundle(bundle).verified, "whatever differs anywhere"


def test_a_journal_is_believed_only_of_the_same_run(bundle: Path) -> None:
    opened = Bundle(bundle)
    found = Found([Row("a", "read", 1, 2, 8, 3, 4, 5, compared=6)], None, 16)
    Journal(opened, "segment", FORMS, 16, kept=True).add("a", found)
    again = Journal(opened, "segment", FORMS, 16, kept=True)
    assert {name: asdict(item) for name, item in again.found.items()} == {"a": asdict(found)}
    others = [("block", FORMS, 16), ("segment", FORMS[:1], 16), ("segment", FORMS, 4), ("segment", FORMS, None)]
    assert not any(Journal(opened, *other, kept=True).found for other in others)
    assert not Journal(opened, "segment", FORMS, 16, kept=False).found
    path = bundle / "verify.segment.json"
    text = path.read_text()
    for damaged in (text.replace('"compared": 6', '"compared": 7'), text[:50], "[]", "{}"):
        path.write_text(damaged)
        assert not Journal(opened, "segment", FORMS, 16, kept=True).found
    path.write_text(text)
    opened.manifest["recipe"]["description"] = "another"  # and with it another digest
    assert not Journal(opened, "segment", FORMS, 16, kept=True).found
    again.remove()
    assert not path.exists()


def test_a_walk_goes_on_where_it_was_and_tells_the_time_left(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def walk(result: Verification) -> Walk:
        return Walk(
            Bundle(bundle), result, Choice(), None, True, lambda text, done, total: told.append(f"{text} {done}/{total}")
        )

    first = walk(Verification("segment", FORMS))
    assert len(first.chosen) == len(first.todo) == 9
    for name in first.chosen[:4]:
        first.begin(name)
        first.add(name, Found([Row(name, "read", 1, 1, 8, 0, 0, 0, compared=2)], None, 16))
    result = Verification("segment", FORMS)
    second = walk(result)
    assert result.resumed == 4 and second.todo == first.chosen[4:]
    for name in list(second.todo):
        second.begin(name)
        second.add(name, Found([Row(name, "read", 1, 1, 8, 0, 0, 0, compared=2)], None, 16))
    second.end()
    assert [row.name for row in result.rows] == first.chosen and result.compared == 18
    assert told[0].endswith(f"{first.chosen[0]} on stepped 0/9") and told[4].endswith(f"{first.chosen[4]} on stepped 4/9")
    assert " left 8/9" in told[-1]
    moment = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: moment)
    for seconds, expected in ((10, ", about 30 s left"), (100, ", about 5 min left"), (3600, ", about 3.0 h left")):
        moment = 1000.0
        clock = Clock({"a": 1.0, "b": 2.0, "c": 1.0})
        assert clock.left() == ""
        moment += seconds
        clock.done("a")
        assert clock.left() == expected
        clock.done("b")
        clock.done("c")
        assert clock.left() == ""


def test_windows_are_spread_over_what_was_kept(pristine: Callable[[str], Path]) -> None:
    probe = Bundle(pristine("whole")).probes("blocks.0")["attn.o"]
    few = by_segment._some(probe, 3)
    assert [list(map(int, row)) for row in few.codes] == [list(map(int, probe.codes[n])) for n in (0, 7, 15)]
    assert (few.result == probe.result[[0, 7, 15]]).all()
    assert by_segment._some(probe, 99) is probe and by_segment._some(probe, None) is probe


# ---- on Lava ----------------------------------------------------------------------------------------------------------


@pytest.mark.lava
def test_what_a_killed_run_found_is_not_computed_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third segment passes its limit; the next run begins with it."""
    calls: list[str] = []
    run = by_segment._Lava.run

    def until(limit: int) -> None:
        def counted(self, segment, codes):  # type: ignore[no-untyped-def]
            if len(calls) == limit:
                raise BackendError("Lava job passed its limit")
            calls.append(segment.linear.name)
            return run(self, segment, codes)

        monkeypatch.setattr(by_segment._Lava, "run", counted)

    until(2)
    with pytest.raises(BackendError, match="passed its limit"):
        verify(bundle, choice=Choice(sample="4", windows=2))
    assert len(calls) == 2 and (bundle / "verify.segment.json").is_file()
    assert Bundle(bundle).verification == {}
    until(99)
    result = verify(bundle, choice=Choice(sample="4", windows=2))
    assert result.resumed == 2 and len(calls) == 4 == len(result.rows) and result.mismatches == 0
    assert result.compared == sum(5 * 2 * row.outputs for row in result.rows)
    assert not (bundle / "verify.segment.json").exists()
    found = Bundle(bundle).verification["segment"]
    assert words(found) == "4 of 9 segments, 2 windows each" and not Bundle(bundle).verified


@pytest.mark.lava
@pytest.mark.parametrize("kind", ["whole", "layer"])
def test_blocks_one_by_one(kind: str, cli: Cli, pristine: Callable[[str], Path], tmp_path: Path) -> None:
    """A bundle of some layers has no model to run, but its blocks can be compared, attention and cache included."""
    bundle = Path(shutil.copytree(pristine(kind), tmp_path / kind))
    ran = cli("verify", bundle, "--level", "block", "--tokens", 4, "--sample", 1, "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    of = {"whole": 3, "layer": 1}[kind]
    (name,) = result["covered"]["units"]
    assert result["covered"]["of"] == of and result["covered"]["units"][name][0] == 4 and result["mismatches"] == 0
    if name != "head":
        assert {"score", "mix"} <= {row["kind"] for row in result["rows"]}
    assert Bundle(bundle).verified == (kind == "layer")
    assert f"block: {result['compared']} integers, 0 mismatches, 1 of {of} blocks, 4 tokens each" in " ".join(
        cli("inspect", bundle).out.split()
    )
