"""A short campaign of damage, and the judge of the long one: `make fuzz`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from tools.fuzz.__main__ import describe, load
from tools.fuzz.cases import KINDS, Campaign
from tools.fuzz.damage import damages_of
from tools.fuzz.run import MEMORY, SECONDS, Ran, fault_of

SEED, CASES = 7, 30
GOOD = Ran(0, "0 mismatches in 3 s\n", "", 1.0, 2**28)
REFUSED = Ran(2, "", "error: DIR/x.net: is no HDF5 file: export again\n", 1.0, 2**28)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    load()
    return Campaign(tmp_path_factory.mktemp("fuzz"), SEED)


@pytest.mark.slow
def test_damage_ends_in_the_same_result_or_in_one_line(campaign: Campaign) -> None:
    cases = [campaign.case(number) for number in range(CASES)]
    wrong = [describe(case, SEED) for case in cases if case.fault is not None]
    assert not wrong, "\n".join(wrong)
    assert len({case.kind for case in cases}) >= len(KINDS) - 1
    assert {0, 2} <= {case.ran.code for case in cases}


def test_a_case_depends_on_its_seed_and_number_alone(campaign: Campaign) -> None:
    first, again, other = campaign.case(3), campaign.case(3), Campaign.case(campaign, 4)
    assert (first.damage, first.arguments, first.ran.code) == (again.damage, again.arguments, again.ran.code)
    assert first.damage != other.damage


def test_a_result_and_a_refusal_in_one_line_are_right() -> None:
    verify = ["verify", "bundle"]
    assert fault_of(verify, GOOD, GOOD) is None
    assert fault_of(verify, replace(GOOD, out="0 mismatches in 47 s\n"), GOOD) is None, "times differ"
    for code in (2, 3, 4, 5, 6):
        assert fault_of(verify, replace(REFUSED, code=code), GOOD) is None


@pytest.mark.parametrize(
    ("ran", "fault"),
    [
        (replace(GOOD, out="1 mismatches in 3 s\n"), "another result without a word"),
        (replace(REFUSED, code=1), "exit code 1"),
        (replace(REFUSED, code=7), "exit code 7"),
        (replace(REFUSED, code=-9), "SIGKILL"),
        (replace(REFUSED, code=-14), f"more than {SECONDS} s"),
        (replace(GOOD, seconds=SECONDS + 1.0), f"more than {SECONDS} s"),
        (replace(GOOD, memory=MEMORY + 1), "4.0 GB"),
        (replace(REFUSED, err=""), "0 lines for exit code 2"),
        (replace(REFUSED, err="a warning\n" + REFUSED.err), "2 lines for exit code 2"),
        (replace(REFUSED, err=f"error: {'x' * 3_000}\n"), "an error of 3008 characters"),
        (replace(REFUSED, err="error: \x1b[31mx\n"), "control character"),
        (replace(GOOD, err="Traceback (most recent call last):\nKeyError: 1\n"), "a traceback: KeyError: 1"),
    ],
)
def test_anything_else_is_a_fault(ran: Ran, fault: str) -> None:
    assert fault in (fault_of(["verify", "bundle"], ran, GOOD) or "")


@pytest.mark.parametrize("name", ["a.json", "a.yaml", "a.txt", "a.safetensors", "a.net"])
def test_every_kind_of_damage_changes_a_file_and_repeats_by_its_seed(campaign: Campaign, tmp_path: Path, name: str) -> None:
    sources = {
        "a.json": "model/config.json",
        "a.yaml": "recipe.yaml",
        "a.txt": "text.txt",
        "a.safetensors": "model/model.safetensors",
        "a.net": "one.net",
    }
    content = (campaign.folder / "sources" / sources[name]).read_bytes()
    for damage in dict.fromkeys(damages_of(tmp_path / name)):
        changed = 0
        for seed in range(12):
            found = []
            for _ in range(2):
                folder = tmp_path / "work"
                folder.mkdir()
                path = folder / name
                path.write_bytes(content)
                words = damage(Random(seed), path)
                known = path.is_file() and not path.is_symlink() and path.stat().st_size < 2**30
                found.append((words, path.read_bytes() if known else b"", known))
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                path.unlink(missing_ok=True)
                folder.rmdir()
            assert found[0] == found[1] or damage.__name__ == "hdf5_item", damage  # HDF5 writes times
            assert found[0][0] == found[1][0]
            changed += found[0][1] != content
        assert changed >= (0 if damage.__name__ == "swap" else 8), damage
