"""Ctrl-C at chosen moments: pressed by an import hook when a module is about to be loaded, whatever the machine's speed.

`swallow` does what compiled modules do with an exception that is raised while they are initialised: it is lost.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kirin_lava.cli.interrupt import Interrupt
from tests.conftest import Cli
from tests.hf_models import save_model

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
PRESS = """
import os, runpy, signal, sys
target, how, witness, *arguments = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background switches it off
class Finder:
    def find_spec(self, name, path=None, module=None):
        if name == target and not os.path.exists(witness):
            open(witness, "w").close()
            if how == "swallow":
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                    for _ in range(1000): pass
                except BaseException:
                    pass
            elif how == "translate":
                try:
                    os.kill(os.getpid(), signal.SIGINT)
                    for _ in range(1000): pass
                except BaseException as error:
                    raise ImportError("a library in the middle of its start") from None
            else:
                os.kill(os.getpid(), signal.SIGINT)
        return None
sys.meta_path.insert(0, Finder())
sys.argv = ["kirin-lava", *arguments]
runpy.run_module("kirin_lava", run_name="__main__", alter_sys=True)
"""
AT_START = ["kirin_lava.cli.main", "click", "kirin_lava.methods.recipes", "yaml"]
BEFORE_THE_WORK = ["kirin_lava.tasks.generate", "numpy", "torch", "torch._C", "h5py", "h5py._errors", "rich.console"]
IN_THE_WORK = ["transformers.models.auto.tokenization_auto", "transformers.tokenization_utils_fast"]
HOW = ["raise", "swallow", "translate"]
FIRST = [*AT_START[:3], "torch._C", "h5py._errors", IN_THE_WORK[0]]  # all of them, in `run`
# the others in `run` and `export` by turns, those that come first, and what only `export` loads, in `export`
OTHERS = [
    (target, how, "export" if target in FIRST or target == "yaml" or (i + j) % 2 else "run")
    for i, target in enumerate([AT_START[3], *BEFORE_THE_WORK, *IN_THE_WORK])
    for j, how in enumerate(HOW)
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    model = save_model(folder / "model", num_hidden_layers=1)
    small = ["--recipe", "fast", "--num-samples", 1, "--seq-len", 8, "--verify", "none"]
    ran = cli("export", "-m", model, "-o", folder / "bundle", *small)
    assert ran.code == 0, ran.err
    return folder / "bundle"


def press(target: str, how: str, witness: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in which Ctrl-C is pressed when `target` is imported first."""
    command = [sys.executable, "-c", PRESS, target, how, str(witness), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert witness.exists(), f"{target} was not imported"
    return ran


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("target", FIRST)
def test_ctrl_c_during_an_import(bundle: Path, tmp_path: Path, target: str, how: str) -> None:
    ran = press(target, how, tmp_path / "witness", "run", bundle, "--max-new-tokens", 100)
    assert (ran.returncode, ran.stderr) == (130, "interrupted\n")
    assert not ran.stdout.endswith("\n")  # some text may be out where a library lost the interrupt, but not all of it


@pytest.mark.slow
@pytest.mark.parametrize(("target", "how", "command"), OTHERS)
def test_ctrl_c_during_any_import(bundle: Path, tmp_path: Path, target: str, how: str, command: str) -> None:
    if command == "export":
        arguments: list[object] = ["-m", bundle.parent / "model", "-o", tmp_path / "out", "--num-samples", 1, "--seq-len", 8]
        target = target.replace(".generate", ".export")
    else:
        arguments = [bundle, "--max-new-tokens", 100]
    ran = press(target, how, tmp_path / "witness", command, *arguments)
    assert (ran.returncode, ran.stderr) == (130, "interrupted\n")
    assert not ran.stdout.endswith("\n")  # some text may be out where a library lost the interrupt, but not all of it
    assert not (tmp_path / "out").exists()


def in_this_process(body: str) -> subprocess.CompletedProcess[str]:
    """A command whose work is this body."""
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import kirin_lava.cli.doctor as doctor\n"
        "from kirin_lava.__main__ import main\n"
        "def press():\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0)\n"
        f"def work(*_):\n{body}\n"
        "doctor.examine = work\nsys.argv = ['kirin-lava', 'doctor']\nmain()\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=120)


@pytest.mark.parametrize(
    "body",
    [
        "    press()",
        "    try:\n        press()\n    except BaseException:\n        pass\n    time.sleep(60)",
        "    class Doomed:\n        def __del__(self):\n            press()\n    Doomed()\n    time.sleep(60)",
        "    for _ in range(3):\n        try:\n            press()\n        except KeyboardInterrupt:\n            pass\n"
        "    time.sleep(60)",
        "    try:\n        press()\n    except KeyboardInterrupt:\n        raise OSError('cannot read') from None",
    ],
    ids=["raised", "swallowed", "in a destructor", "pressed often", "another error"],
)
def test_no_interrupt_is_lost(body: str) -> None:
    ran = in_this_process(body)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "interrupted\n")


def test_who_tidies_up_is_not_interrupted_again() -> None:
    """Longer than the time after which a lost interrupt is raised once more."""
    ran = in_this_process(
        "    try:\n        press()\n    finally:\n"
        "        try:\n            raise ValueError\n        except ValueError:\n            time.sleep(0.5)\n"
        "        print('tidy', file=sys.stderr)"
    )
    assert (ran.returncode, ran.stderr) == (130, "tidy\ninterrupted\n")


def test_ctrl_c_that_is_switched_off_stays_off() -> None:
    """As for what a shell starts in the background."""
    code = (
        "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from kirin_lava.__main__ import main\nos.kill(os.getpid(), signal.SIGINT)\nsys.argv = ['x', '--version']\nmain()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "") and ran.stdout.startswith("kirin-lava, version")


def test_the_entry_loads_nothing_before_it_listens() -> None:
    code = "import sys\nbefore = set(sys.modules)\nimport kirin_lava.__main__\nprint(sorted(set(sys.modules) - before))"
    ran = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    ours = {"kirin_lava", "kirin_lava.__main__", "kirin_lava.cli", "kirin_lava.cli.interrupt"}
    light = (
        "__future__ signal _signal enum types importlib importlib._bootstrap importlib._bootstrap_external warnings _warnings"
    )
    assert set(ast.literal_eval(ran.stdout)) - ours <= set(light.split())


def test_used_by_another_program_nothing_stays_changed() -> None:
    import signal

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupt() as interrupt:
            assert signal.getsignal(signal.SIGINT) == interrupt._hear
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        alarm, hook = signal.getsignal(signal.SIGALRM), sys.unraisablehook
        with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
            signal.raise_signal(signal.SIGINT)
        assert interrupt.pressed and sys.unraisablehook is hook
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and signal.getsignal(signal.SIGALRM) == alarm
    finally:
        signal.signal(signal.SIGINT, before)
