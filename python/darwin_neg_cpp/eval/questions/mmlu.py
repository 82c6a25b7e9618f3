"""The format of MMLU: CSV with a question, its choices and the letter of the right one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from ...errors import RequestError
from ...protocols.question import LETTERS
from .csv_rows import Row, cells_by_column, find_columns, read_rows
from .entry import BadRow, Entry, find_right

NAMES = ("question", "answer", "subject", "domain", "id")
LOWER = LETTERS.lower()


def read(name: str, text: str) -> Iterator[Entry | BadRow]:
    """With a header, columns may stand in any order, and subject (or domain) and id are read too.

    name: of the file, for errors. Errors: RequestError, when the file as a whole cannot be used.
    """
    rows = read_rows(name, text)
    first = next(rows, None)
    if first is None:
        raise RequestError(f"{name}: is empty; download it again")
    names = [cell.strip().lower() for cell in first.cells]
    if "question" in names:
        columns, counted = _columns_of_header(name, Row(first.line, tuple(names))), "header"
    else:
        columns, counted = _columns_by_place(name, first), "first line"
        rows = chain([first], rows)
    letters = [letter for letter in LOWER if letter in columns]
    for row in rows:
        cells = cells_by_column(row, columns, len(names), first=counted)
        yield cells if isinstance(cells, BadRow) else _read_row(row, cells, letters)


def _read_row(row: Row, cells: dict[str, str], letters: list[str]) -> Entry | BadRow:
    choices = tuple(cells[letter] for letter in letters)
    right = find_right(row.line, '"answer"', cells["answer"], choices, letter_first=True)
    if isinstance(right, BadRow):
        return right
    return Entry(
        line=row.line,
        stem=cells["question"],
        choices=choices,
        right=right,
        id=cells.get("id", ""),
        domain=cells.get("subject", "") or cells.get("domain", ""),
        stem_column='"question"',
        choice_columns=tuple(f'"{letter.upper()}"' for letter in letters),
        id_column='"id"' if cells.get("id") else '"question"',
    )


def _columns_of_header(name: str, header: Row) -> dict[str, int]:
    columns = find_columns(name, header, (*NAMES, *LOWER))
    letters = [letter for letter in LOWER if letter in columns]
    if "answer" not in columns:
        raise RequestError(f'{name}: line {header.line}: the column "answer" is missing; it names the right choice')
    if letters != list(LOWER[: len(letters)]) or len(letters) < 2:
        missing = next(letter for letter in LOWER if letter not in columns)
        raise RequestError(
            f'{name}: line {header.line}: the column "{missing.upper()}" is missing; the choices stand in A, B '
            "and so on"
        )
    return columns


def _columns_by_place(name: str, first: Row) -> dict[str, int]:
    n = len(first.cells)
    if not 4 <= n <= len(LETTERS) + 2:
        raise RequestError(
            f"{name}: line {first.line}, column {min(n, len(LETTERS) + 2)}: has {n} columns and no header; expected "
            "the question, its choices and the letter of the answer, or a header with question, A, B, ..., answer"
        )
    return {"question": 0, **{letter: i + 1 for i, letter in enumerate(LOWER[: n - 2])}, "answer": n - 1}
