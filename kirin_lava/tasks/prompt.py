"""What a model goes on from: plain text, or messages in the form of its chat template; and how its tokens become text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kirin_lava.base.errors import UsageError
from kirin_lava.base.readers import read_json, read_json_list
from kirin_lava.base.terminal import plain_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Message", "Prompt", "Writer", "chat_prompt", "read_messages", "stop_ids", "text_prompt"]

Message = dict[str, Any]
"""At least "role" and "content", both text."""

_MOST_MESSAGES = 1 << 26  # bytes of a file
_ANSWER = "kirin-lava"  # in the place of an answer, to see what a template writes behind one
_BEFORE, _LONGEST = 8, 64  # tokens


@dataclass(frozen=True)
class Prompt:
    """ids: at least one. stops: ids that end the answer beside those of the model. shown: whether people see it as text."""

    ids: list[int]
    stops: frozenset[int] = frozenset()
    shown: bool = True


def text_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> Prompt:
    """A text to go on from; an empty one begins with the token that begins texts."""
    ids: list[int] = tokenizer(text).input_ids
    return Prompt(ids or [tokenizer.bos_token_id or 0])


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], folder: Path) -> Prompt:
    """Messages as the model saw them in training, with the beginning of its answer.

    What the template writes behind an answer ends it, where that is a token of its own.

    Args:
        folder: of the tokenizer, for errors.

    Raises:
        UsageError: there is no chat template, or it does not take these messages.
    """
    check_messages(messages, "the messages")
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(
            f"{folder} has no chat template, so the model was not trained on messages: give a prompt as plain text, or convert "
            "a model that has one (chat_template.jinja, or in tokenizer_config.json)"
        )
    ids = tokenizer(_rendered(tokenizer, messages, folder, True), add_special_tokens=False).input_ids
    if not ids:
        raise UsageError(f"{folder}: the chat template makes no token of these messages; give a prompt as plain text")
    stops = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    return Prompt(list(ids), frozenset(stops | _ends(tokenizer, messages, folder)), shown=False)


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], folder: Path, answer: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer)
    except Exception as error:  # a template is a program, and says by any exception what it does not take
        reason = plain_line(str(error))[:300] or type(error).__name__
        raise UsageError(f"{folder}: the chat template does not take these messages: {reason}") from None
    assert isinstance(text, str)
    return text


def _ends(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], folder: Path) -> set[int]:
    """The special token behind an answer, as a set."""
    try:
        text = _rendered(tokenizer, [*messages, {"role": "assistant", "content": _ANSWER}], folder, False)
    except UsageError:  # an answer does not fit there
        return set()
    behind = text.rpartition(_ANSWER)[2].lstrip()
    first: list[int] = tokenizer(behind, add_special_tokens=False).input_ids[:1]
    special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    return {*first} & special


def read_messages(path: Path) -> list[Message]:
    """Messages from a JSON file, `[{"role": "user", "content": "..."}, ...]`; `UsageError` names what is wrong with it."""
    return check_messages(read_json_list(path, _MOST_MESSAGES), str(path))


def check_messages(messages: Sequence[Any], where: str) -> list[Message]:
    """The messages, if they are some; `UsageError` begins with `where`."""
    if not messages:
        raise UsageError(f"{where}: there is no message; write at least one of a user")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise UsageError(f"{where}: message {number} is no object with a role and a content")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                what = "is no text" if key in message else "is missing"
                like = '{"role": "user", "content": "Hi"}'
                raise UsageError(f'{where}: message {number}: "{key}" {what}; a message is like {like}')
            if any("\ud800" <= letter <= "\udfff" for letter in message[key]):
                raise UsageError(f'{where}: message {number}: "{key}" holds half a character, which no tokenizer knows')
    return list(messages)


def stop_ids(folder: Path) -> set[int]:
    """End-of-text ids of the source's generation config, or of its config where that has none."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = read_json(path).get("eos_token_id") if path.is_file() else None
        ids = {i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
        if ids:
            return ids
    return set()


class Writer:
    """Text of tokens as they come, whole characters alone.

    A token is decoded with the few before it, never with all: the text of a token may depend on what stands before it, but not
    on what stands far before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], hide_special: bool) -> None:
        self._tokenizer, self._hide = tokenizer, hide_special
        self._tokens = list(prompt[-_BEFORE:])
        self._shown = len(self._tokens)  # so many of them are out

    def write(self, token: int) -> str:
        """What one more token adds; nothing while a character is incomplete."""
        self._tokens.append(token)
        before, now = self._decode(self._tokens[: self._shown]), self._decode(self._tokens)
        if now.endswith("\ufffd") and len(self._tokens) - self._shown < _LONGEST:
            return ""
        del self._tokens[: max(0, len(self._tokens) - _BEFORE)]
        self._shown = len(self._tokens)
        return now[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=self._hide)
        return text
