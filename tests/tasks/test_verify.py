"""Verification finds what was changed, says where, and knows what it cannot do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from kirin_lava.base.errors import BackendError, UsageError, VerificationError
from kirin_lava.base.files import load_arrays, save_arrays
from kirin_lava.export.bundle import Bundle
from kirin_lava.tasks.verify import Row, Verification, verify
from tests.conftest import Cli, Ran
from tests.hf_models import save_model

ROOT = Path(__file__).parents[2]
KINDS = {"llama": "kirin-w4a4-8", "opt": "kirin-w4a4-12"}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Callable[[str], Path]:
    """Bundles of one layer and the head, by family; not to be changed."""
    folder = tmp_path_factory.mktemp("verify")

    def make(kind: str) -> Path:
        out = folder / f"{kind}-bundle"
        if not out.exists():
            model = save_model(folder / kind, kind, num_hidden_layers=1)
            small = ["--recipe", KINDS[kind], "--num-samples", 2, "--seq-len", 12]
            ran = cli("export", "-m", model, "-o", out, *small, "--verify", "none")
            assert ran.code == 0, ran.err
        return out

    return make


@pytest.fixture
def bundle(pristine: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine("llama"), tmp_path / "bundle"))


def check(cli: Cli, bundle: Path) -> Ran:
    ran = cli("verify", bundle, "--backend", "reference")
    assert ran.err.count("\n") == (0 if ran.code == 0 else 1)
    return ran


def set_weight(bundle: Path, segment: str, neuron: int, line: int, value: int) -> int:
    """Change one weight in a `.net`; returns what it was."""
    with h5py.File(bundle / f"net/{segment}.net", "r+") as file:
        weight = file["layer/0/weight"]
        old = int(weight[neuron, line])
        weight[neuron, line] = value
    return old


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_exported_is_verified(cli: Cli, pristine: Callable[[str], Path], kind: str) -> None:
    ran = check(cli, pristine(kind))
    assert ran.code == 0
    assert re.search(r"verified: \d+ integers compared \(reference, closed form, stepped\), 0 mismatches\n$", ran.out)
    assert Bundle(pristine(kind)).manifest["verified"] is False, "only Lava can say so"


@pytest.mark.parametrize("segment", ["blocks.0.attn.qkv", "blocks.0.attn.o", "blocks.0.mlp.gate_up", "head.lm_head"])
def test_one_weight_in_a_net(cli: Cli, bundle: Path, segment: str) -> None:
    block, name = segment.split(".attn")[0].split(".mlp")[0].removesuffix(".lm_head"), segment.removeprefix("blocks.0.")
    probe = Bundle(bundle).probes(block)[name.removeprefix("head.")]
    windows = len(probe.codes)
    line = int((probe.codes != 0).sum(0).argmax())
    neuron = probe.result.shape[1] // 2
    old = set_weight(bundle, segment, neuron, line, 0)
    new = old + 1 if old < 7 else old - 1
    set_weight(bundle, segment, neuron, line, new)
    wrong = np.flatnonzero(probe.codes[:, line])
    first = int(wrong[0])
    expected = int(probe.result[first, neuron])
    got = expected + (new - old) * int(probe.codes[first, line])
    compared = sum(3 * p.result.size for b in ("blocks.0", "head") for p in Bundle(bundle).probes(b).values())
    ran = check(cli, bundle)
    assert ran.code == 4 and 0 < len(wrong) <= windows
    assert ran.err == (
        f"error: {3 * len(wrong)} of {compared} integers differ; first: {segment}, reference, window {first}, "
        f"neuron {neuron}: expected {expected}, got {got}\n"
    )
    row = next(line for line in ran.out.splitlines() if segment in line.split())
    assert row.split()[-1] == str(3 * len(wrong))
    assert "NOT VERIFIED" in ran.out


def test_one_weight_of_a_segment_that_fires(cli: Cli, pristine: Callable[[str], Path], tmp_path: Path) -> None:
    """Here codes are compared, not sums: a small change may be rounded away, but then the file's hash tells."""
    opt = Path(shutil.copytree(pristine("opt"), tmp_path / "opt"))
    probe = Bundle(opt).probes("blocks.0")["mlp.fc1"]
    neuron = int((probe.result > 0).sum(0).argmax())
    line = int(np.abs(probe.codes.astype(int)).sum(0).argmax())
    old = set_weight(opt, "blocks.0.mlp.fc1", neuron, line, 0)
    for change in (1, -1):
        set_weight(opt, "blocks.0.mlp.fc1", neuron, line, int(np.clip(old + change, -127, 127)))
        ran = check(cli, opt)
        assert ran.code == 4
        assert re.search(r"blocks\.0\.mlp\.fc1, reference, window \d+, neuron \d+: exp|fc1\.net is not the file", ran.err)
    set_weight(opt, "blocks.0.mlp.fc1", neuron, line, -np.sign(old) * 64)
    ran = check(cli, opt)
    assert ran.code == 4 and re.search(rf"mlp\.fc1, reference, window \d+, neuron {neuron}: expected \d+, got \d+\n$", ran.err)


