"""The official format of GPQA: CSV with one column for the right answer and three for wrong ones."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import RequestError
from .csv_rows import cells_by_column, find_columns, read_rows
from .entry import BadRow, Entry

QUESTION = "Question"
CHOICES = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
ID = "Record ID"
DOMAINS = ("High-level domain", "Subdomain")  # the first one that the file has


def read(name: str, text: str) -> Iterator[Entry | BadRow]:
    """name: of the file, for errors. Errors: RequestError, when the file as a whole cannot be used."""
    rows = read_rows(name, text)
    header = next(rows, None)
    if header is None:
        raise RequestError(f"{name}: is empty; download it again")
    columns = find_columns(name, header, (QUESTION, *CHOICES, ID, *DOMAINS))
    for column in (QUESTION, *CHOICES):
        if column not in columns:
            raise RequestError(
                f'{name}: line {header.line}: the column "{column}" is missing; '
                f"GPQA files have {', '.join((QUESTION, *CHOICES))}"
            )
    domain = next((column for column in DOMAINS if column in columns), "")
    for row in rows:
        cells = cells_by_column(row, columns, len(header.cells))
        if isinstance(cells, BadRow):
            yield cells
            continue
        yield Entry(
            line=row.line,
            stem=cells[QUESTION],
            choices=tuple(cells[column] for column in CHOICES),
            right=0,
            id=cells.get(ID, ""),
            domain=cells.get(domain, ""),
            stem_column=f'"{QUESTION}"',
            choice_columns=tuple(f'"{column}"' for column in CHOICES),
            id_column=f'"{ID if cells.get(ID) else QUESTION}"',
        )
