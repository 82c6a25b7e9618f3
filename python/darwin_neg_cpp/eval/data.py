"""Files of multiple-choice questions: the official form of GPQA, that of MMLU, and JSON lines."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import RequestError
from ..files.input_file import shown, shown_path
from ..files.shown_text import escape_line
from ..protocols.question import LETTERS, Question
from .csv_rows import Row, read_text, rows

Kind = Literal["gpqa", "mmlu", "jsonl"]
KINDS: tuple[Kind, ...] = ("gpqa", "mmlu", "jsonl")

GPQA_QUESTION, GPQA_RIGHT = "Question", "Correct Answer"
GPQA_WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
GPQA_COLUMNS = (GPQA_QUESTION, GPQA_RIGHT, *GPQA_WRONG)
GPQA_ID = "Record ID"
GPQA_DOMAINS = ("High-level domain", "Subdomain")  # the first one that the file has

DIAMOND_FILE, DIAMOND_QUESTIONS = "gpqa_diamond", 198


@dataclass(frozen=True)
class Item:
    """A question with its answer. right: index into question.choices. domain: subject, "" when the file names none."""

    question: Question
    right: int
    domain: str = ""


@dataclass(frozen=True)
class DataSet:
    """file: name without folders. sha256: of the file. skipped: what was left out, one line each."""

    file: str
    kind: Kind
    sha256: str
    items: tuple[Item, ...]
    skipped: tuple[str, ...] = field(default=())

    @property
    def is_diamond(self) -> bool:
        """Whether this is GPQA Diamond, by the file's name and size; the set is gated, so that no hash of it is known here."""
        return (
            self.kind == "gpqa"
            and DIAMOND_FILE in self.file.lower()
            and len(self.items) + len(self.skipped) == DIAMOND_QUESTIONS
        )


class _BadRow(Exception):
    """A record that cannot be used, while the file around it can."""


@dataclass(frozen=True)
class _Entry:
    """A record as read. columns: for errors, the names of where stem, choices and answer stand."""

    line: int
    stem: str
    choices: tuple[str, ...]
    right: int
    id: str
    domain: str
    stem_column: str
    choice_columns: tuple[str, ...]
    id_column: str


def load(path: str | os.PathLike[str], kind: Kind | Literal["auto"] = "auto", *, skip: bool = False) -> DataSet:
    """Reads and checks a whole file.

    kind: its form; "auto" tells them apart by the ending .jsonl and the header. skip: leave out records with an empty or doubled choice or without a right
    answer, instead of refusing the file. Outer white space of cells is dropped. Errors: RequestError with line and column.
    """
    name = shown_path(path)
    text, data = read_text(os.fspath(path))
    if kind == "auto":
        kind = _kind(name, text)
    seen: dict[str, int] = {}
    items: list[Item] = []
    skipped: list[str] = []
    for read in READERS[kind](name, text):
        try:
            entry = read()
            _check(entry)
        except _BadRow as error:
            if not skip:
                raise RequestError(f"{name}: {error}") from None
            skipped.append(str(error))
            continue
        identity = entry.id or "q-" + _digest("\x1f".join((entry.stem, *entry.choices)))
        if identity in seen:
            what = f'the id "{shown(entry.id)}"' if entry.id else "the same question"
            raise RequestError(
                f"{name}: line {entry.line}, column {entry.id_column}: {what} stands in line {seen[identity]} already; make it unique"
            )
        seen[identity] = entry.line
        items.append(Item(Question(entry.stem, entry.choices, identity), entry.right, entry.domain))
    if not items:
        raise RequestError(f"{name}: holds no questions{' that can be used' if skipped else ''}; check the file")
    return DataSet(os.path.basename(path), kind, hashlib.sha256(data).hexdigest(), tuple(items), tuple(skipped))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def _kind(name: str, text: str) -> Kind:
    if name.lower().endswith((".jsonl", ".ndjson")) or text.lstrip().startswith("{"):
        return "jsonl"
    first = next(iter(rows(name, text)), None)
    header = [cell.strip() for cell in first.cells] if first else []
    return "gpqa" if any(column in header for column in GPQA_COLUMNS[1:]) else "mmlu"