def test_a_weight_that_no_window_uses_is_found_by_the_hash(cli: Cli, bundle: Path) -> None:
    path = bundle / "probe/blocks.0.safetensors"
    arrays = load_arrays(path)
    codes = arrays["attn.o.codes"].copy()
    codes[:, 3] = 0
    arrays["attn.o.codes"] = codes
    save_arrays(path, arrays)
    set_weight(bundle, "blocks.0.attn.o", 1, 3, 7)
    probe = Bundle(bundle).probes("blocks.0")["attn.o"]
    segment = next(s for s in Bundle(bundle).segments("blocks.0", intact=False) if s.linear.name == "attn.o")
    arrays["attn.o.result"] = (probe.codes.astype(np.int64) @ segment.linear.weight.astype(np.int64).T).astype(np.int32)
    save_arrays(path, arrays)
    ran = check(cli, bundle)
    assert ran.code == 4
    assert re.fullmatch(r"error: (net|probe)/.* is not the file that was exported \(2 such files\)\n", ran.err)


def test_host_arrays_probes_and_everything_else(cli: Cli, bundle: Path) -> None:
    """A byte in the middle of any file: exit 4 where the file can still be read, 2 where it cannot; never 0."""
    codes = {}
    for name in sorted(Bundle(bundle).manifest["files"]):
        path = bundle / name
        whole = path.read_bytes()
        place = len(whole) - 5 if name.endswith(".safetensors") else len(whole) // 2
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        ran = check(cli, bundle)
        codes[name] = ran.code
        assert Path(name).name in ran.err or "integers differ; first: " in ran.err, name
        path.write_bytes(whole)
    assert set(codes.values()) <= {2, 4}
    # a probe's code may be one that no probe has; what says nothing of that is found by its hash
    assert all(code == 4 for name, code in codes.items() if not name.startswith(("net/", "probe/"))), codes
    assert check(cli, bundle).code == 0


