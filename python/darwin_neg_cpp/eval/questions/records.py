"""Turns a record, a row of a table or an object of JSON, into a question with its choices and its right one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .answer import read_answer
from .choices import Choices, read_choices, read_text, without_labels
from .entry import BadRow, Claim, Entry, Form, Number
from .fields import NUMBER, PASSAGE, Fields, plain

Read = Callable[[Any], "Choices | str"]


def read_row(line: int, cells: Mapping[str, str], fields: Fields) -> Entry | BadRow:
    """Reads a row of a table, whose cells have no outer white space."""
    return _read(line, cells, fields, read_text)


def read_object(line: int, value: Mapping[str, Any], fields: Fields) -> Entry | BadRow:
    """Reads an object of JSON."""
    return _read(line, value, fields, read_choices)


def _read(line: int, values: Mapping[str, Any], fields: Fields, read: Read) -> Entry | BadRow:
    stem = values[fields.question]
    if not isinstance(stem, str):
        return _wrong_type(line, fields.question, "the text of the question")
    for name, value in values.items():
        text = value.strip() if isinstance(value, str) and plain(name) in PASSAGE else ""
        if text and text not in stem:
            what = "is a text that the question is about, which would not be asked with it"
            return BadRow(line, f'"{name}"', what, f'put it before the question, in "{fields.question}"')
    found = _find_choices(line, values, fields, read)
    if isinstance(found, BadRow):
        return found
    columns, choices = found
    claims = _find_claims(line, values, fields, choices)
    if isinstance(claims, BadRow):
        return claims
    identity = _text(values.get(fields.id))
    if identity is None:
        return _wrong_type(line, fields.id, "a text or a number")
    domains = [values.get(name) or "" for name in fields.domains]
    if not all(isinstance(domain, str) for domain in domains):
        name = next(name for name, domain in zip(fields.domains, domains, strict=True) if not isinstance(domain, str))
        return _wrong_type(line, name, "a text")
    return Entry(
        line=line,
        stem=stem.strip(),
        choices=without_labels(choices.texts),
        right=0,
        id=identity,
        domain=next((domain.strip() for domain in domains if domain.strip()), ""),
        stem_column=f'"{fields.question}"',
        choice_columns=columns,
        id_column=f'"{fields.id if identity else fields.question}"',
        claims=claims,
    )


def _find_choices(
    line: int, values: Mapping[str, Any], fields: Fields, read: Read
) -> tuple[tuple[str, ...], Choices] | BadRow:
    """Returns the choices, and where each of them stands."""
    if fields.choices:
        choices = read(values[fields.choices])
        if isinstance(choices, str):
            return BadRow(line, f'"{fields.choices}"', choices, "give a list of texts, as JSON")
        columns = tuple(f'"{fields.choices}" ({i + 1})' for i in range(len(choices.texts)))
        return columns or (f'"{fields.choices}"',), choices
    names = (fields.right, *fields.wrong) if fields.right else fields.columns
    texts: list[Any] = [values.get(name) for name in names]
    if fields.wrong_list:
        others = read(values[fields.wrong_list])
        if isinstance(others, str):
            return BadRow(line, f'"{fields.wrong_list}"', others, "give a list of texts, as JSON")
        texts += others.texts
    # questions with fewer choices than others have nothing in the last columns
    while texts and texts[-1] is None:
        texts.pop()
    columns = tuple(f'"{name}"' for name in names[: len(texts)])
    columns += tuple(f'"{fields.wrong_list}" ({i + 1})' for i in range(len(texts) - len(columns)))
    for column, text in zip(columns, texts, strict=True):
        if not isinstance(text, str):
            return BadRow(line, column, "is not a text", "give the text of the choice")
    return columns, Choices(tuple(text.strip() for text in texts))


def _find_claims(line: int, values: Mapping[str, Any], fields: Fields, choices: Choices) -> tuple[Claim, ...] | BadRow:
    given = [name for name in fields.answers if values.get(name) not in (None, "")] or fields.answers[:1]
    claims = []
    for name in given:
        right = _find_right(line, name, values.get(name), fields, choices)
        if isinstance(right, BadRow):
            return right
        claims.append(Claim(f'"{name}"', right))
    return tuple(claims)


def _find_right(line: int, name: str, answer: Any, fields: Fields, choices: Choices) -> int | Number | BadRow:
    column = f'"{name}"'
    if isinstance(answer, list):
        if len(answer) != 1:
            return BadRow(line, column, f"names {len(answer)} choices", "one of them must be right")
        answer = answer[0]
    if isinstance(answer, bool) or not isinstance(answer, (int, float, str)):
        return _wrong_type(line, name, "a letter, a text or a number from 0")
    if isinstance(answer, float) and answer.is_integer():  # as pandas writes whole numbers
        answer = int(answer)
    text = str(answer).strip()
    labels = choices.labels or fields.columns
    right = read_answer(
        line,
        column,
        text,
        choices.texts,
        labels,
        letters=fields.letters or bool(choices.labels),
        form=_form(name, fields),
    )
    if isinstance(answer, int) and isinstance(right, BadRow):
        return Number(answer, _form(name, fields), None, len(choices.texts))
    return right


def _form(name: str, fields: Fields) -> Form:
    """What a number under this name is, by the names of the columns."""
    if fields.first == 0:
        return "columns from 0"
    if fields.first == 1:
        return "index of columns from 1" if plain(name) in NUMBER else "columns from 1"
    return "index" if plain(name) in NUMBER else "open"


def _text(value: Any) -> str | None:
    """The text of an id, None if it can be none."""
    if value is None:
        return ""
    return str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else None


def _wrong_type(line: int, name: str, what: str) -> BadRow:
    return BadRow(line, f'"{name}"', f"is not {what}", f"give {what}")
