"""The choices of a record where one key holds all of them, in the forms that published sets have."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...protocols.question import LETTERS

TEXT, LABEL = ("text", "content", "value"), ("label", "key", "letter", "id")  # of a choice that is an object
LABELLED = re.compile(r"[(\[（]?([A-Za-z])[)\].:）．、]\s*(\S.*)", re.DOTALL)
ESCAPED = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "\n": ""}
QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
BARE = re.compile(r"[^\s,\[\](){}'\":]+")
END_OF_ARRAY = re.compile(r"\s*(?:,\s*dtype\s*=\s*[\w'\"<>|]+\s*)?\)")
SPACE, SPACE_OR_COMMA = re.compile(r"\s*"), re.compile(r"[\s,]*")
SEPARATORS = ("\n", "|", ";", "\t")
DEEPEST = 8


@dataclass(frozen=True)
class Choices:
    """labels: one for each of the texts, as an answer names them; () if the choices have none."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()


def read_choices(value: Any) -> Choices | str:
    """Returns the choices that a value of JSON holds; or what is wrong with it, as the end of a sentence."""
    if isinstance(value, Mapping):
        return _read_object(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return "is not a list of texts"
    if value and all(isinstance(choice, Mapping) for choice in value):
        texts, labels = ([_first(choice, names) for choice in value] for names in (TEXT, LABEL))
        return _checked(texts, [] if None in labels else labels)
    return _checked(list(value), [])


def read_text(text: str) -> Choices | str:
    """Returns the choices that one cell of a table holds: a list as JSON, Python or NumPy writes it, or parts between
    separators."""
    if text[:1] in "[{" or text.startswith("array("):
        try:
            value = json.loads(text, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            try:
                value = _Literal(text).whole()
            except ValueError:
                return "is not a list that can be read"
        return read_choices(value)
    for separator in SEPARATORS:
        parts = [part.strip() for part in text.strip(separator).split(separator)]
        if len(parts) > 1:
            return _checked(parts, [])
    return "is not a list of texts"


def without_labels(texts: Sequence[str]) -> tuple[str, ...]:
    """Takes off the letters that choices begin with, if all of them do, in order.

    They are shown to the model in another order, under letters of their own.
    """
    matches = [LABELLED.fullmatch(text) for text in texts]
    if any(match is None or match[1].upper() != LETTERS[i % 26] for i, match in enumerate(matches)):
        return tuple(texts)
    return tuple(match[2] for match in matches if match is not None)


def _read_object(value: Mapping[str, Any]) -> Choices | str:
    texts, labels = _first(value, TEXT), _first(value, LABEL)
    if isinstance(texts, list):
        return _checked(texts, labels if isinstance(labels, list) else [])
    if not value or not all(len(str(key)) == 1 and str(key).isalnum() for key in value):
        return "is neither a list of texts nor an object with text and label"
    return _checked(list(value.values()), [str(key) for key in value])


def _checked(texts: Sequence[Any], labels: Sequence[Any]) -> Choices | str:
    if not all(isinstance(text, str) for text in texts):
        return "is not a list of texts"
    if labels and len(labels) != len(texts):
        return f"has {len(texts)} texts and {len(labels)} labels"
    names = tuple(str(label).strip() for label in labels)
    if len(set(names)) < len(names):
        return "has a label twice"
    return Choices(tuple(text.strip() for text in texts), names)


def _first(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((value[name] for name in names if name in value), None)


class _Literal:
    """A reader of what Python and NumPy print for lists, dicts, texts and arrays: their items may stand without commas,
    which Python itself would read as one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def whole(self) -> Any:
        """Returns the value of the whole text. Errors: ValueError."""
        value = self._value(0)
        if self._text[self._at :].strip():
            raise ValueError(self._at)
        return value

    def _value(self, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError(depth)
        self._skip()
        begin = self._text[self._at : self._at + 1]
        if begin in ("'", '"'):
            match = self._match(QUOTED)
            return _unescape(match[1] if match[1] is not None else match[2])
        if begin in ("[", "("):
            self._at += 1
            return self._items("]" if begin == "[" else ")", depth)
        if begin == "{":
            self._at += 1
            return self._pairs(depth)
        if self._take("array("):
            value = self._value(depth + 1)
            self._match(END_OF_ARRAY)
            return value
        return self._match(BARE)[0]

    def _items(self, end: str, depth: int) -> list[Any]:
        items = []
        while not self._take(end):
            items.append(self._value(depth + 1))
            self._match(SPACE_OR_COMMA)
        return items

    def _pairs(self, depth: int) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        while not self._take("}"):
            key = self._value(depth + 1)
            self._skip()
            if not isinstance(key, str) or not self._take(":"):
                raise ValueError(self._at)
            pairs[key] = self._value(depth + 1)
            self._match(SPACE_OR_COMMA)
        return pairs

    def _skip(self) -> None:
        self._match(SPACE)

    def _take(self, word: str) -> bool:
        self._skip()
        if not self._text.startswith(word, self._at):
            return False
        self._at += len(word)
        return True

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(self._at)
        self._at = match.end()
        return match


def _unescape(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        if code is None:
            return CONTROLS.get(found[4], found[0])
        return chr(int(code, 16)) if int(code, 16) < 0x110000 else found[0]

    return ESCAPED.sub(character, text)