def test_random_bytes_in_nets_are_never_verified(cli: Cli, bundle: Path) -> None:
    rng = np.random.default_rng(0)
    nets = sorted((bundle / "net").iterdir())
    for _ in range(25):
        path = nets[rng.integers(len(nets))]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        assert check(cli, bundle).code in (2, 4)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("codes", lambda a: a[:, :-1]),
        ("result", lambda a: a[:, :-1]),
        ("codes", lambda a: np.full_like(a, 3000)),
        ("codes", lambda a: np.full_like(a, -128)),
    ],
)
def test_probes_of_another_segment(cli: Cli, bundle: Path, part: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = bundle / "probe/blocks.0.safetensors"
    arrays = load_arrays(path)
    save_arrays(path, {**arrays, f"attn.o.{part}": change(arrays[f"attn.o.{part}"])})
    ran = check(cli, bundle)
    assert ran.code == 2 and "attn.o" in ran.err


def test_a_missing_probe(cli: Cli, bundle: Path) -> None:
    path = bundle / "probe/blocks.0.safetensors"
    save_arrays(path, {key: array for key, array in load_arrays(path).items() if not key.startswith("attn.o.")})
    ran = check(cli, bundle)
    assert ran.code == 2 and "has no probe of attn.o" in ran.err


def test_nothing_compared_is_nothing_verified() -> None:
    empty = Verification("segment", ("reference",))
    assert empty.summary().startswith("NOT VERIFIED")
    with pytest.raises(VerificationError, match="nothing was compared"):
        empty.require()
    row = Row("a", "read", 1, 2, 8, 0, 0, 0)
    with pytest.raises(VerificationError, match=r"shape \(1, 3\) instead of \(1, 2\)"):
        empty.note(row, "native", np.zeros((1, 2), int), np.zeros((1, 3), int))


def test_an_unknown_level(bundle: Path) -> None:
    with pytest.raises((UsageError, BackendError), match=r"unknown level 'all'|Lava"):
        verify(bundle, level="all")


# ---- where Lava is missing --------------------------------------------------------------------------------------------

WITHOUT_LAVA = '''
import sys
from importlib.machinery import PathFinder


class NoLava(PathFinder):
    """Finds everything but Lava, its distributions included."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "lava" else PathFinder.find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, context):
        return iter(()) if str(context.name).startswith("lava") else PathFinder.find_distributions(context)


sys.meta_path[:] = [NoLava if finder is PathFinder else finder for finder in sys.meta_path]
'''
COMMANDS_WITHOUT_LAVA = """
import json, sys
from click.testing import CliRunner
from kirin_lava.cli.main import main
for line in sys.stdin:
    result = CliRunner().invoke(main, json.loads(line))
    print(json.dumps([result.exit_code, result.stdout, result.stderr, repr(result.exception)]))
assert not any(name.partition(".")[0] == "lava" for name in sys.modules)
"""


def test_without_lava(pristine: Callable[[str], Path], tmp_path: Path) -> None:
    """Everything but running Lava works; what needs Lava says so before anything is read."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_LAVA)
    bundle = Path(shutil.copytree(pristine("llama"), tmp_path / "bundle"))
    broken = tmp_path / "broken"
    broken.mkdir()
    model = str(bundle.parent / "model")
    save_model(Path(model), num_hidden_layers=1)
    export = ["export", "-m", model, "--recipe", "fast", "--num-samples", "1", "--seq-len", "8"]
    commands = [
        ["verify", str(broken)],
        ["verify", str(bundle), "--level", "block"],
        ["verify", str(bundle), "--level", "model", "--backend", "reference"],
        [*export, "-o", str(tmp_path / "lava"), "--verify", "lava"],
        ["run", str(broken), "--backend", "lava"],
        ["verify", str(bundle), "--backend", "reference"],
        [*export, "-o", str(tmp_path / "reference"), "--verify", "reference"],
        ["run", str(bundle), "--max-new-tokens", "2"],
        ["inspect", str(bundle)],
        ["inspect", str(bundle / "net/head.lm_head.net")],
    ]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS_WITHOUT_LAVA],
        input="\n".join(map(json.dumps, commands)),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(answers) == len(commands)
    for command, (code, out, err, exception) in zip(commands, answers, strict=True):
        needs = commands.index(command) < 5
        assert code == (6 if needs else 0), (command, err, exception)
        if needs:
            assert (out == "" and err.startswith("error: ") and err.count("\n") == 1 and "Lava" in err) or "lava-nc" in err
    assert not (tmp_path / "lava").exists() and not (tmp_path / "lava.partial").exists()
    assert (tmp_path / "reference" / "manifest.json").is_file()


# ---- on Lava ----------------------------------------------------------------------------------------------------------


@pytest.mark.lava
def test_lava_marks_a_bundle_as_verified_and_takes_it_back(cli: Cli, bundle: Path) -> None:
    ran = cli("verify", bundle, "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["backends"] == ["reference", "closed form", "stepped", "native", "stock"] and result["mismatches"] == 0
    manifest = Bundle(bundle).manifest
    assert manifest["verified"] is True and manifest["verification"]["segment"]["compared"] == result["compared"]
    assert manifest["physical_fit_verified"] is False
    times = manifest["verification"]["segment"]["milliseconds_per_step"]
    assert set(times) == {"native", "stock"} and all(ms > 0 for ms in times.values())
    probe = Bundle(bundle).probes("blocks.0")["mlp.down"]
    line = int((probe.codes != 0).sum(0).argmax())
    old = set_weight(bundle, "blocks.0.mlp.down", 5, line, 0)
    set_weight(bundle, "blocks.0.mlp.down", 5, line, old + 1 if old < 7 else old - 1)
    again = cli("verify", bundle, "--json")
    assert again.code == 4 and "blocks.0.mlp.down, reference, window" in again.err
    row = next(r for r in json.loads(again.out)["rows"] if r["name"] == "blocks.0.mlp.down")
    assert row["mismatches"] == 5 * int((probe.codes[:, line] != 0).sum()), "all five backends see it"
    manifest = Bundle(bundle).manifest
    assert manifest["verified"] is False and manifest["verification"]["segment"]["mismatches"] == row["mismatches"]


@pytest.mark.lava
def test_a_limit_that_is_too_short(cli: Cli, bundle: Path) -> None:
    ran = cli("verify", bundle, "--timeout", 0.2)
    assert ran.code == 6 and ran.out == "" and "passed its limit of 0.2 s" in ran.err and "--timeout" in ran.err
    assert Bundle(bundle).manifest["verified"] is False
