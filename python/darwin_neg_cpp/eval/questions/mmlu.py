"""Tables: the format of MMLU, a question, its choices and the letter of the right one, and others with a header."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from ...errors import RequestError
from ...protocols.question import LETTERS
from .csv_rows import Row, cells_by_column, check_duplicates, is_header, looks_like_question, read_rows
from .entry import BadRow, Entry
from .fields import Fields, Missing, find_fields, plain, show_found
from .records import read_row


def read(name: str, text: str) -> Iterator[Entry | BadRow]:
    """Reads a table. With a header, columns may stand in any order, and there may be others.

    name: of the file, for errors. Errors: RequestError, when the file as a whole cannot be used.
    """
    rows = read_rows(name, text)
    first = next(rows, None)
    if first is None:
        raise RequestError(f"{name}: is empty; download it again")
    if is_header(first.cells) or (not looks_like_question(first.cells) and _has_names(first)):
        counted, columns = "header", {cell.strip(): i for i, cell in reversed(list(enumerate(first.cells)))}
        fields = _fields_of_header(name, first)
    else:
        counted, columns = "first line", _columns_by_place(name, first)
        fields = Fields("question", columns=tuple(columns)[1:-1], letters=True, answers=("answer",))
        rows = chain([first], rows)
    in_order = dict(sorted(columns.items(), key=lambda column: column[1]))
    for row in rows:
        cells = cells_by_column(row, in_order, len(first.cells), first=counted)
        yield cells if isinstance(cells, BadRow) else read_row(row.line, cells, fields)


def _has_names(first: Row) -> bool:
    """Whether a first line that is not a question has names of columns in it."""
    names = {plain(cell) for cell in first.cells}
    return len(names & {"answer", "answerkey", "label", "choices", "options", "a", "b"}) > 1


def _fields_of_header(name: str, header: Row) -> Fields:
    fields = find_fields([cell.strip() for cell in header.cells], subject_first=True)
    if isinstance(fields, Missing):
        check_duplicates(name, header, [cell for cell in header.cells if plain(cell) == "question"])
        raise RequestError(
            f'{name}: line {header.line}: the column "{fields.key}" is missing; it holds {fields.what}; found: '
            f"{show_found(header.cells)}"
        )
    check_duplicates(name, header, fields.used())
    return fields


def _columns_by_place(name: str, first: Row) -> dict[str, int]:
    n = len(first.cells)
    if not 4 <= n <= len(LETTERS) + 2:
        raise RequestError(
            f"{name}: line {first.line}, column {min(n, len(LETTERS) + 2)}: has {n} columns and no header; expected "
            "the question, its choices and the letter of the answer, or a header with question, A, B, ..., answer"
        )
    return {"question": 0, **{letter: i + 1 for i, letter in enumerate(LETTERS[: n - 2])}, "answer": n - 1}
