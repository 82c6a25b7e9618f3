"""JSON: an object with question, choices and answer on each line, or a list of such objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import RequestError
from .entry import BadRow, Entry
from .fields import CHOICES, QUESTION, Fields, Missing, find_fields, plain, show_found
from .records import read_object

SPACE = re.compile(r"[ \t\r\n]*")
BEGINS_LIST = re.compile(r"\s*\[\s*[\[{\]]")
DECODER = json.JSONDecoder()


def is_json(text: str) -> bool:
    """Whether a text begins as JSON with objects does."""
    return text.lstrip()[:1] == "{" or BEGINS_LIST.match(text) is not None


def read(name: str, text: str) -> Iterator[Entry | BadRow]:
    """name: of the file, for errors. Errors: RequestError, when the file as a whole cannot be used."""
    layouts: dict[tuple[str, ...], Fields | Missing] = {}
    for line, value in _values(name, text):
        if not isinstance(value, Mapping):
            raise RequestError(
                f"{name}: line {line}, column 1: is not an object; expected one object a line, or a list"
            )
        record = _flat(value)
        keys = tuple(key for key in record if record[key] is not None)
        if keys not in layouts:
            layouts[keys] = find_fields(keys)
        fields = layouts[keys]
        if isinstance(fields, Missing):
            remedy = f"give {fields.what}; found: {show_found(keys) or 'nothing'}"
            yield BadRow(line, f'"{fields.key}"', "is missing", remedy)
        else:
            yield read_object(line, record, fields)


def _values(name: str, text: str) -> Iterator[tuple[int, Any]]:
    """Yields each record with the line it begins in."""
    if text.lstrip()[:1] == "[":
        yield from _list(name, text, _skip(text, 0))
        return
    # not splitlines(): JSON may hold U+2028 as it is
    lines = text.split("\n")
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if (found := _wrapped(name, text, lines[first])) is not None:
        yield from found
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _parse(name, number, line)


def _wrapped(name: str, text: str, first_line: str) -> Iterator[tuple[int, Any]] | None:
    """The records of a file that is one object: a question over several lines, or questions in a list under one key.

    None if the file is one of lines.
    """
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(whole, dict):
        return None
    lists = [key for key, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1 and not _is_question(whole):
        return _list(name, text, _find_list(text, lists[0]))
    return None if first_line.strip() == text.strip() else iter([(1, whole)])


def _is_question(value: Mapping[str, Any]) -> bool:
    names = {plain(key) for key in value}
    return bool(names & set(QUESTION)) or bool(names & set(CHOICES))


def _find_list(text: str, name: str) -> int:
    """Returns where the list under a key of the outermost object begins. The text is known to be JSON."""
    at = _skip(text, text.index("{") + 1)
    while True:
        key, at = DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        if key == name:
            return at
        _, at = DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)


def _list(name: str, text: str, at: int) -> Iterator[tuple[int, Any]]:
    """Yields the values of the list that begins at a place, each with its line."""
    line, counted, whole = 1, 0, not text[:at].strip()
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = DECODER.raw_decode(text, at)
        except RecursionError:
            raise RequestError(f"{name}: line {line}: is nested too deeply; expected a list of flat objects") from None
        except ValueError as error:
            raise _not_json(name, getattr(error, "lineno", line), getattr(error, "colno", 1)) from None
        yield line, value
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise _not_json_at(name, text, at)
    if whole and (at := _skip(text, at + 1)) < len(text):
        raise _not_json_at(name, text, at)


def _skip(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    return match.end() if match else at


def _parse(name: str, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        raise RequestError(f"{name}: line {number}: is nested too deeply; expected one flat object") from None
    except ValueError as error:
        raise _not_json(name, number, getattr(error, "colno", 1)) from None


def _not_json_at(name: str, text: str, at: int) -> RequestError:
    return _not_json(name, text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))


def _not_json(name: str, line: int, column: int) -> RequestError:
    return RequestError(
        f"{name}: line {line}, column {column}: is not JSON; expected one object a line, or a list of them"
    )


def _flat(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Unwraps what some sets wrap: {"row": {...}}, and {"question": {"stem": ..., "choices": ...}}."""
    for key in ("row", "question"):
        inner = value.get(key)
        if isinstance(inner, Mapping):
            outer = {name: other for name, other in value.items() if name != key}
            return {**outer, **inner}
    return value
