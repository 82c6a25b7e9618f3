"""JSON lines: an object with question, choices and answer on each line, optionally with id and domain (or subject)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...errors import RequestError
from .entry import BadRow, Entry, find_right


def read(name: str, text: str) -> Iterator[Entry | BadRow]:
    """name: of the file, for errors. Errors: RequestError, when the file as a whole cannot be used."""
    # not splitlines(): JSON may hold U+2028 as it is
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _read_object(f"{name}: line {number}", number, _parse(name, number, line))


def _parse(name: str, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except RecursionError:
        raise RequestError(f"{name}: line {number}: is nested too deeply; expected one flat object") from None
    except ValueError as error:
        column = getattr(error, "colno", 1)
        raise RequestError(f"{name}: line {number}, column {column}: is not JSON; expected one object a line") from None
    if not isinstance(value, dict):
        raise RequestError(f"{name}: line {number}, column 1: is not an object; expected one object a line")
    return value


def _read_object(where: str, number: int, value: dict[str, Any]) -> Entry | BadRow:
    """where: file and line, for errors."""
    stem = _get(where, value, "question", str, "the text of the question")
    choices = _get(where, value, "choices", list, "a list of texts")
    if not all(isinstance(choice, str) for choice in choices):
        raise RequestError(f'{where}, column "choices": is not a list of texts; give texts')
    texts = tuple(choice.strip() for choice in choices)
    answer = _get(where, value, "answer", (int, str), "a letter, a text or a number from 0")
    right = _find_right(number, answer, texts)
    if isinstance(right, BadRow):
        return right
    identity = _get_optional(where, value, "id", (str, int), "a text or a number")
    domain = _get_optional(where, value, "domain", str, "a text")
    domain = domain or _get_optional(where, value, "subject", str, "a text")
    return Entry(
        line=number,
        stem=stem.strip(),
        choices=texts,
        right=right,
        id=str(identity).strip(),
        domain=domain.strip(),
        stem_column='"question"',
        choice_columns=tuple(f'"choices" ({i + 1})' for i in range(len(texts))) or ('"choices"',),
        id_column='"id"' if identity != "" else '"question"',
    )


def _find_right(line: int, answer: int | str, choices: tuple[str, ...]) -> int | BadRow:
    if isinstance(answer, str):
        return find_right(line, '"answer"', answer.strip(), choices, letter_first=False)
    if not 0 <= answer < len(choices):
        return BadRow(line, '"answer"', "is not the number of a choice", "they count from 0", quote=str(answer))
    return answer


def _get(where: str, value: dict[str, Any], key: str, kinds: type | tuple[type, ...], what: str) -> Any:
    field = value.get(key)
    if field is None:
        raise RequestError(f'{where}, column "{key}": is missing; give {what}')
    if isinstance(field, bool) or not isinstance(field, kinds):
        raise RequestError(f'{where}, column "{key}": is not {what}; give {what}')
    return field


def _get_optional(where: str, value: dict[str, Any], key: str, kinds: type | tuple[type, ...], what: str) -> Any:
    return "" if value.get(key) is None else _get(where, value, key, kinds, what)
