"""Reads the records of a CSV file, each with the line it begins in."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...errors import RequestError
from ...files.input_file import shown
from .entry import BadRow


@dataclass(frozen=True)
class Row:
    """line: where the record begins, from 1; cells may hold line ends, so records are not lines."""

    line: int
    cells: tuple[str, ...]


def read_rows(name: str, text: str) -> Iterator[Row]:
    """Yields the records of CSV text in the format of RFC 4180, blank ones left out. name: of the file, for errors."""
    # newline="\n": line ends inside quotes stay what they are, and lines are those that an editor counts
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True)
    begin = 1
    try:
        for cells in reader:
            if any(cells):  # a spreadsheet ends in lines of nothing but commas
                yield Row(begin, tuple(cells))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise RequestError(f"{name}: line {begin}: {_explain(error)}") from None


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
