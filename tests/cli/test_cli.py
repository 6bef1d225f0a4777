"""The command line: what it prints where, how wide, in which colour, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from rich.table import Table

from kirin_lava import __version__
from kirin_lava.base.console import print_json, print_table, survive_any_text
from kirin_lava.cli.main import main
from kirin_lava.export.bundle import Bundle
from kirin_lava.methods.recipes import recipe_help, recipe_names
from kirin_lava.tasks.prompt import stop_ids
from tests.conftest import Cli
from tests.hf_models import save_model

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SMALL = ["--recipe", "fast", "--num-samples", 1, "--seq-len", 8]
COMMANDS = sorted(main.commands)
HEAVY = set("torch transformers tokenizers numpy scipy lava h5py huggingface_hub safetensors sentencepiece rich".split())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("cli") / "model", num_hidden_layers=1)


@pytest.fixture(scope="module")
def bundle(model: Path, cli: Cli) -> Path:
    out = model.parent / "bundle"
    ran = cli("export", "-m", model, "-o", out, *SMALL)
    assert ran.code == 0, ran.err
    return out


def in_a_process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kirin_lava", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**ENVIRONMENT, **environment}, timeout=300)


# ---- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=lambda c: " ".join(c) or "main")
def test_help_is_whole_and_narrow(cli: Cli, command: list[str]) -> None:
    ran = cli(*command, "--help")
    assert ran.code == 0 and ran.err == ""
    assert max(map(len, ran.out.splitlines())) <= 80
    if not command:
        assert "..." not in ran.out.partition("Commands:")[2], "a command's line is cut"
        assert all(re.search(rf"^  {name} +[A-Z]", ran.out, re.M) for name in COMMANDS)
        assert all(f"{code}  " in ran.out for code in (0, 1, 2, 3, 4, 5, 6, 130))
    for parameter in (main.commands[command[0]] if command else main).params:
        if isinstance(parameter, click.Option):
            assert parameter.help and parameter.opts[-1] in ran.out


@pytest.mark.parametrize("command", [[], ["export"], ["compare"]])
def test_recipes_have_a_line_each(cli: Cli, command: list[str]) -> None:
    assert cli(*command, "-h").out.partition("Recipes:\n")[2].splitlines() == [f"  {x}" if x else "" for x in recipe_help()]
    assert [x.split()[0] for x in recipe_help() if x.split()[:1] and x.split()[0] in recipe_names()] == recipe_names()


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS), ["export"], ["nonsense"]], ids=" ".join
)
def test_nothing_heavy_is_loaded_to_say_what_there_is(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom kirin_lava.cli.main import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        f"    print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert ran.stderr.splitlines()[-1] == "[]"
    if arguments == ["--version"]:
        assert ran.stdout == f"kirin-lava, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "-o", "x"], "Missing option '-m'"),
        (["export", "-m", "x"], "Missing option '-o'"),
        (["export", "-m", "x", "-o", "y", "--layers", "a-b"], "'a-b' is no layer or range of layers such as 0-3"),
        (["export", "-m", "x", "-o", "y", "--layers", "-1"], "'-1' is no layer"),
        (["export", "-m", "x", "-o", "y", "--layers", "1-"], "'1-' is no layer"),
        (["export", "-m", "x", "-o", "y", "--layers", "²"], "is no layer"),
        (["export", "-m", "x", "-o", "y", "--layers", ""], "'' is no layer"),
        (["export", "-m", "x", "-o", "y", "--seed", "-1"], "-1 is not in the range"),
        (["export", "-m", "x", "-o", "y", "--seed", str(2**64)], "is not in the range"),
        (["export", "-m", "x", "-o", "y", "--num-samples", "0"], "0 is not in the range 1<=x<="),
        (["export", "-m", "x", "-o", "y", "--seq-len", "1"], "1 is not in the range 2<=x<="),
        (["export", "-m", "x", "-o", "y", "--timeout", "0"], "0.0 is not in the range 0<x<="),
        (["export", "-m", "x", "-o", "y", "--calibration", "/none"], "'/none' does not exist"),
        (["export", "-m", "x", "-o", "y", "--verify", "some"], "'some' is not one of"),
        (["verify"], "Missing argument 'BUNDLE'"),
        (["verify", "/none"], "'/none' does not exist"),
        (["run", ".", "--device", "tpu"], "'tpu' is none of cpu, cuda, cuda:0"),
        (["run", ".", "--device", "cuda:x"], "'cuda:x' is none of"),
        (["run", ".", "--device", "cpu:1"], "'cpu:1' is none of"),
        (["run", ".", "--temperature", "-1"], "-1.0 is not in the range 0<=x<="),
        (["eval", ".", "--text", "/none"], "'/none' does not exist"),
        (["eval", "."], "Missing option '--text'"),
    ],
)
def test_usage_errors(cli: Cli, arguments: list[str], message: str) -> None:
    ran = cli(*arguments)
    assert ran.code == 2 and ran.out == ""
    assert message in ran.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(cli: Cli, bundle: Path) -> None:
    ran = cli("run", bundle, "--device", "cuda")
    assert (ran.code, ran.err) == (6, "error: cuda: PyTorch sees 0 CUDA devices here; leave out --device\n")


# ---- output -----------------------------------------------------------------------------------------------------------


def test_export_prints_a_table_and_a_line(model: Path, cli: Cli, tmp_path: Path) -> None:
    ran = cli("export", "-m", model, "-o", tmp_path / "out", *SMALL)
    assert ran.code == 0 and ran.err == ""
    assert re.search(
        r"\nmodel -> .*out by fast: 5 segments, \d+ kB, \d+\.\d s, peak memory [\d.]+ [MG]B, digest [0-9a-f]{16}\n$", ran.out
    )
    quiet = cli("export", "-m", model, "-o", tmp_path / "quiet", *SMALL, "--verify", "none", "-q")
    assert quiet.code == 0 and quiet.out.count("\n") == 1


def test_json_is_all_there_is_on_stdout(model: Path, bundle: Path, cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A short text to evaluate on, of one paragraph.\n")
    exported = cli("export", "-m", model, "-o", tmp_path / "out", *SMALL, "--json")
    values: dict[str, Any] = json.loads(exported.out)
    assert values["digest"] == Bundle(bundle).digest() and values["segments"] == 5
    assert values["verification"]["mismatches"] == 0 and values["verification"]["compared"] > 0
    verified = json.loads(cli("verify", bundle, "--backend", "reference", "--json").out)
    assert verified["compared"] == values["verification"]["compared"]
    assert json.loads(cli("inspect", bundle, "--json").out)["digest"] == values["digest"]
    assert json.loads(cli("inspect", bundle / "net/blocks.0.attn.o.net", "--json").out)
    evaluated = json.loads(cli("eval", bundle, "--text", text, "--seq-len", 16, "--json", "--layer-errors").out)
    assert evaluated["tokens"] > 0 and evaluated["perplexity"] > 0
    whole, layers = (
        list(csv.DictReader(io.StringIO(cli("eval", bundle, "--text", text, "--seq-len", 16, "--csv", *more).out)))
        for more in ([], ["--layer-errors"])
    )
    assert [float(line["ratio"]) for line in whole] == [evaluated["ratio"]]
    assert [(line["segment"], float(line["local_db"])) for line in layers] == [
        (error["segment"], error["local_db"]) for error in evaluated["layer_errors"]
    ]


def test_a_budget_as_csv(model: Path, cli: Cli) -> None:
    command = ["budget", "-m", model, "--num-samples", 1, "--seq-len", 8, "--share", 0.5]
    values = json.loads(cli(*command, "--json").out)
    lines = list(csv.DictReader(io.StringIO(cli(*command, "--csv").out)))
    chosen = {line["site"]: float(line["ratio"]) for line in lines if line["chosen"] == "True"}
    assert chosen == values["sites"] and len(lines) == sum(len(curve["ratios"]) for curve in values["curves"])


def test_json_has_no_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("inf"), -float("inf"), float("nan"), 1.5, (2, True)], "b": None, "ü": "…"})
    said = capsys.readouterr().out
    assert json.loads(said) == {"a": [None, None, None, 1.5, [2, True]], "b": None, "ü": "…"} and "ü" in said


@pytest.mark.parametrize("columns", ["20", "80", "300"])
def test_tables_are_whole_at_any_width(bundle: Path, cli: Cli, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    net = bundle / "net/head.lm_head.net"
    for command in (["verify", bundle, "--backend", "reference"], ["inspect", bundle], ["inspect", net]):
        ran = cli(*command)
        assert ran.code == 0 and "…" not in ran.out and "\x1b" not in ran.out
    for command in (["verify", bundle, "--backend", "reference"], ["inspect", bundle]):
        lines = cli(*command).out.splitlines()
        for name in ("blocks.0.attn.qkv", "blocks.0.mlp.gate_up", "head.lm_head"):
            row = [line for line in lines if name in line.split()]
            assert (len(row) == 1 and "read" in row[0].split()) or "linear" in row[0].split()


def test_names_are_no_markup(model: Path, cli: Cli, tmp_path: Path) -> None:
    """Brackets in a file name would be taken for colours, or for an error."""
    out = tmp_path / "[bold]x[/italic] :smile:"
    assert cli("export", "-m", model, "-o", out, *SMALL).code == 0
    for arguments in (["inspect", out], ["verify", out, "--backend", "reference"]):
        assert cli(*arguments).code == 0
    assert "[bold]x[/italic] :smile:" in " ".join(cli("inspect", out).out.split())  # the title may be cut into lines
    failed = cli("verify", tmp_path, "--backend", "reference")
    assert failed.code == 2 and failed.err == f"error: {tmp_path} is no bundle: it has no manifest.json\n"


def test_run_streams_the_text_and_tells_the_rest_on_stderr(bundle: Path, cli: Cli, tmp_path: Path) -> None:
    stats = tmp_path / "stats.json"
    ran = cli("run", bundle, "--prompt", "Once", "--max-new-tokens", 5, "--stats", stats)
    assert ran.code == 0 and ran.out.startswith("Once") and ran.out.endswith("\n")
    assert re.match(r"\d tokens by the reference backend, .* spikes, .*\n$", ran.err) and ran.err.count("\n") == 1
    assert json.loads(stats.read_text())
    again = cli("run", bundle, "--prompt", "Once", "--max-new-tokens", 5)
    assert again.out == ran.out
    drawn = {cli("run", bundle, "--temperature", 5, "--seed", seed, "--max-new-tokens", 8).out for seed in (0, 0, 1, 2)}
    assert 1 < len(drawn) <= 3


def test_generation_ends_where_the_source_says(bundle: Path, tmp_path: Path) -> None:
    values: list[tuple[Any, set[int]]] = [(7, {7}), ([7, 9], {7, 9}), (None, {1}), ("7", {1}), ([2.5, None], {1}), ({}, {1})]
    config = json.loads((bundle / "config.json").read_text())
    assert config["eos_token_id"] == 1 and stop_ids(bundle) == {1} and stop_ids(tmp_path) == set()
    (tmp_path / "config.json").write_text(json.dumps(config))
    for value, ids in values:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
        assert stop_ids(tmp_path) == ids


def test_stats_of_another_backend_are_refused_before_it_runs(bundle: Path, cli: Cli, tmp_path: Path) -> None:
    ran = cli("run", bundle, "--backend", "stock", "--stats", tmp_path / "stats.json")
    assert ran.code == 2 and ran.out == "" and "--stats counts on the reference backend" in ran.err


def test_a_prompt_that_fills_the_context(bundle: Path, cli: Cli) -> None:
    ran = cli("run", bundle, "--prompt", "x" * 64)
    assert ran.code == 2 and "the prompt has 64 tokens, the model's context 64: shorten it" in ran.err


def test_text_that_the_terminal_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", write_through=True))
    survive_any_text()
    print_table(Table("größe", title="☕"))
    print_json({"é": "\udcff"})
    said = raw.getvalue().decode("ascii")
    assert "gr\\xf6\\xdfe" in said and "\\u2615" in said and json.loads(said[said.index("{") :].replace("\\xe9", "é"))


def test_a_reader_that_leaves_early(bundle: Path) -> None:
    command = [sys.executable, "-m", "kirin_lava", "inspect", str(bundle), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert "Traceback" not in said and "Error" not in said


def hears_ctrl_c() -> None:
    """In a child before it starts: a shell that runs the tests in the background has switched Ctrl-C off for them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# ---- terminals --------------------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: object, **environment: str) -> tuple[int, str]:
    """Exit code and everything that a terminal of 80 columns saw."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", **environment})
        os.execv(sys.executable, [sys.executable, "-m", "kirin_lava", *map(str, arguments)])
    seen = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the way in which Linux says that nobody is left
            break
        if not part:
            break
        seen += part
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), seen.decode(errors="replace")


def test_colours_are_for_terminals_that_want_them(tmp_path: Path) -> None:
    arguments = ["verify", tmp_path / ("x" * 100), "--backend", "reference", "-q"]
    (tmp_path / ("x" * 100)).mkdir()
    code, seen = on_a_terminal(*arguments)
    assert code == 2 and "\x1b[31merror: " in seen
    code, seen = on_a_terminal(*arguments, NO_COLOR="1")
    assert code == 2 and "\x1b[3" not in seen
    assert seen.strip().count("\n") == 0, "only the terminal breaks a line"


def test_a_bar_on_terminals(model: Path, tmp_path: Path) -> None:
    arguments = ["export", "-m", model, "-o", tmp_path / "out", *SMALL, "--verify", "none"]
    code, seen = on_a_terminal(*arguments, NO_COLOR="1")
    assert code == 0 and "convert layers" in seen


# ---- Ctrl-C -----------------------------------------------------------------------------------------------------------


def processes_of(marker: str) -> list[int]:
    """Processes whose environment holds the marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def interrupt(arguments: list[object], ready: Callable[[], bool], marker: str) -> tuple[int, str]:
    """Start a command, press Ctrl-C once it is `ready`; exit code and stderr."""
    command = [sys.executable, "-m", "kirin_lava", *map(str, arguments)]
    environment = {**ENVIRONMENT, "KIRIN_TEST_MARKER": marker}
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        start_new_session=True,
        preexec_fn=hears_ctrl_c,
    )
    assert process.stderr is not None
    try:
        deadline = time.monotonic() + 120
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    return process.returncode, said


def test_ctrl_c_leaves_no_bundle(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", num_hidden_layers=40)
    out = tmp_path / "out"
    ready = tmp_path / "out.partial" / "probe" / "blocks.1.safetensors"
    code, said = interrupt(["export", "-m", model, "-o", out, *SMALL], ready.exists, str(tmp_path))
    assert (code, said) == (130, "interrupted\n")
    assert not out.exists() and ready.exists()
    assert processes_of(str(tmp_path)) == []


def test_ctrl_c_that_a_library_turns_into_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise OSError("cannot read this file") from None

    monkeypatch.setattr("kirin_lava.cli.doctor.examine", read)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ran = CliRunner().invoke(main, ["doctor"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert (ran.exit_code, ran.stderr) == (130, "interrupted\n")


@pytest.mark.lava
def test_ctrl_c_while_lava_runs_leaves_no_process(bundle: Path, tmp_path: Path) -> None:
    """The second process of the marker is the Lava job."""
    marker = f"{tmp_path}/marker"
    code, said = interrupt(["verify", bundle], lambda: len(processes_of(marker)) >= 3, marker)
    assert (code, said) == (130, "interrupted\n")
    assert processes_of(marker) == []
    assert Bundle(bundle).manifest["verified"] is False
