"""The tokenizer of a GGUF file: byte-pair merges over bytes ("gpt2"), or sentencepiece's ("llama").

How a text is cut before the merges is not in the file, only a name for it (`tokenizer.ggml.pre`). The names that are known are
those below, each as the tokenizer.json of such models has it; another is refused, for a text cut in another way gives other
tokens and nobody would see it. Special tokens are as the file marks them, and whether a text begins with one, too.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

from kirin_lava.base.errors import UnsupportedError, UsageError
from kirin_lava.models.sources.gguf_header import GgufHeader

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

__all__ = ["tokenizer_of"]

_CONTROL, _OWN = 3, 4  # kinds of tokens: special, and added by the user
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGITS = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}  # in one token
_CUTS = ("gpt-2", "smollm", *_DIGITS)


def tokenizer_of(header: GgufHeader) -> PreTrainedTokenizerBase:
    """The tokenizer, with its special tokens and chat template.

    Raises:
        UnsupportedError: another kind of tokenizer. UsageError: what makes one is missing or damaged.
    """
    from transformers import PreTrainedTokenizerFast

    kind = header.text("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        named = f"has a tokenizer of the kind {reprlib.repr(kind)}" if kind else "holds no tokenizer (tokenizer.ggml.model)"
        raise UnsupportedError(f"{header.path} {named}; supported are: gpt2 (byte-pair merges), llama (sentencepiece)")
    tokens: list[str] = header.items("tokenizer.ggml.tokens", str)
    ids = {token: index for index, token in enumerate(tokens)}
    if not tokens or len(ids) != len(tokens):
        twice = next((token for index, token in enumerate(tokens) if ids[token] != index), "")
        problem = f"{reprlib.repr(twice)} is there twice" if tokens else "it is missing or empty"
        raise UsageError(f"{header.path}: tokenizer.ggml.tokens: {problem}: the file is damaged, fetch it again")
    special = _special(header, tokens)
    try:
        made = _byte_pairs(header, ids) if kind == "gpt2" else _sentencepiece(header, ids, special.get("unk_token"))
        _add(made, header, tokens, set(special.values()))
        _frame(made, header, kind, special, ids)
        tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
            tokenizer_object=made,
            chat_template=header.text("tokenizer.chat_template") or None,
            clean_up_tokenization_spaces=False,
            model_input_names=["input_ids", "attention_mask"],
            **special,
        )
    except (UnsupportedError, UsageError):
        raise
    except Exception as error:  # the tokenizers library raises bare exceptions
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(
            f"{header.path}: the tokenizer cannot be made ({reason}): the file is damaged, fetch it again"
        ) from None
    if len(tokenizer) != len(tokens):
        raise UsageError(f"{header.path}: the tokenizer has {len(tokenizer)} tokens, tokenizer.ggml.tokens has {len(tokens)}")
    return tokenizer


def _special(header: GgufHeader, tokens: list[str]) -> dict[str, str]:
    found = {}
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    for name, short in names.items():
        index = header.count(f"tokenizer.ggml.{short}_token_id")
        if index is not None:
            if not 0 <= index < len(tokens):
                raise UsageError(
                    f"{header.path}: tokenizer.ggml.{short}_token_id is {index}, there are {len(tokens)} tokens: the file is "
                    "damaged, fetch it again"
                )
            found[name] = tokens[index]
    return found


def _byte_pairs(header: GgufHeader, ids: dict[str, int]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    cut = header.text("tokenizer.ggml.pre")
    if cut not in _CUTS:
        raise UnsupportedError(
            f"{header.path}: its tokenizer cuts text in a way named {reprlib.repr(cut)} (tokenizer.ggml.pre); supported are: "
            f"{', '.join(_CUTS)}"
        )
    merges = [tuple(merge.split(" ")) for merge in header.items("tokenizer.ggml.merges", str)]
    if not merges or any(len(pair) != 2 for pair in merges):
        problem = "an item is no pair" if merges else "it is missing or empty"
        raise UsageError(f"{header.path}: tokenizer.ggml.merges: {problem}: the file is damaged, fetch it again")
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=cut == "llama-bpe"))
    space = header.flag("tokenizer.ggml.add_space_prefix", False)
    words = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=cut not in _DIGITS)
    if cut == "smollm":
        words = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    elif cut in _DIGITS:
        split = pre_tokenizers.Split(Regex(_WORDS % _DIGITS[cut]), behavior="isolated")
        words = pre_tokenizers.Sequence([split, words])
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(header: GgufHeader, ids: dict[str, int], unknown: str | None) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers.convert_slow_tokenizer import generate_merges

    scores = header.items("tokenizer.ggml.scores", float)
    if len(scores) != len(ids):
        raise UsageError(
            f"{header.path}: tokenizer.ggml.scores has {len(scores)} items, there are {len(ids)} tokens: the file is damaged, "
            "fetch it again"
        )
    merges = generate_merges(ids, dict(zip(ids, scores, strict=True)))
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    space = header.flag("tokenizer.ggml.add_space_prefix", True)
    first = [normalizers.Prepend("▁")] if space else []
    tokenizer.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "▁")])
    last = [decoders.Strip(" ", left=1)] if space else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    return tokenizer


def _add(tokenizer: Tokenizer, header: GgufHeader, tokens: list[str], special: set[str]) -> None:
    """Tokens that are found before a text is cut: those that the file marks, and those with a role."""
    from tokenizers import AddedToken

    kinds = header.items("tokenizer.ggml.token_type", int) or [1] * len(tokens)
    if len(kinds) != len(tokens):
        raise UsageError(
            f"{header.path}: tokenizer.ggml.token_type has {len(kinds)} items, there are {len(tokens)} tokens: the file is "
            "damaged, fetch it again"
        )
    marked = [(token, kind == _CONTROL or token in special) for token, kind in zip(tokens, kinds, strict=True)]
    found = [pair for pair, kind in zip(marked, kinds, strict=True) if pair[1] or kind == _OWN]
    tokenizer.add_tokens([AddedToken(token, special=is_special, normalized=False) for token, is_special in found if token])


def _frame(tokenizer: Tokenizer, header: GgufHeader, kind: str, special: dict[str, str], ids: dict[str, int]) -> None:
    """The tokens that a text begins and ends with."""
    from tokenizers import processors

    begins = kind == "llama" or header.text("tokenizer.ggml.pre") == "llama-bpe"  # where the file does not say
    wanted = {
        "bos_token": header.flag("tokenizer.ggml.add_bos_token", begins),
        "eos_token": header.flag("tokenizer.ggml.add_eos_token", False),
    }
    first, last = (special.get(name) if wanted[name] else None for name in ("bos_token", "eos_token"))
    if first is None and last is None:
        return
    used: list[Any] = [(token, ids[token]) for token in (first, last) if token is not None]

    def around(part: str, number: int) -> list[str]:
        tokens = [first, part, last]
        return [f"{token}:{number}" for token in tokens if token is not None]

    tokenizer.post_processor = processors.TemplateProcessing(
        single=around("$A", 0), pair=around("$A", 0) + around("$B", 1), special_tokens=list(dict.fromkeys(used))
    )
