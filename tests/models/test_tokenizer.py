"""Tokenizers that are there in another form, or not at all: what is missing is named, and so is the package that helps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kirin_lava.base.errors import UsageError
from kirin_lava.models import tokenizer as module
from kirin_lava.models.tokenizer import TOKENIZER_FILES, load_tokenizer
from tests.conftest import Cli
from tests.hf_models import save_model
from tests.models.test_checkpoint import Refused

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkpoint without any file of a tokenizer."""
    folder = save_model(tmp_path / "bare", num_hidden_layers=1)
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
    return folder


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tokenizer.model as Llama has it: BPE with byte fallback."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    text = folder / "text.txt"
    text.write_text("once upon a time there was a little cat and the cat sat on a mat\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=285,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return (folder / "tokenizer.model").read_bytes()


def test_tokenizer_model_alone(cli: Cli, tmp_path: Path, sentencepiece_model: bytes) -> None:
    """As the first Llama checkpoints have it; the bundle keeps it and runs."""
    folder = save_model(tmp_path / "llama", num_hidden_layers=1, vocab_size=400)
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model)
    loaded = load_tokenizer(folder)
    ids = loaded("once upon a cat").input_ids
    assert loaded.decode(ids, skip_special_tokens=True) == "once upon a cat" and ids[0] == loaded.bos_token_id
    out = tmp_path / "out"
    ran = cli("export", "-m", folder, "-o", out, "--recipe", "fast", "--num-samples", 1, "--seq-len", 8, "--verify", "none")
    assert ran.code == 0, ran.err
    assert (out / "tokenizer.model").read_bytes() == sentencepiece_model
    assert cli("run", out, "--prompt", "once", "--max-new-tokens", 2).code == 0


@pytest.mark.parametrize("package", ["sentencepiece", "protobuf", "both"])
def test_the_package_that_helps_is_named(
    bare: Path, sentencepiece_model: bytes, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "tokenizer.model").write_bytes(sentencepiece_model)
    gone = {"sentencepiece": ["sentencepiece"], "protobuf": ["google.protobuf"], "both": ["sentencepiece", "google.protobuf"]}
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in gone[package] else sys)
    with pytest.raises(UsageError) as caught:
        load_tokenizer(bare)
    names = "sentencepiece protobuf" if package == "both" else package
    assert f"`pip install {names}`, or copy tokenizer.json beside it" in str(caught.value)


def test_no_file_of_a_tokenizer(refused: Refused, bare: Path) -> None:
    said = refused(2, bare)
    assert (
        f"{bare} has no tokenizer: neither tokenizer.json nor tokenizer.model nor vocab.json with merges.txt is there" in said
    )
    assert "copy these files from the model that it was made from" in said


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config.json": b"{}", "special_tokens_map.json": b"{}"}, "has no tokenizer: neither"),
        ({"tekken.json": b"{}"}, "(tekken.json, of Mistral's own package, is not read)"),
        ({"vocab.json": b"{}"}, "of the tokenizer, merges.txt is missing; copy it from"),
        ({"merges.txt": b"a b"}, "of the tokenizer, vocab.json is missing; copy it from"),
        ({"tokenizer.model": b"IQ== 0\nIg== 1\n"}, "is a list of tokens as tiktoken has it, not a sentencepiece model: copy"),
        ({"tokenizer.model": b"no model"}, "the tokenizer cannot be loaded ("),
        ({"tokenizer.model": b""}, "the tokenizer cannot be loaded ("),
        *(
            ({name: POINTER}, f"{name} is a pointer of git-lfs, not the file itself: run `git lfs pull`")
            for name in TOKENIZER_FILES
        ),
        ({"tokenizer.json": b"{}", "tokenizer_config.json": POINTER}, "tokenizer_config.json is a pointer of git-lfs"),
    ],
    ids=str,
)
def test_parts_of_a_tokenizer(refused: Refused, bare: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (bare / name).write_bytes(content)
    said = refused(2, bare)
    assert message in said and len(said) < 700


def test_a_tokenizer_without_end(refused: Refused, bare: Path) -> None:
    with open(bare / "tokenizer.json", "wb") as file:
        file.truncate(1 << 40)
    assert "tokenizer.json has 1.10 TB, at most 268 MB are read" in refused(2, bare)