def _check(entry: _Entry) -> None:
    where = f"line {entry.line}, column "
    columns = (entry.stem_column, *entry.choice_columns, entry.id_column, '"domain"')
    for column, text in zip(columns, (entry.stem, *entry.choices, entry.id, entry.domain), strict=True):
        # JSON can spell halves of characters, which no tokenizer reads
        if any(0xD800 <= ord(c) < 0xE000 for c in text):
            raise _BadRow(f"{where}{column}: holds a lone surrogate; it is no Unicode text")
    if not entry.stem:
        raise _BadRow(f"{where}{entry.stem_column}: the question is empty; fill it in")
    if not 2 <= len(entry.choices) <= len(LETTERS):
        raise _BadRow(
            f"{where}{entry.choice_columns[0]}: has {len(entry.choices)} choices; a question has 2 to {len(LETTERS)}"
        )
    for column, choice in zip(entry.choice_columns, entry.choices, strict=True):
        if not choice:
            raise _BadRow(f"{where}{column}: the choice is empty; fill it in")
        first = entry.choices.index(choice)
        if entry.choice_columns[first] != column:
            raise _BadRow(
                f"{where}{column}: is the same choice as {entry.choice_columns[first]}; votes for it could not be told apart, change one"
            )


# --- the official form of GPQA


def _gpqa(name: str, text: str) -> Iterator[Callable[[], _Entry]]:
    records = rows(name, text)
    header = next(records, None)
    if header is None:
        raise RequestError(f"{name}: is empty; get it again")
    columns = _columns(name, header)
    for column in GPQA_COLUMNS:
        if column not in columns:
            raise RequestError(
                f'{name}: line {header.line}: the column "{column}" is missing; '
                f"GPQA files have {', '.join(GPQA_COLUMNS)}"
            )
    domain = next((one for one in GPQA_DOMAINS if one in columns), "")
    for row in records:
        cell = _cells(name, row, columns, len(header.cells))

        def read(row: Row = row, cell: dict[str, str] = cell) -> _Entry:
            return _Entry(
                row.line,
                cell[GPQA_QUESTION],
                tuple(cell[one] for one in GPQA_COLUMNS[1:]),
                0,
                cell.get(GPQA_ID, ""),
                cell.get(domain, ""),
                f'"{GPQA_QUESTION}"',
                tuple(f'"{one}"' for one in GPQA_COLUMNS[1:]),
                f'"{GPQA_ID if cell.get(GPQA_ID) else GPQA_QUESTION}"',
            )

        yield read


def _columns(name: str, header: Row) -> dict[str, int]:
    """Where each column stands. Columns that nothing is read from may have the same name twice."""
    columns: dict[str, int] = {}
    for i, cell in enumerate(header.cells):
        column = cell.strip()
        if column in columns and column in (*GPQA_COLUMNS, GPQA_ID, *GPQA_DOMAINS, *MMLU_NAMES):
            raise RequestError(f'{name}: line {header.line}, column "{shown(column)}": is there twice; remove one')
        columns.setdefault(column, i)
    return columns


def _cells(name: str, row: Row, columns: dict[str, int], expected: int) -> dict[str, str]:
    """The cells of a record by column. expected: how many there must be."""
    if len(row.cells) < expected:
        missing = next((column for column, i in columns.items() if i >= len(row.cells)), "")
        raise RequestError(
            f'{name}: line {row.line}, column "{shown(missing)}": is not there: the line has {len(row.cells)} columns, '
            f"the header {expected}; a comma in a cell needs quotes around the cell"
        )
    if len(row.cells) > expected:
        raise RequestError(
            f"{name}: line {row.line}, column {expected + 1}: is one too many: the line has {len(row.cells)} columns, "
            f"the header {expected}; a comma in a cell needs quotes around the cell"
        )
    return {column: row.cells[i].strip() for column, i in columns.items()}


# --- the form of MMLU

MMLU_NAMES = ("question", "answer", "subject", "domain", "id")


def _mmlu(name: str, text: str) -> Iterator[Callable[[], _Entry]]:
    """question, choices, letter of the answer; with a header also subject (or domain) and id, in any order."""
    records = rows(name, text)
    first = next(records, None)
    if first is None:
        raise RequestError(f"{name}: is empty; get it again")
    names = [cell.strip().lower() for cell in first.cells]
    headed = "question" in names
    if headed:
        columns = _columns(name, Row(first.line, tuple(names)))
        letters = [one for one in LETTERS.lower() if one in columns]
        if "answer" not in columns:
            raise RequestError(f'{name}: line {first.line}: the column "answer" is missing; it names the right choice')
        if letters != list(LETTERS.lower()[: len(letters)]) or len(letters) < 2:
            missing = next(one for one in LETTERS.lower() if one not in columns)
            raise RequestError(
                f'{name}: line {first.line}: the column "{missing.upper()}" is missing; the choices stand in A, B and so on'
            )
    else:
        if not 4 <= len(names) <= len(LETTERS) + 2:
            raise RequestError(
                f"{name}: line {first.line}, column {min(len(names), len(LETTERS) + 2)}: has {len(names)} columns and no header; expected the "
                "question, its choices and the letter of the answer, or a header with question, A, B, ..., answer"
            )
        letters = list(LETTERS.lower()[: len(names) - 2])
        columns = {"question": 0, **{one: i + 1 for i, one in enumerate(letters)}, "answer": len(names) - 1}
    upper = [one.upper() for one in letters]
    for row in records if headed else _with(first, records):
        cell = _cells(name, row, columns, len(names))

        def read(row: Row = row, cell: dict[str, str] = cell) -> _Entry:
            choices = tuple(cell[one] for one in letters)
            return _Entry(
                row.line,
                cell["question"],
                choices,
                _right(f'line {row.line}, column "answer"', cell["answer"], choices, letter_first=True),
                cell.get("id", ""),
                cell.get("subject", "") or cell.get("domain", ""),
                '"question"',
                tuple(f'"{one}"' for one in upper),
                '"id"' if cell.get("id") else '"question"',
            )

        yield read


