"""What the command line is handed: numbers that are none, names without end, files of others, outputs that take nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import pytest

from kirin_lava.base.errors import UsageError
from kirin_lava.cli.main import main
from kirin_lava.export.bundle import Bundle
from kirin_lava.export.publish import Place
from kirin_lava.tasks.sampling import Sampling, choose
from tests.conftest import Cli
from tests.hf_models import save_model
from tests.models.test_checkpoint import Refused, edit_config, edit_index

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
NUMBERS = (click.types.IntParamType, click.types.FloatParamType)
NUMERIC = [
    (name, option.opts[-1], option.type)
    for name, command in sorted(main.commands.items())
    for option in command.params
    if isinstance(option.type, NUMBERS)
]
NO_NUMBERS = [
    "nan",
    "NaN",
    "-nan",
    "inf",
    "-inf",
    "Infinity",
    "1e999",
    "-1e999",
    "",
    " ",
    "x",
    "1,5",
    "9" * 5000,
    "0x10",
    "1__0",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("doors") / "model", num_hidden_layers=1)


@pytest.fixture(scope="module")
def bundle(model: Path, cli: Cli) -> Path:
    out = model.parent / "bundle"
    ran = cli("export", "-m", model, "-o", out, "--recipe", "fast", "--num-samples", 1, "--seq-len", 8, "--verify", "none")
    assert ran.code == 0, ran.err
    return out


# ---- numbers ----------------------------------------------------------------------------------------------------------


def test_there_are_numbers() -> None:
    assert len(NUMERIC) >= 25 and {"run", "export", "eval", "budget"} <= {name for name, _, _ in NUMERIC}


@pytest.mark.parametrize(("command", "option", "kind"), NUMERIC, ids=[f"{n} {o}" for n, o, _ in NUMERIC])
def test_numbers_that_are_none_or_out_of_range(cli: Cli, command: str, option: str, kind: Any) -> None:
    """Whatever option is added, it has two ends and takes no NaN."""
    assert kind.min is not None and kind.max is not None, "a numeric option needs a range with two ends"
    outside = [kind.min - 1, kind.max + 1, *([kind.min] if kind.min_open else []), -(10**30), 10**30]
    for value in [*NO_NUMBERS, *map(str, outside)]:
        ran = cli(command, option, value)
        assert (ran.code, ran.out) == (2, ""), value
        assert f"Invalid value for '{option}'" in ran.err.replace("\n", " ") or f"'{option}' / " in ran.err, value
        assert max(map(len, ran.err.splitlines())) < 500


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "-m", "x", "-o", "y", "--layers", "9" * 5000],
        ["export", "-m", "x", "-o", "y", "--layers", "0-" + "9" * 5000],
        ["run", ".", "--device", "cuda:" + "9" * 5000],
    ],
)
def test_numbers_within_words(cli: Cli, arguments: list[str]) -> None:
    ran = cli(*arguments)
    assert ran.code == 2 and "Error: Invalid value for" in ran.err and len(ran.err) < 500


def test_the_coldest_temperature_is_greedy(cli: Cli, bundle: Path) -> None:
    import torch

    logits = torch.tensor([1.0, 9.0, -3.0])
    for temperature in (5e-324, 1e-300, 1e-30):
        assert choose(logits, Sampling(temperature, 2), torch.Generator().manual_seed(0)) == 1
    ran = cli("run", bundle, "--temperature", "1e-320", "--max-new-tokens", 2)
    assert ran.code == 0, ran.err


# ---- names and texts --------------------------------------------------------------------------------------------------

LONG = "x" * 5000


@pytest.mark.parametrize(
    "arguments",
    [
        [LONG],
        [f"--{LONG}"],
        ["inspect", LONG],
        ["inspect", f"--{LONG}", "x"],
        ["export", "-m", LONG, "-o", "out"],
        ["export", "-m", f"./{LONG}", "-o", "out"],
        ["export", "-m", "demo", "-o", LONG],
        ["export", "-m", "demo", "-o", "out", "--recipe", LONG],
        ["export", "-m", "demo", "-o", "out", "--format", LONG],
        ["export", "-m", "demo", "-o", "out", "--verify", LONG],
        ["export", "-m", "demo", "-o", "out", "--layers", LONG],
        ["export", "-m", "demo", "-o", "out", "--device", LONG],
        ["export", "-m", "demo", "-o", "out", "--calibration", LONG],
        ["eval", LONG, "--text", LONG],
        ["report", "{bundle}", "--profile", LONG],
        ["compare", LONG, "-m", "demo"],
    ],
    ids=lambda arguments: " ".join(arguments).replace(LONG, "LONG"),
)
def test_a_long_wrong_name_has_a_short_answer(
    cli: Cli, bundle: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli(*(argument.replace("{bundle}", str(bundle)) for argument in arguments))
    assert ran.code == 2 and ran.out == ""
    assert len(ran.err) < 1000 and ran.err.strip()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "out", ["a\0b", "x" * 300, "a/" * 2000 + "b", ("x" * 200 + "/") * 30], ids=["zero byte", "long name", "deep", "long"]
)
def test_outputs_that_no_system_has(cli: Cli, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["export", "-m", "demo", "-o", out], ["report", ".", "--html", out], ["run", ".", "--stats", out]):
        ran = cli(*command)
        assert ran.code == 2 and "cannot be a path" in ran.err and len(ran.err) < 1000
    for call in (Place, Bundle):
        with pytest.raises(UsageError, match="cannot be a path"):
            call(Path(out))
    assert not any(tmp_path.iterdir())


def test_a_prompt_that_is_no_text(bundle: Path) -> None:
    command: list[Any] = [sys.executable, "-m", "kirin_lava", "run", str(bundle), "--prompt", b"a\xff"]
    ran = subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=120)
    assert ran.returncode == 2 and b"Traceback" not in ran.stderr
    assert ran.stderr.endswith(b"Error: Invalid value for '--prompt': it is no valid UTF-8 (byte 2 of it)\n")


EVIL = "d\x1b[2J\x9b1m\u202ee"


def test_escapes_of_a_foreign_net_stay_on_this_side(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "evil.net"
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"] = EVIL
        layer["shape"] = np.array([3])
        layer["neuron/type"] = EVIL
        layer[f"neuron/{EVIL}"] = 1
    table, coded = cli("inspect", path), cli("inspect", path, "--json")
    assert table.code == coded.code == 0
    assert not {"\x1b", "\x9b", "\u202e"} & set(table.out + coded.out)
    assert "d\\x1b[2J\\x9b1m\\u202ee" in table.out and json.loads(coded.out)["layers"][0]["type"] == EVIL
    with h5py.File(path, "a") as file:
        file["layer"].move("0", EVIL)
    failed = cli("inspect", path)
    assert failed.code == 2 and "\x1b" not in failed.err and "d\\x1b[2J" in failed.err and failed.err.count("\n") == 1


def test_escapes_in_the_name_of_a_model(cli: Cli, tmp_path: Path) -> None:
    folder = save_model(tmp_path / EVIL, num_hidden_layers=1)
    out = tmp_path / f"{EVIL}.out"
    small = ["--recipe", "fast", "--num-samples", 1, "--seq-len", 8]
    for command in (["export", "-m", folder, "-o", out, *small], ["inspect", out], ["inspect", out, "--json"]):
        ran = cli(*command)
        assert ran.code == 0 and not {"\x1b", "\x9b", "\u202e"} & set(ran.out + ran.err)
    (folder / "config.json").write_text(json.dumps({"model_type": EVIL}))
    for failing in (["export", "-m", folder, "-o", tmp_path / "b"], ["inspect", folder / "config.json"]):
        ran = cli(*failing)
        assert ran.code in (2, 3) and ran.err.count("\n") == 1 and not {"\x1b", "\x9b", "\u202e"} & set(ran.out + ran.err)


@pytest.mark.parametrize("where", ["type", "neuron/type", "neuron/note"])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_type_of_megabytes(cli: Cli, tmp_path: Path, where: str, fixed: bool) -> None:
    path = tmp_path / "big.net"
    with h5py.File(path, "w") as file:
        texts = {"type": "dense", "neuron/type": "LOIHI"} | {where: "x" * 5_000_000}
        for name, text in texts.items():
            file[f"layer/0/{name}"] = np.bytes_(text) if fixed else text
    ran = cli("inspect", path)
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert f"layer/0/{where}: is a string of 5000000 letters, at most 4096 are read" in ran.err


# ---- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [("pipe", "is a pipe, not"), ("zero", "is a device, not"), ("gone", "leads nowhere")],
)
def test_files_of_a_checkpoint_that_are_none(refused: Refused, tmp_path: Path, name: str, kind: str, message: str) -> None:
    folder = save_model(tmp_path / "model", num_hidden_layers=1)
    (folder / name).unlink()
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero" if kind == "zero" else "nowhere")
    assert f"{folder / name} {message}" in refused(2, folder)


@pytest.mark.parametrize("name", ["x" * 300 + ".safetensors", "a\0b.safetensors"])
def test_shards_whose_name_no_system_has(refused: Refused, tmp_path: Path, name: str) -> None:
    folder = save_model(tmp_path / "model", num_hidden_layers=1)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": "x"}}))
    edit_index(folder, lambda names: names.update({"model.norm.weight": name}))
    said = refused(2, folder)
    assert "the weight file" in said and "is missing" in said and len(said) < 700


def test_a_pipe_in_the_place_of_any_other_file(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    small = ["--num-samples", 1, "--seq-len", 8]
    for command in (
        ["inspect", pipe],
        ["export", "-m", "demo", "-o", tmp_path / "out", "--recipe", pipe],
        ["export", "-m", "demo", "-o", tmp_path / "out", "--calibration", pipe, *small],
        ["eval", bundle, "--text", pipe],
        ["report", bundle, "--profile", pipe],
        ["export", "-m", pipe, "-o", tmp_path / "out"],
        ["report", bundle, "--text", pipe],
    ):
        ran = cli(*command)
        assert (ran.code, ran.err) == (2, f"error: {pipe} is a pipe, not a regular file\n"), command


@pytest.mark.parametrize("name", ["manifest.json", "host/blocks.0.safetensors", "net/head.lm_head.net", "config.json"])
def test_a_pipe_in_a_bundle(cli: Cli, bundle: Path, tmp_path: Path, name: str) -> None:
    import shutil

    broken = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (broken / name).unlink()
    os.mkfifo(broken / name)
    ran = cli("run", broken, "--max-new-tokens", 1)
    assert ran.code == 2 and ran.err.count("\n") == 1 and name in ran.err


BOMB = "a0: &a0 {x: 1, y: 2}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 40)}]}}\n" for i in range(1, 6))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: 2024-99-99\nabout: x", "missing entries"),
        ("title: " + "9" * 6000, "line 1: a number of 6000 digits"),
        (BOMB, "line 2: aliases (*name) are not taken"),
        ("title: a\ntitle: b", "an entry is there twice"),
        ("? " + "a" * 5000 + "\n: 1", "unknown entry aaa"),
        ("", "expected entries, found NoneType"),
        ("[" * 5000, "nested more than 100 deep"),
        ("title: .nan", ".nan is not a finite number"),
    ],
    ids=["date", "digits", "bomb", "twice", "long", "empty", "deep", "nan"],
)
def test_hostile_profiles(cli: Cli, bundle: Path, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    ran = cli("report", bundle, "--profile", path)
    assert ran.code == 2 and ran.err.count("\n") == 1 and message in ran.err and len(ran.err) < 700


def test_sizes_that_fit_the_number(cli: Cli, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("kirin_lava.tasks.export.shutil.disk_usage", lambda path: usage._replace(free=1234))
    ran = cli("export", "-m", model, "-o", tmp_path / "out")
    assert ran.code == 2 and "has 1.23 kB free, the bundle may need 1" in ran.err and "kB; give another folder" in ran.err


def test_giant_numbers_in_a_config(refused: Refused, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", num_hidden_layers=1)
    edit_config(folder, rope_theta=10**400)
    assert "rope_theta is a number of 401 digits" in refused(2, folder)


# ---- what cannot be written -------------------------------------------------------------------------------------------

PRINTING: list[list[Any]] = [
    ["--help"],
    ["--version"],
    ["export", "--help"],
    ["inspect", "{bundle}"],
    ["inspect", "{bundle}", "--json"],
    ["verify", "{bundle}", "--backend", "reference"],
    ["run", "{bundle}", "--max-new-tokens", "2"],
    ["eval", "{bundle}", "--text", "{text}", "--seq-len", "8", "--csv"],
    ["export", "-m", "{model}", "-o", "out", "--dry-run"],
    ["export", "-m", "{model}", "-o", "out", "--dry-run", "--json"],
    ["budget", "-m", "{model}", "--num-samples", "1", "--seq-len", "8", "--share", "0.5"],
]


def run_into(stdout: io.TextIOBase | None, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Exit code of a command that writes to this output."""
    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


