"""GGUF files as they should not be: each is refused in one line, whatever it claims, and nothing is written."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from kirin_lava.base.errors import KirinError, UsageError
from kirin_lava.models.checkpoint import open_checkpoint
from kirin_lava.models.sources import gguf_header
from kirin_lava.models.sources.gguf_header import read_gguf
from tests.conftest import Cli
from tests.gguf_models import save_gguf
from tests.models.test_checkpoint import Refused


def text(value: str | bytes) -> bytes:
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def whole(
    entries: list[bytes],
    tensors: list[bytes],
    data: bytes = b"\0" * 64,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    numbers = counts or (len(tensors), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, *numbers) + b"".join(entries) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


NUMBER = entry("a", 4, struct.pack("<I", 1))
LARGE = 1 << 60
CASES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is no GGUF file: it does not begin with the letters GGUF"),
    "other letters": (b"GGML" + b"\0" * 60, "is no GGUF file"),
    "letters alone": (b"GGUF", "the version would take 4 bytes, 0 are left (byte 4 of 4)"),
    "counts cut off": (b"GGUF\3\0\0\0\1\0", "the counts would take 16 bytes, 2 are left"),
    "many tensors": (whole([], [], counts=(LARGE, 0)), f"it claims {LARGE} tensors, at most 16384 are read"),
    "many entries": (whole([], [], counts=(0, LARGE)), f"it claims {LARGE} entries, at most 4096 are read"),
    "fewer entries than claimed": (whole([NUMBER], [], b"", counts=(0, 5)), "the key of an entry is ''"),
    "a long key": (
        whole([struct.pack("<Q", LARGE)], []),
        f"the key of an entry would have {LARGE} bytes, at most 1024 are read",
    ),
    "a long string": (whole([entry("a", 8, struct.pack("<Q", LARGE))], []), f"a would take {LARGE} bytes, "),
    "no UTF-8": (whole([entry("a", 8, text(b"\xff\xfe"))], []), "a is no UTF-8"),
    "a key that is no UTF-8": (whole([entry(b"\xff", 4, b"\0" * 4)], []), "the key of an entry is no UTF-8"),
    "an unknown type of entry": (whole([entry("a", 77, b"")], []), "a has the unknown type 77"),
    "a name with a line end": (whole([], [tensor("a\nb")]), r"the name of a tensor is 'a\nb'"),
    "a key with a line end": (whole([entry("a\nb", 77, b"")], []), r"the key of an entry is 'a\nb'"),
    "an entry twice": (whole([NUMBER, NUMBER], []), "the entry a is there twice"),
    "a long array": (whole([entry("a", 9, struct.pack("<IQ", 8, LARGE))], []), f"a would hold {LARGE} items, "),
    "a long array of bytes": (whole([entry("a", 9, struct.pack("<IQ", 0, 1 << 40))], []), "a would hold 1099511627776 items"),
    "an array of arrays": (whole([entry("a", 9, struct.pack("<IQ", 9, 1))], []), "a is an array of the unknown type 9"),
    "a long second item": (
        whole([entry("a", 9, struct.pack("<IQ", 8, 2) + text("b") + struct.pack("<Q", 500))], []),
        "item 1 of a would take 500 bytes, 94 are left",
    ),
    "an item that is no UTF-8": (
        whole([entry("a", 9, struct.pack("<IQ", 8, 2) + text("b") + text(b"\xff"))], []),
        "item 1 of a is",
    ),
    "a long item": (whole([entry("a", 9, struct.pack("<IQQ", 8, 1, LARGE))], []), f"item 0 of a would take {LARGE} bytes, "),
    "an odd alignment": (
        whole([entry("general.alignment", 4, struct.pack("<I", 3))], []),
        "general.alignment is 3, not a power",
    ),
    "no alignment": (whole([entry("general.alignment", 4, struct.pack("<I", 0))], []), "general.alignment is 0, not a power"),
    "a word for an alignment": (whole([entry("general.alignment", 8, text("x"))], []), "general.alignment is 'x', not a power"),
    "no axes": (whole([], [tensor("t", ())]), "the tensor t has 0 axes"),
    "many axes": (whole([], [text("t") + struct.pack("<I", 1 << 31)]), "the tensor t has 2147483648 axes"),
    "a width of nothing": (whole([], [tensor("t", (0, 4))]), "the tensor t has shape (4, 0)"),
    "part of a block": (whole([], [tensor("t", (33,), 2)]), "rows of t have 33 values, which Q4_0 packs by 32"),
    "a large shape": (whole([], [tensor("t", (1 << 40, 1 << 40, 1 << 40))]), "the tensor t of shape"),
    "beyond the end": (whole([], [tensor("t", (17,))]), "the tensor t of shape (17,) takes 68 bytes, 64 are left for it"),
    "an offset beyond the end": (whole([], [tensor("t", (4,), 0, 1 << 62)]), "takes 16 bytes, 0 are left for it"),
    "an odd offset": (whole([], [tensor("t", (4,), 0, 8)]), "the tensor t begins at 8, no multiple of 32"),
    "a tensor twice": (whole([], [tensor("t"), tensor("t", offset=32)]), "the tensor t is there twice"),
    "one over another": (whole([], [tensor("t", (9,)), tensor("u", offset=32)]), "the tensors t and u overlap"),
    "the same place": (whole([], [tensor("t"), tensor("u")]), "the tensors t and u overlap"),
}
UNSUPPORTED: dict[str, tuple[bytes, str]] = {
    "version 1": (whole([], [], version=1), "has version 1 of GGUF; supported are: 2, 3"),
    "version 4": (whole([], [], version=4), "has version 4 of GGUF; supported are: 2, 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is a big-endian GGUF file; supported are: little-endian ones"),
    "an unknown type": (whole([], [tensor("t", kind=99)]), "the tensor t has type 99, which is not known"),
    "no architecture": (whole([NUMBER], [tensor("t")]), "states no general.architecture; supported are: GGUF files of llama"),
    "a part": (whole([entry("split.count", 2, b"\2\0")], []), "is one of 2 parts of a model"),
}


@pytest.mark.parametrize("name", [*CASES, *UNSUPPORTED])
def test_the_head(refused: Refused, tmp_path: Path, name: str) -> None:
    """By the command, which leaves nothing behind."""
    content, message = CASES.get(name) or UNSUPPORTED[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    said = refused(2 if name in CASES else 3, path)
    assert message in said and str(path) in said and len(said) < 600


def test_heads_that_are_whole(tmp_path: Path) -> None:
    """Every type of an entry, version 2, an alignment, an empty array: what is refused above is not refused for its form."""
    values = [
        entry(f"k{kind}", kind, struct.pack(f"<{layout}", value))
        for kind, layout, value in [
            *[(0, "B", 200), (1, "b", -3), (2, "H", 40000), (3, "h", -5), (4, "I", 7), (5, "i", -8), (6, "f", 0.5)],
            *[(7, "?", True), (10, "Q", 1 << 63), (11, "q", -(1 << 62)), (12, "d", 0.1)],
        ]
    ]
    values += [entry("text", 8, text("é")), entry("general.alignment", 4, struct.pack("<I", 64))]
    values += [entry("none", 9, struct.pack("<IQ", 5, 0)), entry("flags", 9, struct.pack("<IQ", 7, 2) + b"\1\0")]
    values += [
        entry("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text("")),
        entry("few", 9, struct.pack("<IQ3h", 3, 3, 1, -2, 3)),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 2, 2, len(values)) + b"".join(values)
    head += tensor("t", (2, 3), 1) + tensor("u", (32,), 8, 64)
    path = tmp_path / "model.gguf"
    path.write_bytes(head + b"\0" * (-len(head) % 64) + b"\0" * 98)
    found = read_gguf(path)
    assert list(found.values.values()) == [
        *[200, -3, 40000, -5, 7, -8, 0.5, True, 1 << 63, -(1 << 62), 0.1, "é", 64],
        *[[], [True, False], ["a", ""], [1, -2, 3]],
    ]
    assert found.values["k7"] is True and type(found.values["k0"]) is int
    start = len(head) + -len(head) % 64
    assert [(t.name, t.shape, t.dtype, t.start - start, t.size) for t in found.tensors.values()] == [
        ("t", (3, 2), "F16", 0, 12),
        ("u", (32,), "Q8_0", 64, 34),
    ]


def test_items_of_many_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_header, "_MOST_ITEMS", 7)
    path = tmp_path / "model.gguf"
    arrays = [entry(name, 9, struct.pack("<IQ4b", 1, 4, 1, 2, 3, 4)) for name in "ab"]
    path.write_bytes(whole(arrays[:1], []))
    assert read_gguf(path).values == {"a": [1, 2, 3, 4]}
    path.write_bytes(whole(arrays, []))
    with pytest.raises(UsageError, match="with b arrays hold 8 items, at most 7 are read"):
        read_gguf(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "model.gguf"
    save_gguf(path, matrices="Q4_0", num_hidden_layers=1)
    return path.read_bytes()


def test_cut_off_anywhere(tmp_path: Path, model: bytes) -> None:
    """Each of 200 places, and within the last tensor: no cut passes for a file."""
    path = tmp_path / "model.gguf"
    for length in [*range(0, len(model) - 1, len(model) // 200), len(model) - 1 - 32]:
        path.write_bytes(model[:length])
        with pytest.raises(KirinError) as caught:
            read_gguf(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "missing", "holes", "dangling", "loop"])
def test_what_is_no_regular_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "model.gguf"
    expected = {
        "pipe": "is a pipe, not a regular file",
        "device": "is a device, not a regular file",
        "folder": "config.json does not exist",
        "missing": "model.gguf does not exist",
        "holes": "it has more holes than content",
        "dangling": "model.gguf leads nowhere",
        "loop": "model.gguf cannot be opened: Too many levels of symbolic links",
    }
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "holes":
        with path.open("wb") as file:
            file.write(b"GGUF\3\0\0\0")
            file.truncate(1 << 40)
    elif kind in ("dangling", "loop"):
        path.symlink_to("nowhere" if kind == "dangling" else path.name)
    monkeypatch.chdir(tmp_path)
    for model, options in ((path, ()), ("model.gguf", ()), ("model.gguf", ("--dry-run",))):  # a bare name is no hub id
        ran = cli("export", "-m", model, "-o", tmp_path / "out", *options)
        assert (ran.code, ran.out) == (2, "") and ran.err.count("\n") == 1 and expected[kind] in ran.err


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model)
    checkpoint = open_checkpoint(str(path))
    path.write_bytes(model[:-40])
    last: Any = max(checkpoint.source._header.tensors.values(), key=lambda tensor: tensor.start)  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=f"tensor {re.escape(last.name)} ends early: the file has changed"):
        checkpoint.source.read(next(e for e in checkpoint.source.entries().values() if e.key == last.name))
    path.unlink()
    with pytest.raises(UsageError, match=r"model\.gguf does not exist"):
        checkpoint.load("lm_head.weight", (260, 32))
