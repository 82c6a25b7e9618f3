"""Reads the records of a CSV file, each with the line it begins in."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RequestError
from ...files.input_file import shown
from ...protocols.question import LETTERS
from .entry import BadRow
from .fields import Fields, find_fields, plain

SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r"sep=(.)(?=\r?\n)", re.IGNORECASE)
FIRST_CHARACTERS = 1 << 20  # in which the first record is looked for
ANSWER = re.compile(r"[(\[]?([A-Z]|[0-9]{1,2})[)\].]?")


@dataclass(frozen=True)
class Row:
    """line: where the record begins, from 1; cells may hold line ends, so records are not lines."""

    line: int
    cells: tuple[str, ...]


def read_rows(name: str, text: str) -> Iterator[Row]:
    """Yields the records of CSV text in the format of RFC 4180, blank ones left out.

    Cells stand between commas, or between semicolons, tabs or bars when the first line can only be read that way.
    name: of the file, for errors.
    """
    if match := SEPARATOR_LINE.match(text):  # Excel's own; the line stays, so that the others are counted right
        text, separator = text[match.end() :], match[1]
    else:
        separator = _find_separator(text)
    reader = _reader(text, separator)
    begin = 1
    try:
        for cells in reader:
            if any(cells):  # a spreadsheet ends in lines of nothing but commas
                yield Row(begin, tuple(cells))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise RequestError(f"{name}: line {begin}: {_explain(error)}") from None


def is_header(cells: Sequence[str]) -> bool:
    """Whether a first line holds the names of columns."""
    return isinstance(find_fields(cells), Fields) or any(plain(cell) == "question" for cell in cells)


def looks_like_question(cells: Sequence[str]) -> bool:
    """Whether a line can be a question, its choices and the answer."""
    choices = [cell.strip() for cell in cells[1:-1]]
    if not 2 <= len(choices) <= len(LETTERS):
        return False
    match = ANSWER.fullmatch(cells[-1].strip().upper())
    by_name = match is not None and match[1] in (*LETTERS[: len(choices)], *map(str, range(len(choices))))
    return by_name or cells[-1].strip() in choices


def _find_separator(text: str) -> str:
    most, best = 1, SEPARATORS[0]
    for separator in SEPARATORS:
        with contextlib.suppress(csv.Error):
            first: list[str] = next((cells for cells in _reader(text[:FIRST_CHARACTERS], separator) if any(cells)), [])
            if (is_header(first) and len(first) > 1) or looks_like_question(first):
                return separator
            if best == SEPARATORS[0] and len(first) > most:
                most, best = len(first), separator
    return best


def _reader(text: str, separator: str) -> Any:
    # newline="\n": line ends inside quotes stay what they are, and lines are those that an editor counts
    return csv.reader(io.StringIO(text, newline="\n"), strict=True, delimiter=separator)


def check_duplicates(name: str, header: Row, read: Iterable[str]) -> None:
    """Refuses a header with two columns of a name that is read. Case, spaces and punctuation make no other name."""
    names = {plain(column) for column in read}
    seen: set[str] = set()
    for column in map(str.strip, header.cells):
        if plain(column) in seen & names:
            found = shown(column.lower())
            raise RequestError(f'{name}: line {header.line}, column "{found}": is a duplicate; remove one')
        seen.add(plain(column))


def find_columns(name: str, header: Row, read: Iterable[str]) -> dict[str, int]:
    """Finds the place of each column. Only columns that are never read may be duplicates."""
    columns: dict[str, int] = {}
    for i, cell in enumerate(header.cells):
        column = cell.strip()
        if column in columns and column in read:
            raise RequestError(f'{name}: line {header.line}, column "{shown(column)}": is a duplicate; remove one')
        columns.setdefault(column, i)
    return columns


def cells_by_column(
    row: Row, columns: dict[str, int], expected: int, *, first: str = "header"
) -> dict[str, str] | BadRow:
    """Returns the cells of a record by column, without outer white space.

    expected: how many there must be, by what `first` names.
    """
    remedy = "a comma in a cell needs quotes around the cell"
    if len(row.cells) < expected:
        missing = next((column for column, i in columns.items() if i >= len(row.cells)), "")
        what = f"is missing: the line has {len(row.cells)} columns, the {first} {expected}"
        return BadRow(row.line, f'"{shown(missing)}"', what, remedy)
    if len(row.cells) > expected:
        what = f"is one too many: the line has {len(row.cells)} columns, the {first} {expected}"
        return BadRow(row.line, str(expected + 1), what, remedy)
    return {column: row.cells[i].strip() for column, i in columns.items()}


def _explain(error: csv.Error) -> str:
    message = str(error)
    if "unexpected end of data" in message:
        return "a quote is opened and never closed; close it, and write a quote inside a cell twice"
    if "expected after" in message:
        return "a quoted cell continues after its closing quote; write a quote inside a cell twice"
    if "field larger" in message:
        return f"a cell has more than {csv.field_size_limit()} characters; a quote may be open before it"
    return f"is not CSV ({message}); save it again with a program that writes CSV"