@pytest.mark.parametrize("arguments", PRINTING, ids=lambda arguments: " ".join(arguments))
@pytest.mark.parametrize("where", ["full", "closed pipe", "nowhere"])
def test_outputs_that_take_nothing(
    bundle: Path,
    model: Path,
    tmp_path: Path,
    arguments: list[str],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A text to evaluate on, of one paragraph and no more than that.\n")
    monkeypatch.chdir(tmp_path)
    filled = [a.format(bundle=bundle, model=model, text=text) for a in arguments]
    if where == "full":
        with open("/dev/full", "w") as full:
            code = run_into(full, filled, monkeypatch)
        said = capsys.readouterr().err
        assert (code, said) == (2, "error: writing to the standard output failed: No space left on device\n")
    elif where == "closed pipe":
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as gone:
            code = run_into(gone, filled, monkeypatch)
        assert (code, capsys.readouterr().err) == (141, "")
    elif "help" not in arguments[-1] and "version" not in arguments[-1]:
        code = run_into(None, filled, monkeypatch)
        assert code == 2 and capsys.readouterr().err.startswith("error: there is no standard output to write to")


@pytest.mark.parametrize("command", [["--help"], ["inspect", "{bundle}", "--json"]], ids=lambda command: command[0])
def test_a_full_disk_behind_the_output_of_the_program(bundle: Path, command: list[str]) -> None:
    """With what Python itself would say at its end."""
    words = [sys.executable, "-m", "kirin_lava", *(word.format(bundle=bundle) for word in command)]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, timeout=120)
    assert (ran.returncode, ran.stderr) == (2, "error: writing to the standard output failed: No space left on device\n")
    shell = subprocess.run(
        ["bash", "-o", "pipefail", "-c", 'for i in 1; do "$@"; done | head -c 1', "-", *words],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=120,
    )
    assert shell.stderr == "" and shell.returncode in (0, 141)  # what is short is taken whole
    closed = subprocess.run(
        ["bash", "-c", '"$@" >&-', "-", *words], capture_output=True, text=True, env=ENVIRONMENT, timeout=120
    )
    assert "Traceback" not in closed.stderr and closed.returncode in (0, 2)
