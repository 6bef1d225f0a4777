"""The tables of the contract and of the file formats are those of the program: nothing is missing, nothing is left over."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import pytest
from safetensors.numpy import load_file

from kirin_lava.graph.ops import CORE_OPS, HOST_OPS
from kirin_lava.graph.ops.integer import INTEGER_OPS, IntegerSum, IntegerZeroPoints
from kirin_lava.methods.known import METHODS
from kirin_lava.models import FAMILIES
from kirin_lava.spikes.codes import CODES
from kirin_lava.spikes.tables import table
from tests.docs.pages import ROOT


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def first_cells(text: str) -> set[str]:
    """Words in backticks of the first column of every table."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def section(text: str, title: str) -> str:
    """From a heading of the second level to the next."""
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_table_of_codes() -> None:
    rows = re.findall(r"^\| `([\w-]+)`[^|]*\| (.+) \|$", section(page("arithmetic.md"), "Codes"), re.MULTILINE)
    assert [name for name, _ in rows] == [code.name for code in CODES]
    for (_, row), code in zip(rows, CODES, strict=True):
        spikes = "none" if code.spike_codes is None else "{} .. {}".format(*code.spike_codes)
        *cells, kernel = (cell.strip() for cell in row.split("|"))
        assert cells == [f"{code.code_min} .. {code.code_max}", spikes, str(code.zero), str(code.window)]
        values = tuple(eval(kernel, {"T": code.window, "t": t}) for t in range(code.window))
        assert values == code.kernel


def test_the_table_of_operations() -> None:
    assert first_cells(section(page("bundle.md"), "The graph")) == {op.__name__ for op in (*CORE_OPS, *HOST_OPS)}


def test_the_table_of_integer_operations() -> None:
    assert first_cells(section(page("bundle.md"), "A graph without a host")) == {op.__name__ for op in INTEGER_OPS}
    assert first_cells(section(page("integer-operations.md"), "Operations")) == {op.__name__ for op in INTEGER_OPS}
    for name, entries, size in re.findall(
        r"^\| `(\w+)` \|.*\| (\d+) \| ([\d,]+) \|$", section(page("integer-operations.md"), "Tables"), re.MULTILINE
    ):
        assert (len(table(name).value), table(name).bytes) == (int(entries), int(size.replace(",", "")))
    for op in INTEGER_OPS:
        assert issubclass(op, IntegerSum | IntegerZeroPoints) or op.stock in page("integer-operations.md"), op


def test_every_method_and_family_is_named() -> None:
    methods = page("methods.md")
    for method in METHODS:
        assert f"\n| `{method.name}` |" in methods and f"\n## {method.title}\n" in methods
    for family in FAMILIES:
        for model_type in family.model_types:
            assert f" {model_type} " in page("families.md"), model_type


@pytest.fixture(params=["out", "opt"])
def bundle(request: pytest.FixtureRequest, bundles: Path) -> Path:
    return bundles / str(request.param)


def test_the_keys_of_the_manifest(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    table = section(page("bundle.md"), "manifest.json")
    assert first_cells(table) == {*manifest, "source.calibration", "source.weights"}
    for key in (*manifest["source"], *manifest["source"]["calibration"], *manifest["facts"]):
        assert f"`{key}`" in table, key
    graph = section(page("bundle.md"), "The graph")
    for op in manifest["blocks"][0]["ops"]:
        row = re.search(rf"^\| (?:`\w+`, )?`{op['kind']}`.*$", graph, re.MULTILINE)
        assert row is not None
        for key in set(op) - {"kind", "name", "input", "output", "place"}:
            assert f"`{key}`" in row[0], f"{op['kind']}: {key}"


def test_every_dataset_of_a_file(bundle: Path) -> None:
    text = page("net.md")
    listed = first_cells(text.partition("\n## ")[0])
    for path in (bundle / "net").iterdir():
        with h5py.File(path) as file:
            found: list[str] = []
            file.visititems(lambda name, node, found=found: found.append(name) if isinstance(node, h5py.Dataset) else None)
            assert set(found) <= listed, set(found) - listed
            meta = json.loads(file["kirin/metadata"][()])
        table = first_cells(section(text, "kirin/metadata"))
        assert set(meta) - {"about", "writer", "logical"} <= table
        for part in ("code", "neuron", "stimulus", "provenance"):
            for key in meta[part]:
                assert f"`{key}`" in section(text, "kirin/metadata"), f"{part}: {key}"


def test_every_array_of_host_and_probe(bundle: Path) -> None:
    text = page("bundle.md")
    for path in (bundle / "probe").iterdir():
        for name in load_file(path):
            assert f"<segment>.{name.rpartition('.')[2]}" in first_cells(section(text, "probe/*.safetensors"))
    embedding = set(load_file(bundle / "host" / "embedding.safetensors"))
    assert embedding <= first_cells(section(text, "host/*.safetensors"))
