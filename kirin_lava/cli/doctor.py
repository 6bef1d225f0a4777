"""`doctor`: can this machine convert, and can it run Lava? Versions, limits, and a known spiking layer run on Lava."""

from __future__ import annotations

import importlib.util
import math
import platform
import resource
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import kirin_lava
from kirin_lava.base.errors import BackendError, KirinError
from kirin_lava.base.units import in_bytes
from kirin_lava.export.netx.write import write_segment
from kirin_lava.graph.ops import Linear
from kirin_lava.processes.runtime import require_backend, require_lava, run_job
from kirin_lava.processes.start import block_descriptors, largest_limit
from kirin_lava.spikes.codes import SIGNED
from kirin_lava.tasks.verify.on_lava import run_segment

__all__ = ["Check", "Examination", "examine"]

_PACKAGES = ("torch", "transformers", "numpy", "h5py", "lava-nc", "lava-dl")
_SHARED_MEMORY = 64 * 1024 * 1024


@dataclass(frozen=True)
class Check:
    """One finding: `state` is "ok", "note" (works without it) or "failed"."""

    name: str
    state: str
    detail: str


@dataclass
class Examination:
    """All findings."""

    checks: list[Check] = field(default_factory=list)

    def add(self, name: str, fine: bool, detail: str, needed: bool = True) -> None:
        """Note one finding; what is not needed can only be a note."""
        self.checks.append(Check(name, "ok" if fine else "failed" if needed else "note", detail))

    def require(self) -> None:
        """Raise `BackendError` where a check failed."""
        failed = [check for check in self.checks if check.state == "failed"]
        if failed:
            raise BackendError(f"{len(failed)} checks failed; first: {failed[0].name}: {failed[0].detail}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def table(self) -> Table:
        """One row per check."""
        table = Table(title=f"kirin-lava {kirin_lava.__version__}")
        for column in ("check", "state", "detail"):
            table.add_column(column, overflow="fold")
        for check in self.checks:
            table.add_row(check.name, check.state, check.detail)
        return table


def examine(timeout: float | None = None) -> Examination:
    """Run all checks; the Lava self-test takes some seconds.

    Args:
        timeout: limit in seconds of the Lava run.
    """
    result = Examination()
    result.add("python", True, f"{platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        try:
            result.add(package, True, version(package))
        except PackageNotFoundError:
            result.add(package, False, "not installed", needed=not package.startswith("lava"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = block_descriptors()
    most = "any number" if largest_limit() == math.inf else f"{hard}"
    detail = f"{soft}, raised to {most} at most where Lava needs it; one decoder block on Lava needs about {need}"
    result.add("open files (ulimit -n)", largest_limit() >= need, detail)
    shm = Path("/dev/shm")
    free = shutil.disk_usage(shm).free if shm.is_dir() else 0
    result.add("shared memory", free >= _SHARED_MEMORY, f"{in_bytes(free)} free in {shm}; Lava's channels live there")
    _cuda(result)
    try:
        require_backend("loihi2")
        result.add("loihi2", True, "lava-loihi and a board are within reach", needed=False)
    except BackendError as error:
        result.add("loihi2", False, str(error), needed=False)
    try:
        require_lava()
    except BackendError as error:
        result.add("lava", False, str(error))
        return result
    try:
        detail = _self_test(timeout)
        result.add("spiking layer on Lava", True, detail)
    except KirinError as error:
        result.add("spiking layer on Lava", False, str(error))
    return result


def _cuda(result: Examination) -> None:
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    found = torch.cuda.is_available()
    result.add("cuda", found, torch.cuda.get_device_name() if found else "none; the executor runs on the CPU", needed=False)


def _self_test(timeout: float | None) -> str:
    """A known layer with known codes, natively and from a file in stock lava-dl; the spikes are counted exactly."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-8, 8, (24, 48)).astype(np.int8)
    codes = np.rint(rng.normal(0, 3.5, (6, 48))).astype(np.int64)
    codes[:, :3] *= 20
    linear = Linear("self-test", "codes", "sums", weight, 4, SIGNED)
    spikes, outliers, _ = SIGNED.events(codes)
    expected = codes @ weight.T.astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "self-test.net"
        write_segment(path, linear)
        answer = run_job(run_segment, str(path), linear, codes, timeout=timeout)
    for name, got, wanted in (
        ("spikes", answer.spikes, spikes),
        ("outliers", answer.outliers, outliers),
        ("wrong sums of native processes", int((answer.native != expected).sum()), 0),
        ("wrong sums of stock lava-dl", int((answer.stock != expected).sum()), 0),
    ):
        if got != wanted:
            raise BackendError(f"{got} {name} instead of {wanted}; this Lava installation does not compute what it should")
    counted = f"{spikes} spikes and {outliers} outliers counted exactly"
    return f"{counted}, {2 * expected.size} sums equal, {answer.ms_native:.2f} ms/step"
