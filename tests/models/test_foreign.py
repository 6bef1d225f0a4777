"""Models in another form: what the folder, the file or the repository of the hub is, and the way out."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.conftest import Cli
from tests.hf_models import save_model
from tests.models.test_checkpoint import Refused

ROOT = Path(__file__).parents[2]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
ADAPTER = {"adapter_config.json": b'{"base_model_name_or_path": "meta/base"}', "adapter_model.safetensors": b"x"}
META = {"params.json": b"{}", "consolidated.00.pth": b"x", "tokenizer.model": b"x", "checklist.chk": b""}
CASES: dict[str, tuple[int, dict[str, bytes], str]] = {
    "adapter": (3, ADAPTER, "holds an adapter of meta/base (LoRA or the like: adapter_config.json), not a whole model: merge"),
    "adapter whose config is damaged": (3, {**ADAPTER, "adapter_config.json": b"{"}, "holds an adapter (LoRA or the like"),
    "adapter of pickles": (3, {"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "holds an adapter (LoRA"),
    "two of gguf": (2, {"q4.gguf": b"GGUF", "q8.GGUF": b"GGUF"}, "but q4.gguf, q8.GGUF: give the file that is meant (-m"),
    "gguf and pickle": (2, {"q4.gguf": b"GGUF", "model.bin": b"x"}, "but q4.gguf beside other models: give the file that is"),
    "meta": (3, META, "has its authors' own layout (params.json, consolidated.00.pth), which is not read: give the checkpoint"),
    "mistral": (3, {"params.json": b"{}", "consolidated.safetensors": b"x", "tekken.json": b"{}"}, "its authors' own layout"),
    "pickle": (2, {"pytorch_model.bin": b"x"}, "pytorch_model.bin is a pickle, which is never opened: save it as safetensors"),
    "pickles": (2, {"pytorch_model-00001-of-00002.bin": b"x"}, "pytorch_model-00001-of-00002.bin is a pickle"),
    "torch": (2, {"model.pt": b"x"}, "model.pt is a pickle, which is never opened"),
    "tensorflow": (2, {"tf_model.h5": b"x"}, "tf_model.h5 holds weights of TensorFlow, which are not read: load it"),
    "flax": (2, {"flax_model.msgpack": b"x"}, "flax_model.msgpack holds weights of Flax"),
    "onnx": (2, {"model.onnx": b"x"}, "model.onnx holds an ONNX graph"),
    "bundle": (2, {"manifest.json": b"{}"}, "is a bundle, not a checkpoint: give the model that it was made from"),
    "cache": (2, {"refs": b"", "snapshots": b"", "blobs": b""}, "is a model in the hub's cache: give a folder in"),
}


@pytest.mark.parametrize("with_config", [False, True], ids=["alone", "with a config"])
@pytest.mark.parametrize("case", CASES)
def test_folders_in_another_form(refused: Refused, cli: Cli, tmp_path: Path, case: str, with_config: bool) -> None:
    code, files, message = CASES[case]
    folder = tmp_path / "model"
    if with_config:
        save_model(folder, num_hidden_layers=1)
        (folder / "model.safetensors").unlink()
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    said = refused(code, folder)
    assert message in said and str(folder) in said and len(said) < 700
    if not with_config:
        ran = cli("export", "-m", folder, "-o", tmp_path / "out", "--dry-run")
        assert (ran.code, ran.err) == (code, said)


def test_nothing_that_tells(refused: Refused, tmp_path: Path) -> None:
    assert f"{tmp_path}/config.json does not exist" in refused(2, tmp_path)
    folder = save_model(tmp_path / "model", num_hidden_layers=1)
    (folder / "model.safetensors").unlink()
    assert f"{folder}: there is no model.safetensors and no model.safetensors.index.json; fetch" in refused(2, folder)


def test_many_gguf_files(refused: Refused, tmp_path: Path) -> None:
    for index in range(9):
        (tmp_path / f"q{index}.gguf").write_bytes(b"GGUF")
    assert "q0.gguf, q1.gguf, q2.gguf, q3.gguf, q4.gguf and 4 more: give the file that is meant" in refused(2, tmp_path)


def test_pointers_of_git_lfs(refused: Refused, cli: Cli, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", num_hidden_layers=1)
    net, text = tmp_path / "a.net", tmp_path / "text.txt"
    for path in (net, text):
        path.write_bytes(POINTER)
    expected = "is a pointer of git-lfs, not the file itself: run `git lfs pull`"
    ran = cli("inspect", net)
    assert (ran.code, ran.err) == (2, f"error: {net} {expected}\n")
    ran = cli("export", "-m", folder, "-o", tmp_path / "out", "--calibration", text)
    assert (ran.code, ran.err) == (2, f"error: {text} {expected}\n")
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_bytes(POINTER)
        assert "git-lfs" in refused(2, folder) and "git lfs pull" in refused(2, folder)


def test_a_net_that_another_program_writes(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "open.net"
    code = (
        f"import h5py, sys\nf = h5py.File({str(path)!r}, 'w')\nf['a'] = 1\nf.flush()\n"
        "print('open', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        ran = cli("inspect", path)
        other.communicate("")
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert f"{path}: another program has it open for writing (HDF5 locks it); close it there" in ran.err


# ---- the hub ----------------------------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does, for repositories that are lists of files."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _answer(self, with_body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.repositories[name]
        headers = {"X-Repo-Commit": "c" * 40}
        if parts[0] == "api":
            siblings = [{"rfilename": file} for file in files]
            body = json.dumps({"id": name, "sha": "c" * 40, "siblings": siblings}).encode()
        elif (file := "/".join(parts[4:])) in files:
            body = files[file]
            headers["ETag"] = f'"{len(body):040x}"'
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    config = (save_model(tmp_path / "for-hub", num_hidden_layers=1) / "config.json").read_bytes()
    Hub.repositories = {f"org/{case.split()[0]}": files for case, (_, files, _) in CASES.items()}
    Hub.repositories["org/gguf"] = {"model.gguf": b"GGUF"}
    Hub.repositories["org/pickle"] = {"config.json": config, "pytorch_model.bin": b"x"}
    Hub.repositories["org/empty"] = {"README.md": b"", "config.json": config}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("gguf", 3, "org/gguf (on the hub) holds a model in GGUF form (model.gguf): fetch one file and give it"),
        ("adapter", 3, "org/adapter (on the hub) holds an adapter (LoRA or the like"),
        ("meta", 3, "org/meta (on the hub) has its authors' own layout"),
        ("pickle", 2, "org/pickle (on the hub): there is no model.safetensors, and pytorch_model.bin is a pickle"),
        ("empty", 2, "it has no model.safetensors"),
    ],
)
def test_repositories_in_another_form(hub: str, tmp_path: Path, name: str, code: int, message: str) -> None:
    """In a process of its own, because huggingface_hub reads its variables when it is loaded."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "kirin_lava", "export", "-m", f"org/{name}", "-o", str(tmp_path / "out")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    lines = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert ran.returncode == code and len(lines) == 1 and message in lines[0], ran.stderr
    assert "Traceback" not in ran.stderr and not (tmp_path / "out").exists()
