"""Keeps the text of messages text: what reads like a control token there is cut where it would become one.

A tokenizer reads `<|im_start|>` as one token wherever it stands in a prompt, also where a user wrote it. Such texts get
a mark inside before the template is rendered; the engine cuts the prompt at the marks, and the pieces are tokenized one
by one. A conversation without such texts is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .token_ids import split_added

_TAG = re.compile(r"[<\[{|]\S*[>\]}|]")
_THINKING = re.compile("think|reason", re.IGNORECASE)
_SHOWN_OF_A_TOOL = ("description", "title", "$comment")
_PRIVATE_USE = range(0xE000, 0xF900)


@dataclass(frozen=True)
class Given:
    """What a template is given. variables: more of them; of these, `documents` are texts that somebody else wrote."""

    messages: list[dict[str, Any]]
    tools: list[Any]
    variables: dict[str, Any]


class Tokenizer(Protocol):
    """What is asked of an engine here, or of whatever stands in its place. See _core.Engine."""

    def model_info(self) -> dict[str, Any]: ...
    def marker_texts(self) -> list[tuple[str, bool]]: ...
    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]: ...
    def detokenize(self, tokens: list[int], special: bool) -> bytes: ...


class UserText:
    """The texts that a model's tokenizer reads as control tokens.

    Those are the control tokens of the vocabulary, and of its other tokens with a fixed text the tags that the chat
    template writes, such as </think>.
    """

    def __init__(self, engine: Tokenizer) -> None:
        self._engine = engine
        template = engine.model_info().get("chat_template") or ""
        control: set[str] = set()
        tags: set[str] = set()
        for text, is_control in engine.marker_texts():
            if len(text) > 1 and (is_control or (_TAG.fullmatch(text) and text in template)):
                (control if is_control else tags).add(text)
        self._everywhere = _pattern(control | tags)
        # a template may look for the tags of the reasoning in what the model has said
        self._of_answers = _pattern({text for text in control if not _THINKING.search(text)})
        self._template = template

    def protect(self, plain: Given) -> tuple[Given, str]:
        """The same with marks, and the mark, or "" where none is needed."""
        if self._marked(plain, "\ue000") == plain:
            return plain, ""
        # a private-use character that nobody has written
        written = self._template + repr(plain)
        mark = next(chr(code) for code in _PRIVATE_USE if chr(code) not in written and f"\\u{code:04x}" not in written)
        return self._marked(plain, mark), mark

    def _marked(self, plain: Given, mark: str) -> Given:
        documents = {
            name: self._mark_values(value, self._everywhere, mark)
            for name, value in plain.variables.items()
            if name == "documents"
        }
        return Given(
            [self._mark_message(message, mark) for message in plain.messages],
            self._mark_described(plain.tools, mark),
            {**plain.variables, **documents},
        )

    def _mark_message(self, message: Mapping[str, Any], mark: str) -> dict[str, Any]:
        pattern = self._of_answers if message.get("role") == "assistant" else self._everywhere
        return {
            name: value if name == "role" else self._mark_values(value, pattern, mark)
            for name, value in message.items()
        }

    def _mark_values(self, value: Any, pattern: re.Pattern[str] | None, mark: str) -> Any:
        if isinstance(value, str):
            return self._mark_text(value, pattern, mark)
        if isinstance(value, Mapping):
            return {
                name: item if name == "type" else self._mark_values(item, pattern, mark) for name, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._mark_values(item, pattern, mark) for item in value]
        return value

    def _mark_described(self, value: Any, mark: str) -> Any:
        """Marks descriptions alone: names and values of a tool's schema are compared with the model's answer."""
        if isinstance(value, Mapping):
            return {
                name: self._mark_text(item, self._everywhere, mark)
                if name in _SHOWN_OF_A_TOOL and isinstance(item, str)
                else self._mark_described(item, mark)
                for name, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._mark_described(item, mark) for item in value]
        return value

    def _mark_text(self, text: str, pattern: re.Pattern[str] | None, mark: str) -> str:
        while pattern is not None and pattern.search(text):  # again, for texts that overlap
            text = pattern.sub(lambda found: self._cut(found[0], mark), text)
        return text

    def _cut(self, text: str, mark: str) -> str:
        """Cuts after the first token that the text would be as plain text."""
        # without its last character it is no control token, also where the tokenizer cannot be told to take it as text
        first = self._engine.tokenize(text[:-1].encode(), False, False)[:1]
        begin = self._engine.detokenize(first, True).decode("utf-8", "replace")
        at = len(begin) if text.startswith(begin) and 0 < len(begin) < len(text) else 1
        return text[:at] + mark + text[at:]


def tokenize_pieces(engine: Tokenizer, pieces: Sequence[str]) -> list[int]:
    """Token ids of a prompt that was cut; start and end tokens as for the whole."""
    whole, begin = engine.tokenize(pieces[0].encode(), True, True), engine.tokenize(pieces[0].encode(), False, True)
    start, end = split_added(whole, begin)
    tokens = start + begin
    newline = engine.tokenize(b"\n", False, False)
    for piece in pieces[1:]:
        # some tokenizers put a space before the first word of a text, but none before one that follows a line break
        after_newline = engine.tokenize(b"\n" + piece.encode(), False, True)
        if after_newline[: len(newline)] == newline:
            tokens += after_newline[len(newline) :]
        else:
            tokens += engine.tokenize(piece.encode(), False, True)
    return tokens + end


def _pattern(texts: set[str]) -> re.Pattern[str] | None:
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first))) if texts else None