def _with(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest


def _right(where: str, answer: str, choices: tuple[str, ...], *, letter_first: bool) -> int:
    """Index of the right choice: by its letter, its text, or its number from 0.

    letter_first: the form of the file says that it is a letter, so that a choice with the text "A" confuses nobody.
    """
    if not answer:
        raise _BadRow(f"{where}: the answer is empty; name the right choice")
    upper = answer.upper()
    by_letter = LETTERS.find(upper) if len(upper) == 1 and upper in LETTERS[: len(choices)] else None
    if letter_first and by_letter is not None:
        return by_letter
    found = {by_letter, choices.index(answer) if answer in choices else None} - {None}
    if not found and re.fullmatch(r"[0-9]{1,2}", answer) and int(answer) < len(choices):
        found = {int(answer)}
    if len(found) > 1:
        raise _BadRow(
            f'{where}: "{shown(answer)}" is a letter and the text of another choice; write the number, from 0'
        )
    if not found:
        raise _BadRow(
            f'{where}: "{shown(answer)}" is none of the choices; write a letter up to {LETTERS[len(choices) - 1]}'
        )
    (index,) = found
    assert index is not None
    return index


# --- JSON lines


def _jsonl(name: str, text: str) -> Iterator[Callable[[], _Entry]]:
    """Objects with question, choices, answer (number from 0, letter, or text), and if they like id and domain (or subject)."""
    # not splitlines(): JSON may hold U+2028 as it is
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except RecursionError:
            raise RequestError(f"{name}: line {number}: is nested too deeply; expected one flat object") from None
        except ValueError as error:
            column = getattr(error, "colno", 1)
            raise RequestError(
                f"{name}: line {number}, column {column}: is not JSON; expected one object a line"
            ) from None
        if not isinstance(entry, dict):
            raise RequestError(f"{name}: line {number}, column 1: is no object; expected one object a line")
        yield _json_reader(name, number, entry)


def _json_reader(name: str, number: int, entry: dict[str, Any]) -> Callable[[], _Entry]:
    def field_of(key: str, kinds: type | tuple[type, ...], what: str, *, needed: bool = True) -> Any:
        value = entry.get(key)
        if value is None and not needed:
            return ""
        if isinstance(value, bool) or not isinstance(value, kinds):
            there = "is missing" if value is None else "is not"
            raise RequestError(
                f'{name}: line {number}, column "{key}": {there}{"" if value is None else " " + what}; give {what}'
            )
        return value

    def read() -> _Entry:
        stem = field_of("question", str, "the text of the question")
        choices = field_of("choices", list, "a list of texts")
        for one in choices:
            if not isinstance(one, str):
                raise RequestError(f'{name}: line {number}, column "choices": is not a list of texts; give texts')
        texts = tuple(one.strip() for one in choices)
        answer = field_of("answer", (int, str), "a letter, a text or a number from 0")
        where = f'line {number}, column "answer"'
        if isinstance(answer, int):
            if not 0 <= answer < len(texts):
                raise _BadRow(f"{where}: {shown(str(answer))} is the number of no choice; they count from 0")
            right = answer
        else:
            right = _right(where, answer.strip(), texts, letter_first=False)
        identity = field_of("id", (str, int), "a text or a number", needed=False)
        domain = field_of("domain", str, "a text", needed=False) or field_of("subject", str, "a text", needed=False)
        return _Entry(
            number,
            stem.strip(),
            texts,
            right,
            str(identity).strip(),
            domain.strip(),
            '"question"',
            tuple(f'"choices" ({i + 1})' for i in range(len(texts))) or ('"choices"',),
            '"id"' if identity != "" else '"question"',
        )

    return read


READERS: dict[Kind, Callable[[str, str], Iterator[Callable[[], _Entry]]]] = {
    "gpqa": _gpqa,
    "mmlu": _mmlu,
    "jsonl": _jsonl,
}


def described(data: DataSet) -> str:
    """A line for people."""
    left_out = f", {len(data.skipped)} left out" if data.skipped else ""
    return f"{escape_line(data.file)}: {len(data.items)} questions{left_out}"
